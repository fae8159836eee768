//! A private PostgreSQL server for one machine: started and stopped with its process, never left behind.
//!
//! Uses the server programs that the machine has ([`find_programs`] says where it looks), or those that [`Fetch`] brought. The cluster lives in a folder of its
//! own, `postgres` in the folder that the user names, listens on a Unix socket only, that only its owner may reach, and keeps PostgreSQL's
//! safe durability defaults.
//!
//! ```text
//! DATA/                   the user's; created where it is not yet, else as it was
//! DATA/postgres/          ours, by the mark in it; lock, log and `initialised` are files of our process's user
//! DATA/postgres/data/     the cluster, of the user that the server runs as
//! DATA/postgres/socket/   its socket; where that path is too long, or has a comma, a folder with a random name in $TMPDIR
//! ```
//!
//! **Invariants.** One process at a time has a folder's cluster (a lock that dies with the process). The server never outlives
//! its process, however that ends: a guard, a few lines of shell, holds the reading end of a pipe from us and stops
//! the server when the pipe closes. What was committed survives; the next start recovers by itself. What the user has in the
//! folder keeps its content, owner and mode.
//!
//! PostgreSQL refuses to run as root, so for root everything of it runs as user `postgres`, or where there is none as `nobody`. Whoever runs as that user may do anything
//! to the cluster, and nothing to root: root's process opens nothing by name where that user may write. No program started here gets this
//! process's environment.

mod account;
mod download;
mod fetch;
mod guard;
mod home;
mod limits;
mod programs;
mod release;
mod unpack;

pub use fetch::Fetch;
pub use limits::{Limits, Step};
pub use programs::{Programs, find_programs, programs_in};
pub use release::{RELEASES, Release, Releases, ReleasesError};

use account::Account;
use guard::Guard;
use home::Home;
use private_folder::{Access, FolderError};
use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use thiserror::Error;

/// The environment variable that names the folder of `initdb` and `postgres`.
pub const PROGRAMS_VARIABLE: &str = "ROUNDHOUSE_POSTGRES_BIN";
/// The environment variable that names the release server, for messages: who reads it gives a [`Fetch`] what it says.
pub const RELEASES_VARIABLE: &str = "ROUNDHOUSE_POSTGRESQL_RELEASES";
/// Oldest major version that the migrations are tested with.
const MAJOR_MIN: u32 = 14;
/// The superuser of a private cluster.
const USER: &str = "roundhouse";
/// Crash recovery after a heavy load takes a while; a server that needs longer has another trouble.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// A fast shutdown writes one checkpoint.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// What is advised in the place of a data folder that the server's user cannot reach.
const DATA_INSTEAD: &str = "a data folder that everybody may reach, such as /var/lib/roundhouse";

/// Why there is no server.
#[derive(Debug, Error)]
pub enum PostgresError {
    /// No server programs: install them, or point to them.
    #[error(
        "PostgreSQL's server programs (initdb, postgres) were not found in PATH or the usual folders: install PostgreSQL \
         {MAJOR_MIN} or newer (Debian: apt-get install postgresql), name their folder in ${PROGRAMS_VARIABLE}, or give a \
         database URL"
    )]
    NotInstalled,
    /// No server programs, and nobody has them for this system.
    #[error(
        "PostgreSQL's server programs (initdb, postgres) were not found in PATH or the usual folders, and there is no release \
         to fetch for this system: install PostgreSQL {MAJOR_MIN} or newer, or name their folder in ${PROGRAMS_VARIABLE}"
    )]
    NoRelease,
    /// The folder that the user names has no server programs that serve.
    #[error(
        "{folder} holds no server programs that serve: {reason}. Name the folder of initdb and postgres, of PostgreSQL \
         {MAJOR_MIN} or newer (${PROGRAMS_VARIABLE})"
    )]
    NoPrograms {
        /// Which folder.
        folder: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// No server programs, and a release that cannot be had.
    #[error(
        "PostgreSQL is not installed here, and {url} cannot be fetched: {reason}. Install PostgreSQL {MAJOR_MIN} or newer \
         (Debian: apt-get install postgresql), or name a release server within reach in ${RELEASES_VARIABLE}"
    )]
    Fetch {
        /// What was to be fetched.
        url: String,
        /// Why that failed.
        reason: String,
    },
    /// Server programs that were fetched do not run on this system.
    #[error(
        "PostgreSQL is not installed here, and the one that was fetched to {folder} does not run: {reason}. Install what is \
         missing, or PostgreSQL {MAJOR_MIN} or newer (Debian: apt-get install postgresql)"
    )]
    Fetched {
        /// Where they are.
        folder: PathBuf,
        /// What is missing.
        reason: String,
    },
    /// Another process has this cluster.
    #[error("{folder} is in use by another process (pid {pid}): wait for it, or choose another data folder")]
    InUse {
        /// The cluster's folder.
        folder: PathBuf,
        /// Who has it.
        pid: String,
    },
    /// The cluster was made by another version.
    #[error(
        "{folder} holds a cluster of PostgreSQL {found}, and the programs in {programs} are version {expected}: name the folder \
         of programs of version {found} in ${PROGRAMS_VARIABLE}, or choose another data folder"
    )]
    OtherVersion {
        /// The cluster's folder.
        folder: PathBuf,
        /// Its version.
        found: String,
        /// Where the programs are.
        programs: PathBuf,
        /// Their version.
        expected: u32,
    },
    /// The user that the server runs as cannot reach the folder.
    #[error(
        "PostgreSQL cannot run as root and runs as {user}, who cannot enter {closed}, and so not {folder}: choose {instead}, or \
         let others pass with `chmod o+x {closed}`"
    )]
    Unreachable {
        /// The folder that it must reach.
        folder: PathBuf,
        /// The first folder on the way that is closed.
        closed: PathBuf,
        /// Who cannot enter it.
        user: String,
        /// What the user may choose.
        instead: &'static str,
    },
    /// A server program failed.
    #[error("{program} failed for {folder}: {reason}")]
    Program {
        /// Which.
        program: &'static str,
        /// For which cluster.
        folder: PathBuf,
        /// What it said.
        reason: String,
    },
    /// Something that is not ours is where the cluster would be.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A file or folder cannot be made.
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

impl PostgresError {
    /// Whether a folder that was named cannot hold a cluster or a release, or has no server programs; nothing was changed then.
    #[must_use]
    pub fn is_wrong_folder(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. } | Self::Folder(FolderError::NotOurs { .. }) | Self::NoPrograms { .. }
        )
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PostgresError {
    let path = path.to_owned();
    move |reason| PostgresError::Io { action, path, reason }
}

/// How to run a cluster.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Settings beside the defaults, as name and value.
    pub settings: Vec<(String, String)>,
    /// Removes the cluster when it stops, for tests.
    pub is_temporary: bool,
    /// The server's programs; those that [`find_programs`] finds, if none are given.
    pub programs: Option<Programs>,
}

/// Who must be able to pass through the folders above a cluster's: what is created there by others than [`EmbeddedPostgres::start`] needs
/// this access, too.
#[must_use]
pub fn access_above() -> Access {
    Account::of_the_server().access()
}

/// That the server's user can come to a folder, which need not be there; nothing is changed.
///
/// # Errors
/// [`PostgresError::Unreachable`].
pub fn check_passage(folder: &Path) -> Result<(), PostgresError> {
    Account::of_the_server().check_passage(folder, DATA_INSTEAD)
}

/// A running server. Dropping it stops the server and waits for that.
#[derive(Debug)]
pub struct EmbeddedPostgres {
    // Before the home, so that the lock is held until the server has stopped.
    guard: Guard,
    home: Home,
}

impl EmbeddedPostgres {
    /// Starts the cluster in the folder `postgres` of `folder`, which is created and initialised where it is not yet. Blocks until the
    /// server answers: a fresh cluster takes a second or two.
    ///
    /// # Errors
    /// See [`PostgresError`].
    pub fn start(folder: &Path, options: &Options) -> Result<Self, PostgresError> {
        let account = Account::of_the_server();
        let programs = options.programs.clone().map_or_else(find_programs, Ok)?;
        account.check_passage(folder, DATA_INSTEAD)?;
        let is_made = !folder.exists();
        let home = Home::open(folder, &account)?;
        home.initialise(&account, &programs)?;
        home.wait_for_predecessor();
        let before = home.state_file();
        let log = home.new_log()?;
        let made = home.path().parent().filter(|_| is_made);
        let guard = Guard::start(&home, made, &log, &account, &programs.folder, options)?;
        let mut server = Self { guard, home };
        server.wait_until_ready(&log, &before)?;
        Ok(server)
    }

    /// The URL of a database of this cluster; `postgres` always exists.
    ///
    /// It says what a driver would else take from the environment or a password file: whoever the server runs as may listen on its socket,
    /// and would be told the password for another server. The server here asks for none.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{USER}:none@localhost:5432/{database}?host={}", encode(self.home.socket_folder()))
    }

    /// The socket that the server listens on.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.home.socket_folder().join(".s.PGSQL.5432")
    }

    /// The server's first process, the parent of all others, while it runs.
    #[must_use]
    pub fn postmaster(&self) -> Option<u32> {
        self.home.postmaster()
    }

    /// Stops the server and waits for it, as dropping does.
    pub fn stop(self) {}

    fn wait_until_ready(&mut self, log: &File, before: &str) -> Result<(), PostgresError> {
        let begun = Instant::now();
        loop {
            // The last line of postmaster.pid is the server's own word on its state.
            let state = self.home.state_file();
            // A predecessor that was killed left its own word behind.
            let is_its_own = state != before;
            if is_its_own && state.lines().nth(7).is_some_and(|line| line.trim() == "ready") {
                return Ok(());
            }
            let is_gone = state.is_empty() && begun.elapsed() > Duration::from_secs(10);
            if is_gone || self.guard.has_ended() || begun.elapsed() > START_TIMEOUT {
                return Err(PostgresError::Program {
                    program: "postgres",
                    folder: self.home.path().to_owned(),
                    reason: home::last_lines(log),
                });
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }
}

impl Drop for EmbeddedPostgres {
    fn drop(&mut self) {
        self.guard.stop(STOP_TIMEOUT);
    }
}

/// A path as the value of a URL's query.
fn encode(path: &Path) -> String {
    path.to_string_lossy()
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'/' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}
