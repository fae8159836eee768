//! Folders that the program made for itself: private, marked, and only marked ones are removed.
//!
//! A user names places: a data folder, an output folder, an object store. What lies there already is the user's. So the
//! program works in a [`PrivateFolder`]: it creates it with mode 0700 and puts a file, the [`MARK`], into it before anything else.
//! The mark of a private folder has the folder's name: whoever may rename folders beside it can give none of ours another's place.
//!
//! **Invariants.** Only a folder with the mark, or an empty one, is ever removed, or has its mode or owner changed. A folder is opened once and then used by its
//! descriptor, and no file is opened through a symbolic link: the process may be root's, and the folder may hold folders of others.
//!
//! Not for: hiding anything from root, or from another process of the same user.

mod outputs;
mod private;
mod removal;
mod subfolder;

pub use outputs::{OutputFolder, claim};
pub use private::{PrivateFolder, create_parents};
pub use subfolder::Subfolder;

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use rustix::process::geteuid;
use std::{
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Component, Path, PathBuf},
};
use thiserror::Error;

/// The name of the file that marks a folder as the program's.
pub const MARK: &str = ".roundhouse";
/// The folder that a file system keeps at its root.
const LOST_AND_FOUND: &str = "lost+found";
/// What the mark says to whoever finds it.
const MARK_TEXT: &str = "Roundhouse made this folder, or was given it empty, and may replace or remove what is in it: keep nothing else here.\n";

/// Why a folder is not used.
#[derive(Debug, Error)]
pub enum FolderError {
    /// Something of the user's, or of another's, is there: nothing was changed.
    #[error(
        "{path} is there already and is not Roundhouse's ({reason}): name another place, or move it away"
    )]
    NotOurs {
        /// What is there.
        path: PathBuf,
        /// How that is known.
        reason: String,
    },
    /// A file or folder cannot be made, read or removed.
    #[error("cannot {action} {path}: {reason}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        reason: io::Error,
    },
}

fn failed<E: Into<io::Error>>(action: &'static str, path: &Path) -> impl FnOnce(E) -> FolderError {
    let path = path.to_owned();
    move |reason| FolderError::Io { action, path, reason: reason.into() }
}

fn not_ours(path: &Path, reason: impl Into<String>) -> FolderError {
    FolderError::NotOurs { path: path.to_owned(), reason: reason.into() }
}

/// Who may pass through a folder that the program makes. Nobody else may list it in either case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Its owner alone: mode 0700.
    Owner,
    /// Others on their way to a subfolder that is theirs: mode 0711. For root's process, which starts another user's.
    Passage,
}

impl Access {
    fn mode(self) -> Mode {
        match self {
            Self::Owner => Mode::RWXU,
            Self::Passage => Mode::RWXU | Mode::XGRP | Mode::XOTH,
        }
    }
}

/// Makes every file and folder of this process private from here on: mode 0600 and 0700, in libraries too.
pub fn keep_files_private() {
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
}

/// Opens a file itself, and not what a link of its name points to; created with mode 0600, if the options create it.
///
/// # Errors
/// As [`std::fs::OpenOptions::open`]; for a link as well.
pub fn open_itself(mut options: std::fs::OpenOptions, path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or(0);
    options.mode(0o600).custom_flags(flags).open(path)
}

/// Opens a folder itself, and not what a link of its name points to.
fn open_folder(parent: impl AsFd, name: &Path, shown: &Path) -> Result<OwnedFd, FolderError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty()).map_err(|e| match e {
        rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR => not_ours(shown, "it is no folder"),
        e => failed("open", shown)(e),
    })
}

/// Opens a regular file of a folder for reading; `None` where there is none, or something else has its name: a link, a pipe.
fn open_file(folder: impl AsFd, name: &str) -> Option<File> {
    // A pipe would have the opener wait.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(folder, name, flags, Mode::empty()).ok()?;
    let is_regular =
        fstat(&file).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
    is_regular.then(|| File::from(file))
}

/// The first bytes of a file of a folder, at most `most`.
fn read_file(folder: impl AsFd, name: &str, most: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    open_file(folder, name)?.take(most).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// The names in an open folder.
fn names(folder: impl AsFd) -> io::Result<Vec<std::ffi::OsString>> {
    use std::os::unix::ffi::OsStringExt;
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(folder)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(std::ffi::OsString::from_vec(name));
        }
    }
    Ok(names)
}

/// Whether a folder has a mark, as far as that goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Marked {
    Yes,
    /// A process ended while it wrote the mark, or before.
    Unfinished,
    No,
}

/// Whether the folder has this mark.
fn mark_of(folder: impl AsFd, mark: &str) -> io::Result<Marked> {
    let names = names(folder.as_fd())?;
    let is_other = |name: &std::ffi::OsString| name != MARK && !is_lost_and_found(folder.as_fd(), name);
    let others = names.iter().any(is_other);
    let is_there = names.iter().any(|name| name == MARK);
    // Read after the names: whoever marks a folder does it before there is anything else in it.
    let text = read_file(folder, MARK, mark.len() as u64 + 1);
    Ok(match text {
        Some(text) if text == mark.as_bytes() => Marked::Yes,
        Some(text) if !others && mark.as_bytes().starts_with(&text) => Marked::Unfinished,
        None if !others && !is_there => Marked::Unfinished,
        _ => Marked::No,
    })
}

/// Whether this is the empty folder that a file system has at its root. Root owns it, and others may not look into it.
fn is_lost_and_found(folder: impl AsFd, name: &std::ffi::OsStr) -> bool {
    if name != LOST_AND_FOUND {
        return false;
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(folder, name, flags, Mode::empty()) {
        Ok(found) => {
            fstat(&found).is_ok_and(|stat| stat.st_uid == 0)
                && names(&found).is_ok_and(|names| names.is_empty())
        }
        Err(e) => e == rustix::io::Errno::ACCESS,
    }
}

/// Puts the mark into a folder that has none, or an unfinished one.
fn mark(folder: impl AsFd, text: &str, shown: &Path) -> Result<(), FolderError> {
    use std::io::Write;
    let path = shown.join(MARK);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file =
        openat(folder.as_fd(), MARK, flags, Mode::RUSR | Mode::WUSR).map_err(failed("create", &path))?;
    let mut file = File::from(file);
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed("write", &path))?;
    rustix::fs::fsync(folder).map_err(failed("sync", shown))
}

/// The path without links. A link counts as the user's word only where no other user made it, or may put another in its place.
fn canonical(path: &Path) -> Result<PathBuf, FolderError> {
    let absolute = std::path::absolute(path).map_err(failed("find", path))?;
    refuse_links_of_others(&absolute, LINKS_MAX)?;
    path.canonicalize().map_err(failed("open", path))
}

/// Links on the way to a folder at most; the kernel follows no more either.
const LINKS_MAX: u32 = 40;

fn refuse_links_of_others(path: &Path, links_left: u32) -> Result<(), FolderError> {
    let mut real = PathBuf::from("/");
    let mut parts = path.components().skip(1);
    while let Some(part) = parts.next() {
        let next = real.join(part);
        // What is not there yet is ours to make; what cannot be looked at, the caller's next step reports.
        let Ok(found) = next.symlink_metadata() else { return Ok(()) };
        if !found.is_symlink() {
            real =
                if part == Component::ParentDir { real.parent().unwrap_or(&real).to_owned() } else { next };
            continue;
        }
        let above = real.metadata().map_err(failed("look at", &real))?;
        let is_trusted = |owner: u32| owner == 0 || owner == geteuid().as_raw();
        // In a sticky folder everybody may add a name, and only its owner may take it away.
        let is_closed = above.mode() & 0o022 == 0 || above.mode() & 0o1000 != 0;
        if !is_trusted(found.uid()) || !is_trusted(above.uid()) || !is_closed {
            return Err(not_ours(
                path,
                format!("{} is a link that another user may have made", next.display()),
            ));
        }
        let target = next.read_link().map_err(failed("read the link", &next))?;
        let rest: PathBuf = parts.collect();
        if links_left == 0 {
            return Err(not_ours(path, "too many links lead to it"));
        }
        return refuse_links_of_others(&real.join(target).join(rest), links_left - 1);
    }
    Ok(())
}

/// That nobody but this process's user, and root, can exchange what lies on the way to a path: for folders that are used by their names.
/// What is not there yet is passed over.
///
/// # Errors
/// [`FolderError::NotOurs`] names the folder that is in others' hands.
pub fn refuse_folders_of_others(path: &Path) -> Result<(), FolderError> {
    let absolute = std::path::absolute(path).map_err(failed("find", path))?;
    refuse_links_of_others(&absolute, LINKS_MAX)?;
    let there = absolute.ancestors().find_map(|folder| folder.canonicalize().ok()).unwrap_or_default();
    let (us, our_group) = (geteuid().as_raw(), rustix::process::getegid().as_raw());
    for folder in there.ancestors() {
        let found = folder.metadata().map_err(failed("look at", folder))?;
        if found.uid() != 0 && found.uid() != us {
            let reason = format!("{} belongs to the user with the number {}", folder.display(), found.uid());
            return Err(not_ours(path, reason));
        }
        // In a sticky folder everybody may add a name, and only its owner may take it away.
        let is_sticky = found.mode() & 0o1000 != 0;
        // Where each user has a group, it has the user's number, and nobody else is in it; any other group may have more members.
        let is_ours_alone = found.gid() == our_group && our_group == us;
        let others = if is_ours_alone { 0o002 } else { 0o022 };
        if found.mode() & others != 0 && !is_sticky {
            return Err(not_ours(path, format!("others may write to {}", folder.display())));
        }
    }
    Ok(())
}

/// The descriptor that stands for the current folder, for paths that need none.
fn here() -> std::os::fd::BorrowedFd<'static> {
    CWD
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use std::{fs, os::unix::fs as unix};

    /// Whoever may write beside a named folder could have it lead to another folder of ours, and have that one's results replaced.
    #[test]
    fn a_link_is_followed_only_where_no_other_user_made_it() {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        fs::create_dir(at("results")).unwrap();
        unix::symlink(at("results"), at("mine")).unwrap();
        unix::symlink("mine", at("chain")).unwrap();
        for name in ["mine", "chain", "mine/deeper/folder"] {
            claim(&at(name)).unwrap();
        }
        fs::create_dir(at("open")).unwrap();
        unix::symlink(at("results"), at("open/link")).unwrap();
        fs::set_permissions(at("open"), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let mut of_others = vec![at("open/link"), at("open/link/deeper")];
        if geteuid().is_root() {
            unix::symlink(at("results"), at("theirs")).unwrap();
            unix::lchown(at("theirs"), Some(65_534), None).unwrap();
            of_others.push(at("theirs"));
            // Behind one of ours.
            unix::symlink("theirs", at("ours-to-theirs")).unwrap();
            of_others.push(at("ours-to-theirs"));
        }
        for path in of_others {
            let refused = [
                claim(&path).map(drop),
                OutputFolder::open(&path).map(drop),
                PrivateFolder::open(&path.join("data"), Access::Owner).map(drop),
            ];
            for refused in refused {
                assert!(
                    matches!(refused, Err(FolderError::NotOurs { .. })),
                    "{}: {refused:?}",
                    path.display()
                );
            }
        }
        assert!(!at("results/data").exists() && !at("results/deeper/data").exists());
    }

    /// Whoever may rename a folder on the way has a file of theirs used in the place of ours.
    #[test]
    fn a_way_through_folders_that_others_can_exchange_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        let set_mode = |name: &str, mode| {
            fs::set_permissions(at(name), std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        };
        fs::create_dir_all(at("open/deeper")).unwrap();
        for allowed in ["open/deeper", "open/none/yet", "none"] {
            refuse_folders_of_others(&at(allowed)).unwrap();
        }
        let refused = |name: &str, words: &str| {
            let error = refuse_folders_of_others(&at(name)).unwrap_err();
            let is_named = error.to_string().contains(words);
            assert!(matches!(error, FolderError::NotOurs { .. }) && is_named, "{error}");
        };
        set_mode("open", 0o777);
        refused("open/deeper", "others may write to");
        refused("open/none/yet", "others may write to");
        set_mode("open", 0o1777);
        refuse_folders_of_others(&at("open/deeper")).unwrap();
        if geteuid().is_root() {
            unix::chown(at("open"), Some(65_534), None).unwrap();
            refused("open/deeper", "belongs to the user with the number 65534");
            unix::chown(at("open"), Some(0), Some(65_534)).unwrap();
            set_mode("open", 0o775);
            refused("open/deeper", "others may write to");
            // Ours, and nobody else's, is the group with the user's number.
            unix::chown(at("open"), Some(0), Some(0)).unwrap();
            refuse_folders_of_others(&at("open/deeper")).unwrap();
        }
    }
}
