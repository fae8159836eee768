//! Folders that a user names for results and artifacts: used as they are, whoever made them.

use crate::{
    Access, FolderError, MARK_TEXT, Marked, PathBuf, canonical, create_parents, failed, here, mark, mark_of,
    not_ours, open_file, open_folder,
};
use rustix::fs::{AtFlags, Mode, OFlags, fstat, linkat, openat, renameat, unlinkat};
use rustix::io::Errno;
use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::fd::OwnedFd,
    path::Path,
};
use uuid::Uuid;

/// Marks a folder as the program's, which is created with mode 0700 where it is not yet, or is empty. Its mode and owner stay as they are.
///
/// # Errors
/// [`FolderError::NotOurs`] when it has no mark and something else is in it; nothing is changed then.
pub fn claim(folder: &Path) -> Result<(), FolderError> {
    if try_to_claim(folder)?.0 { Ok(()) } else { Err(not_ours(folder, "other things are in it")) }
}

/// Whether the folder is the program's by now, and the folder itself.
fn try_to_claim(folder: &Path) -> Result<(bool, OwnedFd), FolderError> {
    create_parents(folder, Access::Owner)?;
    // The folder may be a link: the user named it.
    let path = canonical(folder)?;
    let descriptor = open_folder(here(), &path, &path)?;
    let is_ours = match mark_of(&descriptor, MARK_TEXT).map_err(failed("look into", &path))? {
        Marked::Yes => true,
        Marked::Unfinished => mark(&descriptor, MARK_TEXT, &path).map(|()| true)?,
        Marked::No => false,
    };
    Ok((is_ours, descriptor))
}

/// A folder for results. In one that has the program's mark, or was empty, they replace what is there; in another one they are
/// only added. So they are in one of another user, or that others may write to: whoever may put the mark there says nothing with it.
#[derive(Debug)]
pub struct OutputFolder {
    /// As the user named it.
    path: PathBuf,
    descriptor: OwnedFd,
    is_ours: bool,
}

impl OutputFolder {
    /// Opens it; it is created with mode 0700 where it is not yet.
    ///
    /// # Errors
    /// [`FolderError::Io`].
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        let (is_marked, descriptor) = try_to_claim(path)?;
        Ok(Self { path: path.to_owned(), is_ours: is_marked && is_of_this_user(&descriptor), descriptor })
    }

    /// Whether a file of this name would not be written, unless it is the same that is there; changes nothing.
    #[must_use]
    pub fn is_taken(folder: &Path, name: &str) -> bool {
        let is_ours = || {
            let path = canonical(folder).ok()?;
            let descriptor = open_folder(here(), &path, &path).ok()?;
            Some(mark_of(&descriptor, MARK_TEXT).ok()? == Marked::Yes && is_of_this_user(&descriptor))
        };
        fs::symlink_metadata(folder.join(name)).is_ok() && is_ours() != Some(true)
    }

    /// Writes a whole file or none, with mode 0600. A link of this name is replaced, and never followed.
    ///
    /// # Errors
    /// [`FolderError::NotOurs`] when another file has the name, which stays, or when another folder has this one's name by now.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<(), FolderError> {
        let path = self.path.join(name);
        let unnamed = format!(".{name}.{}", Uuid::new_v4());
        let written = self.write_unnamed(&unnamed, content).map_err(failed("write", &path));
        let named = written.and_then(|()| {
            let named = if self.is_ours {
                renameat(&self.descriptor, &unnamed, &self.descriptor, name)
            } else {
                linkat(&self.descriptor, &unnamed, &self.descriptor, name, AtFlags::empty())
            };
            match named {
                Err(Errno::EXIST) => self.check_is_same(name, content),
                named => named.map_err(failed("write", &path)),
            }
        });
        // Gone already where it was renamed.
        let _ = unlinkat(&self.descriptor, &unnamed, AtFlags::empty());
        named.and_then(|()| self.check_name())
    }

    fn write_unnamed(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(&self.descriptor, name, flags, Mode::RUSR | Mode::WUSR)?);
        file.write_all(content)?;
        file.sync_all()
    }

    fn check_is_same(&self, name: &str, content: &[u8]) -> Result<(), FolderError> {
        let mut found = Vec::new();
        let most = content.len() as u64 + 1;
        let read = open_file(&self.descriptor, name).map(|file| file.take(most).read_to_end(&mut found));
        if matches!(read, Some(Ok(_))) && found == content {
            Ok(())
        } else {
            Err(not_ours(&self.path.join(name), "its content is another"))
        }
    }

    /// That the user finds this folder under the name that he gave it.
    fn check_name(&self) -> Result<(), FolderError> {
        let path = canonical(&self.path)?;
        let there = open_folder(here(), &path, &path)?;
        let identity = |folder: &OwnedFd| fstat(folder).map(|stat| (stat.st_dev, stat.st_ino)).ok();
        if identity(&there) == identity(&self.descriptor) {
            return Ok(());
        }
        Err(not_ours(&self.path, "it was exchanged while results were written to it"))
    }
}

/// Whether nobody else could have put the mark into this folder.
fn is_of_this_user(folder: &OwnedFd) -> bool {
    let is_private = |mode: u32| mode & (Mode::WGRP | Mode::WOTH).bits() == 0;
    fstat(folder)
        .is_ok_and(|stat| stat.st_uid == rustix::process::geteuid().as_raw() && is_private(stat.st_mode))
}

#[cfg(test)]
#[path = "outputs_tests.rs"]
mod tests;
