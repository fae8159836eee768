//! A folder of the program's own: made, opened again, removed.

use crate::removal::remove_content;
use crate::{
    Access, FolderError, LINKS_MAX, LOST_AND_FOUND, MARK, MARK_TEXT, Marked, Subfolder, canonical, failed,
    here, mark, mark_of, names, not_ours, open_folder, read_file, refuse_links_of_others,
};
use rustix::fs::{AtFlags, Mode, OFlags, fchmod, fstat, mkdirat, openat, unlinkat};
use rustix::io::Errno;
use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

/// How a folder is called while it is removed: what is left of it after a crash is seen to be that.
const REMOVED_SUFFIX: &str = ".removed";
/// The file in it that says that it is being removed. Its name alone says nothing: whoever may write beside it can rename it.
const REMOVAL_MARK: &str = ".roundhouse-removed";

/// A private, marked folder.
#[derive(Debug)]
pub struct PrivateFolder {
    path: PathBuf,
    descriptor: OwnedFd,
}

/// Creates what is missing of a path, for this access; the mode and the owner of what is there stay as they are.
///
/// # Errors
/// [`FolderError::NotOurs`] when it leads through another user's link; [`FolderError::Io`].
pub fn create_parents(path: &Path, access: Access) -> Result<(), FolderError> {
    let absolute = std::path::absolute(path).map_err(failed("find", path))?;
    refuse_links_of_others(&absolute, LINKS_MAX)?;
    create_missing(path, access)
}

fn create_missing(path: &Path, access: Access) -> Result<(), FolderError> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        create_missing(parent, access)?;
    }
    match mkdirat(here(), path, Mode::RWXU) {
        // The umask takes the others' rights from what is made, so that they are given afterwards.
        Ok(()) => {
            let made = open_folder(here(), path, path)?;
            owned_by_us(&made, path)?;
            fchmod(&made, access.mode()).map_err(failed("set the mode of", path))
        }
        // Another process was faster.
        Err(Errno::EXIST) if path.is_dir() => Ok(()),
        Err(e) => Err(failed("create the folder", path)(e)),
    }
}

/// That nobody else could have put a folder there, or could put files into it.
fn owned_by_us(folder: &OwnedFd, path: &Path) -> Result<u32, FolderError> {
    let stat = fstat(folder).map_err(failed("look at", path))?;
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(not_ours(path, format!("it belongs to the user with the number {}", stat.st_uid)));
    }
    if stat.st_mode & (Mode::WGRP | Mode::WOTH).bits() != 0 {
        return Err(not_ours(path, "others may write to it"));
    }
    // A folder may have its group's bit from the one above.
    Ok(stat.st_mode & 0o777)
}

impl PrivateFolder {
    /// Opens the program's folder of this path, or creates it, with what is missing of the path above it.
    ///
    /// # Errors
    /// [`FolderError::NotOurs`] when something else is there; nothing is changed then.
    pub fn open(path: &Path, access: Access) -> Result<Self, FolderError> {
        let name = path.file_name().ok_or_else(|| not_ours(path, "its path ends in no name"))?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        create_parents(parent, access)?;
        let path = canonical(parent)?.join(name);
        remove_marked(&removed(&path), name)?;
        match mkdirat(here(), &path, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(failed("create the folder", &path)(e)),
        }
        let descriptor = open_folder(here(), &path, &path)?;
        let mode = owned_by_us(&descriptor, &path)?;
        let text = mark_text(name);
        match mark_of(&descriptor, &text).map_err(failed("look into", &path))? {
            Marked::Yes => {}
            // Made a moment ago, by us or by a process that was killed then.
            Marked::Unfinished if mode == Mode::RWXU.bits() => mark(&descriptor, &text, &path)?,
            Marked::Unfinished | Marked::No => return Err(not_ours(&path, unmarked(name))),
        }
        // A removal that was cut short before it renamed the folder.
        match unlinkat(&descriptor, REMOVAL_MARK, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(failed("remove", &path.join(REMOVAL_MARK))(e)),
        }
        fchmod(&descriptor, access.mode()).map_err(failed("set the mode of", &path))?;
        Ok(Self { path, descriptor })
    }

    /// Where it is: absolute, without links.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a file of it to read and write, created with mode 0600 where it is not yet; what is in it stays.
    ///
    /// # Errors
    /// [`FolderError::NotOurs`] for a link, or anything else that is no file.
    pub fn file(&self, name: &str) -> Result<File, FolderError> {
        let path = self.path.join(name);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(&self.descriptor, name, flags, Mode::RUSR | Mode::WUSR).map_err(|e| match e {
            Errno::LOOP | Errno::ISDIR => not_ours(&path, "it is no file"),
            e => failed("open", &path)(e),
        })?;
        let file = File::from(file);
        let is_file = file.metadata().map_err(failed("look at", &path))?.is_file();
        if is_file { Ok(file) } else { Err(not_ours(&path, "it is no file")) }
    }

    /// A file's first bytes, at most `most`; `None` where there is no file of this name.
    #[must_use]
    pub fn read(&self, name: &str, most: u64) -> Option<Vec<u8>> {
        read_file(&self.descriptor, name, most)
    }

    /// Opens a subfolder with mode 0700, created where it is not yet; `owner` is the user and the group that it belongs to, if others
    /// than this process's.
    ///
    /// # Errors
    /// [`FolderError::NotOurs`] when it belongs to neither.
    pub fn subfolder(&self, name: &str, owner: Option<(u32, u32)>) -> Result<Subfolder, FolderError> {
        Subfolder::open_in(self.descriptor.as_fd(), name.as_ref(), self.path.join(name), owner)
    }

    /// Removes it with all that is in it. What a crash leaves of it goes when a folder of this path is opened again.
    ///
    /// # Errors
    /// [`FolderError::NotOurs`] when another folder has its name by now, which stays.
    pub fn remove(self) -> Result<(), FolderError> {
        let removed = removed(&self.path);
        let name = self.path.file_name().unwrap_or_default();
        remove_marked(&removed, name)?;
        let identity = |folder: &OwnedFd| fstat(folder).map(|stat| (stat.st_dev, stat.st_ino));
        let there = open_folder(here(), &self.path, &self.path)?;
        if identity(&there).ok() != identity(&self.descriptor).ok() {
            return Err(not_ours(&self.path, "it was exchanged"));
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let marked = openat(&self.descriptor, REMOVAL_MARK, flags, Mode::RUSR | Mode::WUSR);
        marked.map_err(failed("create", &self.path.join(REMOVAL_MARK)))?;
        fs::rename(&self.path, &removed).map_err(failed("rename", &self.path))?;
        remove_marked(&removed, name)
    }
}

fn removed(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(REMOVED_SUFFIX);
    name.into()
}

/// The mark of a private folder of this name.
fn mark_text(name: &OsStr) -> String {
    format!("{MARK_TEXT}Its name is {name:?}.\n")
}

fn unmarked(name: &OsStr) -> String {
    format!("its mark, {MARK}, is missing, or is not that of a folder {name:?}")
}

/// Removes what is left of a folder of this name that was being removed, the marks last; does nothing where there is nothing.
fn remove_marked(path: &Path, name: &OsStr) -> Result<(), FolderError> {
    if fs::symlink_metadata(path).is_err() {
        return Ok(());
    }
    let descriptor = open_folder(here(), path, path)?;
    owned_by_us(&descriptor, path)?;
    let look = failed("look into", path);
    let (marked, names) = mark_of(&descriptor, &mark_text(name))
        .and_then(|marked| Ok((marked, names(&descriptor)?)))
        .map_err(look)?;
    match marked {
        // It is being removed; or the removal was cut short at its end.
        Marked::Yes if names.iter().any(|name| name == REMOVAL_MARK) || names.len() == 1 => {}
        // A removal or a creation that was cut short: there is nothing to lose.
        Marked::Unfinished if names.iter().all(|name| name == MARK) => {}
        Marked::Yes => return Err(not_ours(path, "it was not being removed")),
        Marked::Unfinished | Marked::No => return Err(not_ours(path, unmarked(name))),
    }
    // A file system's own folder; what was recovered to it is the user's.
    match unlinkat(&descriptor, LOST_AND_FOUND, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(e) => {
            let reason = format!("it cannot be removed as an empty folder: {e}");
            return Err(not_ours(&path.join(LOST_AND_FOUND), reason));
        }
    }
    // The marks last: what a crash leaves is still seen to be ours.
    remove_content(descriptor.as_fd(), path, |name| name != MARK && name != REMOVAL_MARK)?;
    remove_content(descriptor.as_fd(), path, |name| name != MARK)?;
    remove_content(descriptor.as_fd(), path, |_| true)?;
    match fs::remove_dir(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "private_tests.rs"]
mod tests;
