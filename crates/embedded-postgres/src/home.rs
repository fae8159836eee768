//! The cluster's home: a folder of this process's user with the mark, the lock and the log, and in it the server's own folders.
//!
//! For root the server is another user's. Then nothing that root opens by its name lies where that user may write: what root reads of the
//! server's own folders is opened by their descriptors, and through no link.

use crate::account::Account;
use crate::programs::{Programs, is_postgres};
use crate::{POLL_INTERVAL, PostgresError, STOP_TIMEOUT, USER, io_error};
use private_folder::{PrivateFolder, Subfolder, create_parents};
use std::{
    ffi::OsString,
    fs::{File, TryLockError},
    io::Write,
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::{FileExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    process::Stdio,
    time::Instant,
};

/// The home's name in the folder that the user named.
const HOME: &str = "postgres";
/// A Unix socket's path has 107 bytes at most; the rest is for the socket's own name.
const SOCKET_FOLDER_BYTES_MAX: usize = 80;
/// Holds the major version of a cluster that is whole.
const INITIALISED: &str = "initialised";
/// Names a socket folder elsewhere, so that the next start listens in the same place.
const SOCKET_ELSEWHERE: &str = "socket-folder";
const LOG: &str = "postgres.log";
/// What is read of a small file, and of the log's end.
const READ_BYTES_MAX: u64 = 4096;

/// A cluster's home, locked.
#[derive(Debug)]
pub(crate) struct Home {
    folder: PrivateFolder,
    data: Subfolder,
    socket: Subfolder,
    is_socket_elsewhere: bool,
    _lock: File,
}

impl Home {
    /// Opens the home in the folder that the user named; creates what is missing.
    pub(crate) fn open(folder: &Path, account: &Account) -> Result<Self, PostgresError> {
        create_parents(folder, account.access())?;
        let folder = PrivateFolder::open(&folder.join(HOME), account.access())?;
        let lock = take_lock(&folder)?;
        let data = folder.subfolder("data", account.ids)?;
        let path = folder.path().as_os_str().as_bytes();
        // Clients of PostgreSQL's library take a comma for the end of a host's name.
        let is_socket_elsewhere =
            path.len() + "/socket".len() > SOCKET_FOLDER_BYTES_MAX || path.contains(&b',');
        let socket = if is_socket_elsewhere {
            socket_elsewhere(&folder, account)?
        } else {
            folder.subfolder("socket", account.ids)?
        };
        Ok(Self { folder, data, socket, is_socket_elsewhere, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn data(&self) -> &Path {
        self.data.path()
    }

    pub(crate) fn socket_folder(&self) -> &Path {
        self.socket.path()
    }

    /// The socket's folder, where it is not in the home.
    pub(crate) fn socket_elsewhere(&self) -> Option<&Path> {
        self.is_socket_elsewhere.then(|| self.socket.path())
    }

    /// What the server says of itself: its process, its folder, its start, and last its state.
    pub(crate) fn state_file(&self) -> String {
        let bytes = self.data.read("postmaster.pid", READ_BYTES_MAX).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The server's first process, by its own word.
    pub(crate) fn postmaster(&self) -> Option<u32> {
        self.state_file().lines().next()?.trim().parse().ok()
    }

    /// An empty log for the server.
    pub(crate) fn new_log(&self) -> Result<File, PostgresError> {
        let log = self.folder.file(LOG)?;
        log.set_len(0).map_err(io_error("write", &self.path().join(LOG)))?;
        Ok(log)
    }

    /// A server whose process was just killed is stopping; the new one must not meet it.
    pub(crate) fn wait_for_predecessor(&self) {
        let begun = Instant::now();
        while begun.elapsed() < STOP_TIMEOUT && self.postmaster().is_some_and(is_postgres) {
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Makes the cluster unless it is whole. A half-made one, of a killed `initdb`, is made anew.
    pub(crate) fn initialise(&self, account: &Account, programs: &Programs) -> Result<(), PostgresError> {
        if let Some(found) = self.folder.read(INITIALISED, READ_BYTES_MAX).filter(|text| !text.is_empty()) {
            let found = String::from_utf8_lossy(&found).trim().to_owned();
            if found == programs.version.to_string() {
                return Ok(());
            }
            return Err(PostgresError::OtherVersion {
                folder: self.path().to_owned(),
                found,
                programs: programs.folder.clone(),
                expected: programs.version,
            });
        }
        self.data.empty()?;
        make_cluster(self, account, &programs.folder)?;
        let write = || {
            let mut file = self.folder.file(INITIALISED)?;
            let path = self.path().join(INITIALISED);
            writeln!(file, "{}", programs.version)
                .and_then(|()| file.sync_all())
                .map_err(io_error("write", &path))
        };
        write()
    }
}

fn take_lock(folder: &PrivateFolder) -> Result<File, PostgresError> {
    let path = folder.path().join("lock");
    let mut lock = folder.file("lock")?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let pid = folder.read("lock", READ_BYTES_MAX).unwrap_or_default();
            let pid = String::from_utf8_lossy(&pid).trim().to_owned();
            return Err(PostgresError::InUse { folder: folder.path().to_owned(), pid });
        }
        Err(TryLockError::Error(e)) => return Err(io_error("lock", &path)(e)),
    }
    lock.set_len(0).map_err(io_error("write", &path))?;
    writeln!(lock, "{}", std::process::id()).map_err(io_error("write", &path))?;
    Ok(lock)
}

/// A socket folder below the system's temporary one, for a home whose path is too long for a socket. Its name is random: nobody can be
/// there first. The home remembers it; where somebody else has taken it meanwhile, another one is made.
fn socket_elsewhere(folder: &PrivateFolder, account: &Account) -> Result<Subfolder, PostgresError> {
    let known = folder.read(SOCKET_ELSEWHERE, READ_BYTES_MAX).filter(|path| path.starts_with(b"/"));
    let known = known.map(|path| PathBuf::from(OsString::from_vec(path)));
    if let Some(socket) = known.and_then(|path| Subfolder::open(&path, account.ids).ok()) {
        return Ok(socket);
    }
    let temporary = std::env::temp_dir();
    account.check_passage(&temporary, "a folder for temporary files with TMPDIR, such as /tmp")?;
    let made = tempfile::Builder::new()
        .prefix("roundhouse-")
        .permissions(std::fs::Permissions::from_mode(0o700))
        .disable_cleanup(true)
        .tempdir_in(&temporary)
        .map_err(io_error("create a socket's folder in", &temporary))?;
    let socket = Subfolder::open(made.path(), account.ids)?;
    let (file, bytes) = (folder.file(SOCKET_ELSEWHERE)?, made.path().as_os_str().as_bytes());
    let written = file.set_len(0).and_then(|()| file.write_all_at(bytes, 0));
    written.map_err(io_error("write", &folder.path().join(SOCKET_ELSEWHERE)))?;
    Ok(socket)
}

/// The last lines of a log that the server may be writing to: read without moving its place in the file.
pub(crate) fn last_lines(log: &File) -> String {
    let length = log.metadata().map_or(0, |metadata| metadata.len());
    let begin = length.saturating_sub(READ_BYTES_MAX);
    let mut bytes = vec![0; usize::try_from(length - begin).unwrap_or(0)];
    let read = log.read_at(&mut bytes, begin).unwrap_or(0);
    let text = String::from_utf8_lossy(&bytes[..read]).into_owned();
    let lines: Vec<&str> = text.lines().rev().take(5).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
}

/// Makes a cluster in the empty data folder.
fn make_cluster(home: &Home, account: &Account, programs: &Path) -> Result<(), PostgresError> {
    let output = account
        .command(programs.join("initdb"))
        .args(["--username", USER, "--auth=trust", "--encoding=UTF8", "--no-locale", "--pgdata"])
        .arg(home.data())
        .stdin(Stdio::null())
        .output()
        .map_err(io_error("run initdb in", home.path()))?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr).trim().replace('\n', " | ");
    Err(PostgresError::Program { program: "initdb", folder: home.path().to_owned(), reason })
}
