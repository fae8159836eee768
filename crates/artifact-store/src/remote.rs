//! Stores and objects that a URL names, elsewhere than on this machine.

use crate::{ArtifactError, options};
use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use object_store::{GetOptions, ObjectStore, parse_url_opts, path::Path};
use outside::{shown, without_secrets};
use url::Url;

/// A URL names no store; `reason` is a library's or ours.
pub(crate) fn bad_url(url: &str, reason: &str) -> ArtifactError {
    ArtifactError::BadUrl { url: shown(url), reason: without_secrets(reason, url) }
}

/// Refuses user and password in an object store's URL: the libraries leave them out without a word, and messages, process lists and
/// configuration files show them. Azure's `abfs://CONTAINER@ACCOUNT…` has a container there.
pub(crate) fn check_no_credentials(url: &Url) -> Result<(), String> {
    let is_container = matches!(url.scheme(), "az" | "abfs" | "abfss") && url.password().is_none();
    if is_container || (url.username().is_empty() && url.password().is_none()) {
        return Ok(());
    }
    Err("credentials do not belong into the URL: set them in the environment, such as AWS_ACCESS_KEY_ID and \
         AWS_SECRET_ACCESS_KEY"
        .to_owned())
}

/// The store of a URL, and the path in it, with what [`crate::VARIABLES`] say.
pub(crate) fn store_of(url: &Url) -> Result<(Box<dyn ObjectStore>, Path), String> {
    // Whoever names http means it.
    let plain = (url.scheme() == "http").then(|| ("allow_http", "true".to_owned()));
    parse_url_opts(url, options::from_environment()?.into_iter().chain(plain)).map_err(|e| e.to_string())
}

/// All bytes of a stream, or `None` when there are more than `most`: what the server said of the size is not asked.
pub(crate) async fn read_stream<S>(stream: S, most: u64) -> Result<Option<Vec<u8>>, object_store::Error>
where
    S: Stream<Item = Result<Bytes, object_store::Error>>,
{
    let mut bytes: Vec<u8> = Vec::new();
    let mut stream = std::pin::pin!(stream);
    while let Some(chunk) = stream.try_next().await? {
        if (bytes.len() + chunk.len()) as u64 > most {
            return Ok(None);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Some(bytes))
}

/// The bytes of an object that is no artifact, a user's input, by its URL: file:, http:, https:, s3:, gs: or az:.
///
/// # Errors
/// [`ArtifactError::BadUrl`], [`ArtifactError::Missing`], [`ArtifactError::Corrupt`] for one that is larger than allowed, and
/// [`ArtifactError::Unavailable`]. None shows more of the URL than [`outside::shown`] does.
pub async fn fetch(url: &str, bytes_max: u64) -> Result<Vec<u8>, ArtifactError> {
    let bad = |reason: String| bad_url(url, &reason);
    let parsed = Url::parse(url).map_err(|e| bad(e.to_string()))?;
    let is_web = matches!(parsed.scheme(), "http" | "https");
    if parsed.scheme() == "file" {
        let path = parsed.to_file_path().map_err(|()| bad("it names no file of this machine".to_owned()))?;
        return read_file(path, url, bytes_max).await;
    }
    if !is_web {
        check_no_credentials(&parsed).map_err(bad)?;
    }
    let (store, path) = store_of(&parsed).map_err(bad)?;
    let host = format!("{}://{}", parsed.scheme(), parsed.host_str().unwrap_or_default());
    let failed = |e: object_store::Error| match e {
        object_store::Error::NotFound { .. } => {
            ArtifactError::Missing { key: path.to_string(), store: host.clone() }
        }
        e => ArtifactError::Unavailable {
            action: "read",
            key: path.to_string(),
            store: host.clone(),
            reason: without_secrets(&e.to_string(), url),
        },
    };
    let corrupt =
        |reason: String| ArtifactError::Corrupt { key: path.to_string(), store: host.clone(), reason };
    let found = store.get_opts(&path, GetOptions::default()).await.map_err(failed)?;
    if found.meta.size > bytes_max {
        return Err(corrupt(format!("it has {} bytes; {bytes_max} are allowed", found.meta.size)));
    }
    let bytes = read_stream(found.into_stream(), bytes_max).await.map_err(failed)?;
    bytes.ok_or_else(|| {
        corrupt(format!("it has more than {bytes_max} bytes, which is the most that is allowed"))
    })
}

/// A file: URL names what any path names: a device or a pipe too.
async fn read_file(path: std::path::PathBuf, url: &str, bytes_max: u64) -> Result<Vec<u8>, ArtifactError> {
    let key = path.display().to_string();
    let read = tokio::task::spawn_blocking(move || outside::read_limited(&path, bytes_max)).await;
    let store = "this machine".to_owned();
    match read.map_err(|e| bad_url(url, &e.to_string()))? {
        Ok(bytes) => Ok(bytes),
        Err(outside::ReadError::Io(e)) if e.kind() == std::io::ErrorKind::NotFound => {
            Err(ArtifactError::Missing { key, store })
        }
        Err(outside::ReadError::Io(e)) => {
            Err(ArtifactError::Unavailable { action: "read", key, store, reason: e.to_string() })
        }
        Err(e) => Err(ArtifactError::Corrupt { key, store, reason: e.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use futures::stream;

    #[tokio::test]
    async fn a_stream_is_read_up_to_its_bound_whatever_its_size_was_said_to_be() {
        let endless = stream::iter(std::iter::repeat_with(|| Ok(Bytes::from_static(&[0; 1000]))));
        assert_eq!(read_stream(endless, 10_000).await.unwrap(), None);
        let whole = stream::iter([Ok(Bytes::from_static(b"ab")), Ok(Bytes::from_static(b"c"))]);
        assert_eq!(read_stream(whole, 3).await.unwrap().unwrap(), b"abc");
    }

    #[tokio::test]
    async fn a_file_url_is_bounded_too() {
        let error = fetch("file:///dev/zero", 1000).await.unwrap_err();
        assert!(matches!(&error, ArtifactError::Corrupt { .. }), "{error}");
        let error = fetch("file:///nowhere/at/all", 1000).await.unwrap_err();
        assert!(matches!(&error, ArtifactError::Missing { .. }), "{error}");
    }
}
