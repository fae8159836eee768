//! A release's archive as a tree of files that everybody may read and nobody else may write.
//!
//! Its checksum was found right before. So it is trusted, and still nothing that it says leads out of the tree: no path, no link.

use flate2::read::GzDecoder;
use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Read},
    os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink},
    path::{Component, Path, PathBuf},
};
use tar::{Archive, Entry, EntryType};

/// An archive of PostgreSQL has about 2,000.
const ENTRIES_MAX: usize = 50_000;
/// Everybody may enter a folder, or run a program.
const OPEN: u32 = 0o755;
/// Everybody may read a file.
const READABLE: u32 = 0o644;

/// Unpacks what the archive has in its folder `stem` into the empty folder `tree`; or says why not.
pub(crate) fn unpack(archive: &File, stem: &str, tree: &Path, bytes_max: u64) -> Result<(), String> {
    // All that is read counts: a name or a header may be as long as a file.
    let mut archive = Archive::new(GzDecoder::new(archive).take(bytes_max));
    let result = unpack_entries(&mut archive, stem, tree);
    if archive.into_inner().limit() == 0 {
        return Err(format!("its archive unpacks to more than the {bytes_max} bytes that are allowed"));
    }
    result
}

fn unpack_entries<R: Read>(archive: &mut Archive<R>, stem: &str, tree: &Path) -> Result<(), String> {
    let unreadable = |e: io::Error| format!("its archive cannot be read: {e}");
    for (number, entry) in archive.entries().map_err(unreadable)?.enumerate() {
        if number == ENTRIES_MAX {
            return Err(format!("its archive has more than the {ENTRIES_MAX} entries that are allowed"));
        }
        let mut entry = entry.map_err(unreadable)?;
        // A comment on the whole archive.
        if entry.header().entry_type() == EntryType::XGlobalHeader {
            continue;
        }
        let path = entry.path().map_err(unreadable)?.into_owned();
        unpack_entry(&mut entry, &path, stem, tree)
            .map_err(|reason| format!("{} in its archive {reason}", path.display()))?;
    }
    Ok(())
}

/// The reason of a failure goes on from the entry's name.
fn unpack_entry<R: Read>(
    entry: &mut Entry<'_, R>,
    path: &Path,
    stem: &str,
    tree: &Path,
) -> Result<(), String> {
    let inside = inside(path, stem).ok_or_else(|| format!("leads out of the folder {stem}"))?;
    let place = tree.join(&inside);
    let failed = |e: io::Error| match e.kind() {
        io::ErrorKind::AlreadyExists => "is there twice".to_owned(),
        _ => format!("cannot be unpacked to {}: {e}", place.display()),
    };
    let target = entry.link_name().map_err(failed)?.map(std::borrow::Cow::into_owned).unwrap_or_default();
    let kind = entry.header().entry_type();
    make_folders(tree, if kind.is_dir() { &inside } else { inside.parent().unwrap_or(&inside) })?;
    match kind {
        EntryType::Directory => Ok(()),
        EntryType::Regular | EntryType::Continuous => {
            let is_program = entry.header().mode().map_err(failed)? & 0o111 != 0;
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&place).map_err(failed)?;
            let written = io::copy(entry, &mut file).map_err(failed)?;
            if written != entry.size() {
                return Err("is cut off".to_owned());
            }
            let mode = if is_program { OPEN } else { READABLE };
            file.set_permissions(Permissions::from_mode(mode)).map_err(failed)
        }
        EntryType::Symlink if !stays_inside(&inside, &target) => {
            Err(format!("is a link out of its folder, to {}", target.display()))
        }
        EntryType::Symlink => symlink(&target, &place).map_err(failed),
        EntryType::Link => {
            let of = self::inside(&target, stem).map(|of| tree.join(of));
            let of = of.filter(|of| of.symlink_metadata().is_ok_and(|found| found.is_file()));
            let of =
                of.ok_or_else(|| format!("is a link to {}, which is no file in it", target.display()))?;
            // The way to it may lead through a link, but through one that stays inside.
            fs::hard_link(of, &place).map_err(failed)
        }
        other => Err(format!("is a {other:?}, which no release has")),
    }
}

/// The path within the folder `stem`, or nothing if it leads elsewhere.
fn inside(path: &Path, stem: &str) -> Option<PathBuf> {
    let mut parts = path.components().filter(|part| *part != Component::CurDir);
    if parts.next()? != Component::Normal(stem.as_ref()) {
        return None;
    }
    parts.map(|part| matches!(part, Component::Normal(_)).then_some(part)).collect()
}

/// Makes what is missing of these folders; none of them is a link, for a link could lead elsewhere than its name says.
fn make_folders(tree: &Path, inside: &Path) -> Result<(), String> {
    let mut folder = tree.to_owned();
    for part in inside.components() {
        folder.push(part);
        match folder.symlink_metadata() {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Err("has a file or a link for a folder".to_owned()),
            Err(_) => fs::create_dir(&folder)
                .and_then(|()| fs::set_permissions(&folder, Permissions::from_mode(OPEN)))
                .map_err(|e| {
                    format!("cannot be unpacked: the folder {} cannot be made: {e}", folder.display())
                })?,
        }
    }
    Ok(())
}

/// Whether a link leads to a place in its tree: up first, by no more than it lies deep, and then down. Its own folders are no links, so that
/// each step up is one.
fn stays_inside(link: &Path, target: &Path) -> bool {
    let mut depth = link.components().count().saturating_sub(1);
    let mut is_going_down = false;
    for part in target.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if !is_going_down && depth > 0 => depth -= 1,
            Component::Normal(_) => is_going_down = true,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    is_going_down
}
