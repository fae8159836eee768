//! Server programs for a machine that has none: one release, fetched once into the cache.
//!
//! ```text
//! CACHE/roundhouse/postgresql/                a private, marked folder of this process's user; root's lets the server's user pass
//! CACHE/roundhouse/postgresql/lock            whoever fetches holds it
//! CACHE/roundhouse/postgresql/unfinished/     what is being fetched, or was when its process was killed
//! CACHE/roundhouse/postgresql/VERSION-TARGET/ a release: for everybody to read and run, for nobody else to write
//! ```
//!
//! A release's folder has its name from the moment on when all of it is on the disk.

use crate::account::Account;
use crate::download::download;
use crate::limits::{Limits, Step};
use crate::programs::{Programs, look_into};
use crate::release::{Release, Releases};
use crate::unpack::unpack;
use crate::{PostgresError, io_error};
use private_folder::{PrivateFolder, refuse_folders_of_others};
use std::{
    fs::{self, File, OpenOptions, Permissions, TryLockError},
    io::{self, Seek},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// Where the files of time zones are; programs that bring none use the system's.
const TIME_ZONES: [&str; 3] = ["share/timezone", "share/postgresql/timezone", "/usr/share/zoneinfo"];

/// How server programs are fetched.
#[derive(Clone)]
pub struct Fetch<'a> {
    /// From where.
    pub releases: &'a Releases,
    /// Which.
    pub release: &'a Release,
    /// The user's cache folder, or the system's.
    pub cache: &'a Path,
    /// How much at most.
    pub limits: Limits,
    /// Is told what is being done.
    pub progress: &'a dyn Fn(Step<'_>),
}

impl Fetch<'_> {
    /// The programs of the release: those in the cache, or else fetched into it. Blocks while another process fetches them.
    ///
    /// # Errors
    /// [`PostgresError::Fetch`] when they cannot be had; the cache is then as it was. [`PostgresError::Fetched`] when they do not run here.
    /// [`PostgresError::NotInstalled`] when nothing may be fetched. [`PostgresError::Folder`] or [`PostgresError::Unreachable`] when the
    /// cache is no place for them.
    pub fn programs(&self) -> Result<Programs, PostgresError> {
        let account = Account::of_the_server();
        let path = self.cache.join("roundhouse").join("postgresql");
        // Whoever can exchange a folder on the way has a program of theirs run.
        refuse_folders_of_others(&path)?;
        account.check_passage(
            &path,
            "a cache folder that everybody may reach, such as /var/cache (XDG_CACHE_HOME)",
        )?;
        let Releases::At(server) = self.releases else {
            let folder = path.join(self.release.folder());
            return if folder.exists() { check(&folder) } else { Err(PostgresError::NotInstalled) };
        };
        let cache = PrivateFolder::open(&path, account.access())?;
        let folder = cache.path().join(self.release.folder());
        if !folder.exists() {
            self.fetch(&cache, &folder, server)?;
        }
        check(&folder)
    }

    fn fetch(&self, cache: &PrivateFolder, folder: &Path, server: &str) -> Result<(), PostgresError> {
        let lock = cache.file("lock")?;
        self.wait_for(&lock).map_err(io_error("lock", &cache.path().join("lock")))?;
        // Another process has done it meanwhile.
        if folder.exists() {
            return Ok(());
        }
        let work = cache.subfolder("unfinished", None)?;
        // What a process that was killed has left.
        work.empty()?;
        let url = self.release.url(server);
        let result = self.fetch_into(work.path(), &url).and_then(|tree| {
            fs::rename(tree, folder).map_err(|e| format!("it cannot be renamed to {}: {e}", folder.display()))
        });
        let result = result.map_err(|reason| PostgresError::Fetch { url, reason });
        let cleared = work.empty().and_then(|()| {
            let action = "remove";
            fs::remove_dir(work.path()).map_err(|reason| private_folder::FolderError::Io {
                action,
                path: work.path().to_owned(),
                reason,
            })
        });
        result?;
        cleared?;
        (self.progress)(Step::Done { folder });
        Ok(())
    }

    /// Takes the lock, which its process's end lets go of too.
    fn wait_for(&self, lock: &File) -> io::Result<()> {
        match lock.try_lock() {
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => {
                (self.progress)(Step::Waiting);
                lock.lock()
            }
            Err(TryLockError::Error(e)) => Err(e),
        }
    }

    /// The release's tree, whole and on the disk, in a folder that is ours alone; or why there is none.
    fn fetch_into(&self, work: &Path, url: &str) -> Result<PathBuf, String> {
        let (path, tree) = (work.join("archive"), work.join("tree"));
        let unwritable = |e: io::Error| format!("{} cannot be written: {e}", work.display());
        let mut archive = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(unwritable)?;
        let sha256 = download(url, &mut archive, &self.limits, self.progress)?;
        if sha256 != self.release.sha256 {
            return Err(format!(
                "it is not the file that this program knows: its SHA-256 is {sha256}, not {}",
                self.release.sha256
            ));
        }
        (self.progress)(Step::Unpacking);
        fs::create_dir(&tree)
            .and_then(|()| fs::set_permissions(&tree, Permissions::from_mode(0o755)))
            .and_then(|()| archive.rewind())
            .map_err(unwritable)?;
        unpack(&archive, &self.release.stem(), &tree, self.limits.unpacked_bytes)?;
        for program in ["bin/initdb", "bin/postgres"] {
            if !tree.join(program).symlink_metadata().is_ok_and(|found| found.is_file()) {
                return Err(format!("its archive has no {program}"));
            }
        }
        sync(&tree).map_err(unwritable)?;
        Ok(tree)
    }
}

/// Has all that was written reach the disk.
fn sync(folder: &Path) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::fs::syncfs(File::open(folder)?)?;
    #[cfg(not(target_os = "linux"))]
    {
        File::open(folder)?;
        rustix::fs::sync();
    }
    Ok(())
}

/// That the programs of a release run here: some libraries, and files of time zones, are the system's.
fn check(folder: &Path) -> Result<Programs, PostgresError> {
    let failed = |reason| PostgresError::Fetched { folder: folder.to_owned(), reason };
    let programs = folder.join("bin");
    let version = look_into(&programs).map_err(failed)?;
    check_time_zones(&TIME_ZONES.map(|zones| folder.join(zones))).map_err(failed)?;
    Ok(Programs { folder: programs, version })
}

/// A driver asks for the time zone UTC when it connects. Without files the server knows GMT alone, and refuses.
fn check_time_zones(folders: &[PathBuf]) -> Result<(), String> {
    if folders.iter().any(|folder| folder.join("UTC").exists()) {
        return Ok(());
    }
    let looked: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
    Err(format!("there are no time zones in {} (Debian: apt-get install tzdata)", looked.join(", ")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn a_machine_without_time_zones_is_told_what_to_install() {
        let folder = tempfile::tempdir().unwrap();
        let folders = [folder.path().join("none"), folder.path().to_owned()];
        let error = check_time_zones(&folders).unwrap_err();
        assert!(error.contains("tzdata") && error.contains(&*folders[1].to_string_lossy()), "{error}");
        fs::write(folder.path().join("UTC"), "").unwrap();
        check_time_zones(&folders).unwrap();
    }
}
