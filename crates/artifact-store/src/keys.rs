//! Files of key sets, which all machines of a version need: named by what is in them, and moved in parts.

use crate::remote::read_stream;
use crate::{ArtifactError, ArtifactStore};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{GetOptions, ObjectStore, ObjectStoreExt, WriteMultipart, path::Path};

/// Of one transfer: no single request carries more, so that none outlasts its time on a slow line.
const PART_BYTES: u64 = 8 << 20;
/// Parts of a file that are on their way at a time.
const PARTS_AT_A_TIME: usize = 4;

/// Hears how many more bytes have been moved.
pub type Moved<'a> = &'a (dyn Fn(u64) + Sync);

fn path_of(blake3: &str) -> Path {
    Path::from(format!("keys/{blake3}"))
}

impl ArtifactStore {
    /// Writes a key file under its digest, unless one of its size is there; says whether it was written.
    ///
    /// # Errors
    /// [`ArtifactError::Unavailable`].
    pub async fn put_key(
        &self,
        blake3: &str,
        bytes: Vec<u8>,
        moved: Moved<'_>,
    ) -> Result<bool, ArtifactError> {
        let path = path_of(blake3);
        let failed = |e: object_store::Error| self.unavailable("write", path.as_ref(), &e.to_string());
        match self.store.head(&path).await {
            // One that was left half written by other means is written again.
            Ok(found) if found.size == bytes.len() as u64 => return Ok(false),
            Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
            Err(e) => return Err(failed(e)),
        }
        let upload = self.store.put_multipart(&path).await.map_err(failed)?;
        let part = usize::try_from(PART_BYTES).unwrap_or(usize::MAX);
        let mut upload = WriteMultipart::new_with_chunk_size(upload, part);
        let mut rest = Bytes::from(bytes);
        while !rest.is_empty() {
            let next = rest.split_to(part.min(rest.len()));
            upload.wait_for_capacity(PARTS_AT_A_TIME).await.map_err(failed)?;
            moved(next.len() as u64);
            upload.put(next);
        }
        upload.finish().await.map_err(failed)?;
        Ok(true)
    }

    /// Reads the key file of a digest; `None` when it is not there.
    ///
    /// # Errors
    /// [`ArtifactError::Corrupt`] when what is there is not that file, [`ArtifactError::Unavailable`].
    pub async fn get_key(
        &self,
        blake3: &str,
        size_bytes: u64,
        moved: Moved<'_>,
    ) -> Result<Option<Vec<u8>>, ArtifactError> {
        let path = path_of(blake3);
        let failed = |e: object_store::Error| self.unavailable("read", path.as_ref(), &e.to_string());
        let corrupt = |reason: String| ArtifactError::Corrupt {
            key: path.to_string(),
            store: self.name.clone(),
            reason,
        };
        let found = match self.store.head(&path).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(e) => return Err(failed(e)),
        };
        if found.size != size_bytes {
            return Err(corrupt(format!("it has {} bytes, not {size_bytes}", found.size)));
        }
        let parts = (0..size_bytes).step_by(usize::try_from(PART_BYTES).unwrap_or(usize::MAX));
        let get = |begin: u64| {
            let range = begin..size_bytes.min(begin + PART_BYTES);
            let (store, path) = (&self.store, &path);
            async move {
                let expected = range.end - range.start;
                let options = GetOptions::new().with_range(Some(range));
                // A server that sends more than it is asked for is not read on.
                let part = read_stream(store.get_opts(path, options).await?.into_stream(), expected).await?;
                Ok::<_, object_store::Error>((part.unwrap_or_default(), expected))
            }
        };
        let mut parts = stream::iter(parts.map(get)).buffered(PARTS_AT_A_TIME);
        let mut bytes = Vec::new();
        while let Some((part, expected)) = parts.try_next().await.map_err(failed)? {
            if part.len() as u64 != expected {
                return Err(corrupt(format!(
                    "a part of it has not the {expected} bytes that were asked for"
                )));
            }
            moved(expected);
            bytes.extend_from_slice(&part);
        }
        if blake3::hash(&bytes).to_hex().as_str() != blake3 {
            return Err(corrupt("its digest is not its name".to_owned()));
        }
        Ok(Some(bytes))
    }
}
