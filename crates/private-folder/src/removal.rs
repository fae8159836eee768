//! Removes what is in a folder, however deep it is and whoever works in it meanwhile.
//!
//! Another user may have filled the folder, and may still be at it. So the removal goes from descriptor to descriptor: a folder that is
//! exchanged for a link leads it nowhere. And it moves what lies deep up before it removes it: it holds one descriptor at a time, and no
//! depth is too deep for its stack.

use crate::{FolderError, failed, names, open_folder};
use rustix::fs::{AtFlags, renameat, unlinkat};
use rustix::io::Errno;
use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    io,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

/// Removes these entries of an open folder, and all below them.
pub(crate) fn remove_content(
    folder: BorrowedFd<'_>,
    shown: &Path,
    is_to_go: impl Fn(&OsStr) -> bool,
) -> Result<(), FolderError> {
    let found = names(folder).map_err(failed("look into", shown))?;
    let mut pending: VecDeque<OsString> = found.into_iter().filter(|name| is_to_go(name)).collect();
    let mut moved = 0_u64;
    while let Some(name) = pending.pop_front() {
        let path = shown.join(&name);
        if unlinked(folder, &name, &path)? {
            continue;
        }
        // Another process may be removing the same.
        let below = match open_folder(folder, name.as_ref(), &path) {
            Err(FolderError::Io { reason, .. }) if reason.kind() == io::ErrorKind::NotFound => continue,
            below => below?,
        };
        for inner in names(&below).map_err(failed("look into", &path))? {
            if unlinked(below.as_fd(), &inner, &path.join(&inner))? {
                continue;
            }
            let up = loop {
                moved += 1;
                let up = OsString::from(format!(".removing-{}-{moved}", std::process::id()));
                match renameat(&below, &inner, folder, &up) {
                    // A name of an earlier removal that was cut short.
                    Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                    Ok(()) => break Some(up),
                    Err(Errno::NOENT) => break None,
                    Err(e) => return Err(failed("remove", &path.join(&inner))(e)),
                }
            };
            pending.extend(up);
        }
        match unlinkat(folder, &name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(failed("remove", &path)(e)),
        }
    }
    Ok(())
}

/// Removes an entry that is no folder; false for a folder.
fn unlinked(folder: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Result<bool, FolderError> {
    match unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        // Linux and POSIX say in different ways that it is a folder.
        Err(Errno::ISDIR | Errno::PERM) => Ok(false),
        Err(e) => Err(failed("remove", path)(e)),
    }
}
