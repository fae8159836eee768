//! A folder within a private one, or beside it, that may belong to another user.

use crate::removal::remove_content;
use crate::{FolderError, failed, here, not_ours, open_folder, read_file};
use rustix::fs::{Mode, fstat, mkdirat};
use std::{
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::fchown,
    },
    path::{Path, PathBuf},
};

/// A folder of mode 0700 that this process, or the user that it is for, has made.
#[derive(Debug)]
pub struct Subfolder {
    path: PathBuf,
    descriptor: OwnedFd,
}

impl Subfolder {
    /// Opens, or creates, such a folder by its path.
    ///
    /// # Errors
    /// As [`crate::PrivateFolder::subfolder`].
    pub fn open(path: &Path, owner: Option<(u32, u32)>) -> Result<Self, FolderError> {
        Self::open_in(here(), path, path.to_owned(), owner)
    }

    pub(crate) fn open_in(
        parent: BorrowedFd<'_>,
        name: &Path,
        path: PathBuf,
        owner: Option<(u32, u32)>,
    ) -> Result<Self, FolderError> {
        match mkdirat(parent, name, Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(e) => return Err(failed("create the folder", &path)(e)),
        }
        let descriptor = open_folder(parent, name, &path)?;
        let stat = fstat(&descriptor).map_err(failed("look at", &path))?;
        let us = rustix::process::geteuid().as_raw();
        let wanted = owner.map_or(us, |(user, _)| user);
        // Root's own: it was made a moment ago, and not handed over yet.
        if stat.st_uid != wanted && stat.st_uid != us {
            return Err(not_ours(&path, format!("it belongs to the user with the number {}", stat.st_uid)));
        }
        if stat.st_mode & (Mode::RWXG | Mode::RWXO).bits() != 0 {
            return Err(not_ours(&path, "others may enter it"));
        }
        if let Some((user, group)) = owner.filter(|_| stat.st_uid != wanted) {
            fchown(&descriptor, Some(user), Some(group)).map_err(failed("hand over", &path))?;
        }
        Ok(Self { path, descriptor })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes all that is in it, however deep it is.
    ///
    /// # Errors
    /// [`FolderError::Io`].
    pub fn empty(&self) -> Result<(), FolderError> {
        remove_content(self.descriptor.as_fd(), &self.path, |_| true)
    }

    /// A file's first bytes, at most `most`; `None` where there is no file of this name: a link is none.
    #[must_use]
    pub fn read(&self, name: &str, most: u64) -> Option<Vec<u8>> {
        read_file(self.descriptor.as_fd(), name, most)
    }
}
