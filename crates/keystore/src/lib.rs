//! Setup data and verification keys in a folder: generated once, checked at every load.
//!
//! A [`Keystore`] is one key set in one folder. A [`Manifest`] names each key with its BLAKE3 digest and size. A set
//! that ships with the program has its manifest in git (`keys/manifest.toml`), and what is generated must be what
//! it says; for any other set the folder's own `manifest.toml` is written as keys are stored.
//!
//! **Invariant:** [`Keystore::load`] returns bytes that the manifest names, or an error. A wrong, truncated or
//! foreign file is never handed out and never overwritten silently.
//!
//! Not for: secrets. Setup data and verification keys are public.

use outside::{ReadError, read_limited, read_text_limited};
use private_folder::{Access, FolderError};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
};
use thiserror::Error;

/// Name of the manifest within a key folder.
const MANIFEST_FILE: &str = "manifest.toml";
/// Largest manifest: a key takes about a hundred bytes of it.
const MANIFEST_BYTES_MAX: u64 = 1 << 20;
/// Name of the file whose lock serialises key generation between processes.
const LOCK_FILE: &str = ".lock";

/// Why a key was not handed out or not stored.
#[derive(Debug, Error)]
pub enum KeystoreError {
    /// The file is not the key that the manifest names: delete it and it is generated again.
    #[error(
        "key file {path} is not the key that {manifest} names ({found}, expected {expected}): \
         delete it and run again to generate it anew"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the expectation stands.
        manifest: String,
        /// What was found.
        found: String,
        /// What should have been.
        expected: String,
    },
    /// A key that was generated is not the one that ships: this build makes other circuits.
    #[error(
        "generating key {name} gave {found}, but {manifest} names {expected}: this build does not make the \
         circuits that it ships keys for"
    )]
    NotReproduced {
        /// The key.
        name: String,
        /// Where the expectation stands.
        manifest: String,
        /// What was generated.
        found: String,
        /// What should have been.
        expected: String,
    },
    /// A manifest that cannot be read.
    #[error("key manifest {place} is not valid: {reason}")]
    BadManifest {
        /// Where it stands.
        place: String,
        /// What is wrong.
        reason: String,
    },
    /// The folder cannot be made.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A file in the folder cannot be read or written.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// One key of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyEntry {
    /// BLAKE3 of the file, in hexadecimal.
    pub blake3: String,
    /// Its size.
    pub size_bytes: u64,
}

impl KeyEntry {
    fn of(bytes: &[u8]) -> Self {
        Self { blake3: blake3::hash(bytes).to_hex().to_string(), size_bytes: bytes.len() as u64 }
    }
}

impl std::fmt::Display for KeyEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} bytes", self.blake3, self.size_bytes)
    }
}

/// The keys of a set, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Manifest {
    /// The entries.
    pub keys: BTreeMap<String, KeyEntry>,
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// [`KeystoreError::BadManifest`] with the line that is wrong.
    pub fn parse(place: &str, text: &str) -> Result<Self, KeystoreError> {
        toml::from_str(text)
            .map_err(|e| KeystoreError::BadManifest { place: place.to_owned(), reason: e.to_string() })
    }

    /// Writes a manifest, as [`Manifest::parse`] reads it.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        for (name, entry) in &self.keys {
            text.push_str(&format!(
                "[{name}]\nblake3 = \"{}\"\nsize_bytes = {}\n\n",
                entry.blake3, entry.size_bytes
            ));
        }
        text.trim_end().to_owned() + "\n"
    }
}

/// One key set in one folder.
#[derive(Debug, Clone)]
pub struct Keystore {
    folder: PathBuf,
    shipped: Option<Manifest>,
}

/// Holds the right to generate keys in a folder; other processes wait for it.
#[derive(Debug)]
pub struct GenerationLock {
    _file: File,
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KeystoreError {
    let path = path.to_owned();
    move |source| KeystoreError::Io { action, path, source }
}

impl Keystore {
    /// A key set in `folder`, which is created at the first store. `shipped` is the manifest that comes with the
    /// program, if this set does.
    #[must_use]
    pub fn new(folder: PathBuf, shipped: Option<Manifest>) -> Self {
        Self { folder, shipped }
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Waits for, and takes, the right to generate keys here. It ends when the value is dropped or the process dies.
    ///
    /// # Errors
    /// [`KeystoreError::Io`] when the folder cannot be created or written.
    pub fn lock_generation(&self) -> Result<GenerationLock, KeystoreError> {
        private_folder::create_parents(&self.folder, Access::Owner)?;
        let path = self.folder.join(LOCK_FILE);
        // What a user has under this name stays as it is, and a link of it is not followed.
        let options = File::options().read(true).write(true).create(true).truncate(false).to_owned();
        let file = private_folder::open_itself(options, &path).map_err(io_error("create the lock", &path))?;
        file.lock().map_err(io_error("lock", &path))?;
        Ok(GenerationLock { _file: file })
    }

    /// A key's bytes; `None` when it was never stored.
    ///
    /// # Errors
    /// [`KeystoreError::Damaged`] when the file is not what the manifest names.
    pub fn load(&self, name: &str) -> Result<Option<Vec<u8>>, KeystoreError> {
        let path = self.path(name);
        let (manifest, place) = self.manifest()?;
        let expected = manifest.keys.get(name);
        let damaged = |found: String| KeystoreError::Damaged {
            path: path.clone(),
            manifest: place.clone(),
            found,
            expected: expected.map_or_else(|| "no such key".to_owned(), ToString::to_string),
        };
        // No more than the manifest names is read: whoever may write into the folder chooses what lies there.
        let bytes = match read_limited(&path, expected.map_or(0, |entry| entry.size_bytes)) {
            Ok(bytes) => bytes,
            Err(ReadError::Io(e)) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(ReadError::Io(e)) => return Err(io_error("read key file", &path)(e)),
            Err(e) => return Err(damaged(format!("another file: {e}"))),
        };
        let found = KeyEntry::of(&bytes);
        if expected == Some(&found) { Ok(Some(bytes)) } else { Err(damaged(found.to_string())) }
    }

    /// The keys that the manifest names.
    ///
    /// # Errors
    /// [`KeystoreError::BadManifest`] or [`KeystoreError::Io`].
    pub fn entries(&self) -> Result<BTreeMap<String, KeyEntry>, KeystoreError> {
        Ok(self.manifest()?.0.keys)
    }

    /// Whether a key was stored; does not look into it.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    /// Stores a generated key. The caller holds the [`GenerationLock`].
    ///
    /// # Errors
    /// [`KeystoreError::NotReproduced`] when a shipped manifest names another key; nothing is stored then.
    pub fn store(&self, name: &str, bytes: &[u8], _lock: &GenerationLock) -> Result<(), KeystoreError> {
        let entry = KeyEntry::of(bytes);
        if let Some(shipped) = &self.shipped {
            let expected = shipped.keys.get(name);
            if expected != Some(&entry) {
                return Err(KeystoreError::NotReproduced {
                    name: name.to_owned(),
                    manifest: "the manifest that ships with this program".to_owned(),
                    found: entry.to_string(),
                    expected: expected.map_or_else(|| "no such key".to_owned(), ToString::to_string),
                });
            }
        }
        // The entry first: one without a file is a key to generate, while a file without an entry is refused.
        if self.shipped.is_none() {
            let (mut manifest, _) = self.manifest()?;
            manifest.keys.insert(name.to_owned(), entry);
            self.write(&self.folder.join(MANIFEST_FILE), manifest.to_toml().as_bytes())?;
        }
        self.write(&self.path(name), bytes)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.key"))
    }

    fn manifest(&self) -> Result<(Manifest, String), KeystoreError> {
        if let Some(shipped) = &self.shipped {
            return Ok((shipped.clone(), "the manifest that ships with this program".to_owned()));
        }
        let path = self.folder.join(MANIFEST_FILE);
        let place = path.display().to_string();
        match read_text_limited(&path, MANIFEST_BYTES_MAX) {
            Ok(text) => Ok((Manifest::parse(&place, &text)?, place)),
            Err(ReadError::Io(e)) if e.kind() == io::ErrorKind::NotFound => Ok((Manifest::default(), place)),
            Err(ReadError::Io(e)) => Err(io_error("read the key manifest", &path)(e)),
            Err(e) => Err(KeystoreError::BadManifest { place, reason: e.to_string() }),
        }
    }

    /// Writes a whole file or none: under a temporary name first, synced, then renamed.
    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), KeystoreError> {
        let write = || -> io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
            file.write_all(bytes)?;
            file.as_file().sync_all()?;
            file.persist(path).map_err(|e| e.error)?;
            Ok(())
        };
        write().map_err(io_error("write key file", path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn store(folder: &Path, shipped: Option<Manifest>) -> Keystore {
        Keystore::new(folder.to_owned(), shipped)
    }

    #[test]
    fn a_stored_key_loads_and_a_changed_or_cut_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let keys = store(dir.path(), None);
        assert!(keys.load("leaf").unwrap().is_none());
        keys.store("leaf", b"the key", &keys.lock_generation().unwrap()).unwrap();
        assert_eq!(keys.load("leaf").unwrap().unwrap(), b"the key");

        for wrong in [b"the kez".as_slice(), b"the k", b"", b"another key altogether"] {
            fs::write(dir.path().join("leaf.key"), wrong).unwrap();
            let error = keys.load("leaf").unwrap_err();
            assert!(matches!(error, KeystoreError::Damaged { .. }), "{error}");
            assert!(error.to_string().contains("leaf.key") && error.to_string().contains("delete it"));
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_key_without_end_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let keys = store(dir.path(), None);
        keys.store("leaf", b"the key", &keys.lock_generation().unwrap()).unwrap();
        fs::remove_file(dir.path().join("leaf.key")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", dir.path().join("leaf.key")).unwrap();
        let error = keys.load("leaf").unwrap_err();
        assert!(matches!(error, KeystoreError::Damaged { .. }), "{error}");
    }

    #[test]
    fn a_file_that_no_manifest_names_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("tip.key"), b"planted").unwrap();
        assert!(store(dir.path(), None).load("tip").is_err());
        assert!(store(dir.path(), Some(Manifest::default())).load("tip").is_err());
    }

    #[test]
    fn a_shipped_set_takes_only_the_keys_that_it_names() {
        let dir = tempfile::tempdir().unwrap();
        let mut manifest = Manifest::default();
        manifest.keys.insert("leaf".to_owned(), KeyEntry::of(b"the key"));
        let read = Manifest::parse("test", &manifest.to_toml()).unwrap();
        assert_eq!(read, manifest);
        let keys = store(dir.path(), Some(manifest));
        let lock = keys.lock_generation().unwrap();
        assert!(matches!(keys.store("leaf", b"other", &lock), Err(KeystoreError::NotReproduced { .. })));
        assert!(!keys.has("leaf"));
        keys.store("leaf", b"the key", &lock).unwrap();
        assert!(keys.load("leaf").unwrap().is_some());
    }

    #[test]
    fn what_a_user_has_in_the_key_folder_stays() {
        use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let (lock, target) = (dir.path().join(LOCK_FILE), dir.path().join("target"));
        fs::write(&lock, "precious").unwrap();
        let keys = store(dir.path(), None);
        keys.store("leaf", b"the key", &keys.lock_generation().unwrap()).unwrap();
        assert_eq!(fs::read_to_string(&lock).unwrap(), "precious");
        assert_eq!(fs::metadata(dir.path()).unwrap().mode() & 0o777, 0o755);
        assert_eq!(fs::metadata(dir.path().join("leaf.key")).unwrap().mode() & 0o777, 0o600);
        // A link that somebody planted is not followed.
        fs::rename(&lock, &target).unwrap();
        symlink(&target, &lock).unwrap();
        assert!(keys.lock_generation().is_err());
        assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
    }

    #[test]
    fn a_broken_manifest_is_an_error_with_its_place() {
        let error = Manifest::parse("keys/manifest.toml", "[leaf]\nblake3 = 7").unwrap_err().to_string();
        assert!(error.contains("keys/manifest.toml") && error.contains("line 2"), "{error}");
    }
}
