//! Folders that a user names for results and artifacts: used as they are, whoever made them.

use crate::{
    Access, FolderError, Marked, PathBuf, canonical, create_parents, failed, here, mark, mark_of, not_ours,
    open_file, open_folder,
};
use std::{
    fs::{self, File},
    io::{Read, Write},
    path::Path,
};

/// Marks a folder as the program's, which is created with mode 0700 where it is not yet, or is empty. Its mode and owner stay as they are.
///
/// # Errors
/// [`FolderError::NotOurs`] when it has no mark and something else is in it; nothing is changed then.
pub fn claim(folder: &Path) -> Result<(), FolderError> {
    if try_to_claim(folder)? { Ok(()) } else { Err(not_ours(folder, "other things are in it")) }
}

fn try_to_claim(folder: &Path) -> Result<bool, FolderError> {
    create_parents(folder, Access::Owner)?;
    // The folder may be a link: the user named it.
    let path = canonical(folder)?;
    let descriptor = open_folder(here(), &path, &path)?;
    Ok(match mark_of(&descriptor).map_err(failed("look into", &path))? {
        Marked::Yes => true,
        Marked::Unfinished => mark(&descriptor, &path).map(|()| true)?,
        Marked::No => false,
    })
}

/// A folder for results. In one that has the program's mark, or was empty, they replace what is there; in another one they are
/// only added.
#[derive(Debug)]
pub struct OutputFolder {
    path: PathBuf,
    is_ours: bool,
}

impl OutputFolder {
    /// Opens it; it is created with mode 0700 where it is not yet.
    ///
    /// # Errors
    /// [`FolderError::Io`].
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        let is_ours = try_to_claim(path)?;
        Ok(Self { path: path.to_owned(), is_ours })
    }

    /// Whether a file of this name would not be written, unless it is the same that is there; changes nothing.
    #[must_use]
    pub fn is_taken(folder: &Path, name: &str) -> bool {
        let is_ours = || {
            let path = canonical(folder).ok()?;
            Some(mark_of(open_folder(here(), &path, &path).ok()?).ok()? == Marked::Yes)
        };
        fs::symlink_metadata(folder.join(name)).is_ok() && is_ours() != Some(true)
    }

    /// Writes a whole file or none, with mode 0600. A link of this name is replaced, and never followed.
    ///
    /// # Errors
    /// [`FolderError::NotOurs`] when another file has the name, which stays.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<(), FolderError> {
        let path = self.path.join(name);
        let write = || {
            let mut file = tempfile::NamedTempFile::new_in(&self.path)?;
            file.write_all(content)?;
            file.as_file().sync_all()?;
            Ok::<_, std::io::Error>(file)
        };
        let file = write().map_err(failed("write", &path))?;
        if self.is_ours {
            return file.persist(&path).map(drop).map_err(|e| failed("write", &path)(e.error));
        }
        match file.persist_noclobber(&path) {
            Ok(_) => Ok(()),
            Err(e) if e.error.kind() == std::io::ErrorKind::AlreadyExists => self.is_same(name, content),
            Err(e) => Err(failed("write", &path)(e.error)),
        }
    }

    fn is_same(&self, name: &str, content: &[u8]) -> Result<(), FolderError> {
        let path = self.path.join(name);
        let folder = File::open(&self.path).map_err(failed("open", &self.path))?;
        let mut found = Vec::new();
        let most = content.len() as u64 + 1;
        let read = open_file(&folder, name).map(|file| file.take(most).read_to_end(&mut found));
        if matches!(read, Some(Ok(_))) && found == content {
            Ok(())
        } else {
            Err(not_ours(&path, "its content is another"))
        }
    }
}

#[cfg(test)]
#[path = "outputs_tests.rs"]
mod tests;
