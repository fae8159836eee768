//! A private PostgreSQL server for one machine: started and stopped with its process, never left behind.
//!
//! Uses the server programs that the machine has ([`find_programs`] says where it looks). The cluster lives in a folder of its
//! own, listens on a Unix socket only, that only its owner may reach, and keeps PostgreSQL's safe durability defaults.
//!
//! **Invariants.** One process at a time has a folder's cluster (a lock that dies with the process). The server never outlives
//! its process, however that ends: a guard, a few lines of shell, holds the reading end of a pipe from us and stops
//! the server when the pipe closes. What was committed survives; the next start recovers by itself.
//!
//! PostgreSQL refuses to run as root, so for root everything of it runs as user `postgres`, or `nobody`.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write},
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};
use thiserror::Error;

/// The environment variable that names the folder of `initdb` and `postgres`.
pub const PROGRAMS_VARIABLE: &str = "ROUNDHOUSE_POSTGRES_BIN";
/// Oldest major version that the migrations are tested with.
const MAJOR_MIN: u32 = 14;
/// The superuser of a private cluster.
const USER: &str = "roundhouse";
/// A Unix socket's path has 107 bytes at most; the rest is for the socket's own name.
const SOCKET_FOLDER_BYTES_MAX: usize = 80;
/// Crash recovery after a heavy load takes a while; a server that needs longer has another trouble.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// A fast shutdown writes one checkpoint.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// The guard: starts the server, waits until our end of the pipe closes, stops the server, and removes the
/// cluster where asked. `$1` is the folder to remove or empty.
const GUARD: &str = r#"
remove=$1; shift
"$@" </dev/null 3<&- &
server=$!
while read -r _ <&3; do :; done
kill -INT "$server" 2>/dev/null
wait "$server"
if [ -n "$remove" ]; then rm -rf "$remove"; fi
"#;

/// Why there is no server.
#[derive(Debug, Error)]
pub enum PostgresError {
    /// No server programs: install them, or point to them.
    #[error(
        "PostgreSQL's server programs (initdb, postgres) were not found in ${PROGRAMS_VARIABLE}, PATH, or the usual \
         folders: install PostgreSQL {MAJOR_MIN} or newer (Debian: apt-get install postgresql), or give a database URL"
    )]
    NotInstalled,
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
        "{folder} holds a cluster of PostgreSQL {found}, and the programs in {programs} are version {expected}"
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
        "PostgreSQL cannot run as root and runs as {user}, who cannot enter {folder}: \
         choose a data folder outside of private ones, such as /var/lib/roundhouse"
    )]
    Unreachable {
        /// The cluster's folder.
        folder: PathBuf,
        /// Who cannot enter it.
        user: String,
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
    /// A file or folder cannot be made.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PostgresError {
    let path = path.to_owned();
    move |source| PostgresError::Io { action, path, source }
}

/// How to run a cluster.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Settings beside the defaults, as name and value.
    pub settings: Vec<(String, String)>,
    /// Removes the cluster when it stops, for tests.
    pub is_temporary: bool,
}

/// A running server. Dropping it stops the server and waits for that.
#[derive(Debug)]
pub struct EmbeddedPostgres {
    socket_folder: PathBuf,
    data: PathBuf,
    guard: Child,
    /// Closing it is the guard's signal.
    pipe: Option<ChildStdin>,
    _lock: File,
}

/// Where the server programs are, and their major version: `$ROUNDHOUSE_POSTGRES_BIN`, PATH, then the newest of
/// `/usr/lib/postgresql/*/bin`, `/usr/pgsql-*/bin`, `/usr/local/pgsql/bin`, Homebrew's and Postgres.app's folders.
///
/// # Errors
/// [`PostgresError::NotInstalled`].
pub fn find_programs() -> Result<(PathBuf, u32), PostgresError> {
    let from_variable = std::env::var_os(PROGRAMS_VARIABLE).map(PathBuf::from).into_iter();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/lib/postgresql/*/bin", "/usr/*/bin", "/usr/local/*/bin", "/opt/homebrew/opt/*/bin"]
        .into_iter()
        .flat_map(expand);
    from_variable
        .chain(std::env::split_paths(&path))
        .chain(usual)
        .filter(|folder| folder.join("initdb").is_file() && folder.join("postgres").is_file())
        .find_map(|folder| version_of(&folder).map(|version| (folder, version)))
        .filter(|(_, version)| *version >= MAJOR_MIN)
        .ok_or(PostgresError::NotInstalled)
}

/// The folders that a pattern with one `*` part names, last name first, so that newer versions come first.
fn expand(pattern: &str) -> Vec<PathBuf> {
    let Some((before, after)) = pattern.split_once("/*/") else { return Vec::new() };
    let mut found: Vec<PathBuf> = fs::read_dir(before)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join(after)))
        .collect();
    found.sort();
    found.reverse();
    found
}

fn version_of(programs: &Path) -> Option<u32> {
    let output = Command::new(programs.join("postgres")).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let number = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Who runs the server: ourselves, or for root another.
#[derive(Debug, Clone)]
struct Account {
    name: String,
    ids: Option<(u32, u32)>,
}

impl Account {
    fn for_owner(uid: u32) -> Self {
        if uid != 0 {
            return Self { name: "this user".to_owned(), ids: None };
        }
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let ids = |wanted: &str| {
            passwd.lines().find_map(|line| {
                let mut fields = line.split(':');
                let name = fields.next()?;
                let uid = fields.nth(1)?.parse().ok()?;
                let gid = fields.next()?.parse().ok()?;
                (name == wanted).then_some((uid, gid))
            })
        };
        ["postgres", "nobody"]
            .into_iter()
            .find_map(|name| Some(Self { name: name.to_owned(), ids: Some(ids(name)?) }))
            .unwrap_or(Self { name: "user 65534".to_owned(), ids: Some((65_534, 65_534)) })
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        if let Some((uid, gid)) = self.ids {
            command.uid(uid).gid(gid);
        }
        command
    }

    fn own(&self, path: &Path) -> Result<(), PostgresError> {
        if let Some((uid, gid)) = self.ids {
            chown(path, Some(uid), Some(gid)).map_err(io_error("hand over", path))?;
        }
        Ok(())
    }
}

impl EmbeddedPostgres {
    /// Starts the cluster in `folder`, which is created and initialised where it is not yet. Blocks until the server
    /// answers: a fresh cluster takes a second or two.
    ///
    /// # Errors
    /// See [`PostgresError`].
    pub fn start(folder: &Path, options: &Options) -> Result<Self, PostgresError> {
        fs::create_dir_all(folder).map_err(io_error("create", folder))?;
        let folder = &folder.canonicalize().map_err(io_error("open", folder))?;
        let lock = take_lock(folder)?;
        let owner = lock.metadata().map_err(io_error("look at", folder))?.uid();
        let account = Account::for_owner(owner);
        let (programs, version) = find_programs()?;
        check_reachable(folder, &account)?;

        let data = folder.join("data");
        initialise(folder, &data, &account, &programs, version)?;
        wait_for_predecessor(&data);
        let socket_folder = make_socket_folder(folder, &account)?;
        let before = state_file(&data);
        let (guard, pipe) = spawn(folder, &data, &socket_folder, &account, &programs, options)?;
        let mut server = Self { socket_folder, data: data.clone(), guard, pipe: Some(pipe), _lock: lock };
        server.wait_until_ready(folder, &data, &before)?;
        Ok(server)
    }

    /// The URL of a database of this cluster; `postgres` always exists.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{USER}@localhost/{database}?host={}", encode(&self.socket_folder))
    }

    /// The socket that the server listens on.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.socket_folder.join(".s.PGSQL.5432")
    }

    /// The server's first process, the parent of all others, while it runs.
    #[must_use]
    pub fn postmaster(&self) -> Option<u32> {
        state_file(&self.data).lines().next()?.trim().parse().ok()
    }

    /// Stops the server and waits for it, as dropping does.
    pub fn stop(self) {}

    fn wait_until_ready(&mut self, folder: &Path, data: &Path, before: &str) -> Result<(), PostgresError> {
        let begun = Instant::now();
        loop {
            // The last line of postmaster.pid is the server's own word on its state.
            let pid_file = state_file(data);
            // A predecessor that was killed left its own word behind.
            let is_its_own = pid_file != before;
            if is_its_own && pid_file.lines().nth(7).is_some_and(|line| line.trim() == "ready") {
                return Ok(());
            }
            let is_gone = pid_file.is_empty() && begun.elapsed() > Duration::from_secs(10);
            let guard_ended = self.guard.try_wait().ok().flatten().is_some();
            if is_gone || guard_ended || begun.elapsed() > START_TIMEOUT {
                let log = fs::read_to_string(folder.join("postgres.log")).unwrap_or_default();
                let lines: Vec<&str> = log.lines().rev().take(5).collect();
                return Err(PostgresError::Program {
                    program: "postgres",
                    folder: folder.to_owned(),
                    reason: lines.into_iter().rev().collect::<Vec<_>>().join(" | "),
                });
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }
}

impl Drop for EmbeddedPostgres {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let begun = Instant::now();
        while begun.elapsed() < STOP_TIMEOUT {
            if !matches!(self.guard.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }
}

/// What the server says of itself: its process, its folder, its start, and last its state.
fn state_file(data: &Path) -> String {
    fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default()
}

fn take_lock(folder: &Path) -> Result<File, PostgresError> {
    let path = folder.join("lock");
    let open = || File::options().create(true).read(true).write(true).truncate(false).open(&path);
    let mut lock = open().map_err(io_error("open", &path))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let pid = fs::read_to_string(&path).unwrap_or_default();
            return Err(PostgresError::InUse { folder: folder.to_owned(), pid: pid.trim().to_owned() });
        }
        Err(TryLockError::Error(e)) => return Err(io_error("lock", &path)(e)),
    }
    lock.set_len(0).map_err(io_error("write", &path))?;
    writeln!(lock, "{}", std::process::id()).map_err(io_error("write", &path))?;
    Ok(lock)
}

fn check_reachable(folder: &Path, account: &Account) -> Result<(), PostgresError> {
    account.own(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(io_error("protect", folder))?;
    let status = account
        .command("/bin/sh")
        .args(["-c", "cd \"$0\""])
        .arg(folder)
        .current_dir("/")
        .stderr(Stdio::null())
        .status();
    if status.is_ok_and(|status| status.success()) {
        return Ok(());
    }
    Err(PostgresError::Unreachable { folder: folder.to_owned(), user: account.name.clone() })
}

/// Makes the cluster unless it is whole. A marker tells: a half-made one, of a killed `initdb`, is made anew.
fn initialise(
    folder: &Path,
    data: &Path,
    account: &Account,
    programs: &Path,
    version: u32,
) -> Result<(), PostgresError> {
    let marker = folder.join("initialised");
    if marker.exists() {
        let found = fs::read_to_string(data.join("PG_VERSION")).unwrap_or_default().trim().to_owned();
        if found == version.to_string() {
            return Ok(());
        }
        return Err(PostgresError::OtherVersion {
            folder: folder.to_owned(),
            found,
            programs: programs.to_owned(),
            expected: version,
        });
    }
    if data.exists() {
        fs::remove_dir_all(data).map_err(io_error("remove the half-made", data))?;
    }
    let output = account
        .command(programs.join("initdb"))
        .args(["--username", USER, "--auth=trust", "--encoding=UTF8", "--no-locale", "--pgdata"])
        .arg(data)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .map_err(io_error("run initdb in", folder))?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr).trim().replace('\n', " | ");
        return Err(PostgresError::Program { program: "initdb", folder: folder.to_owned(), reason });
    }
    File::create(&marker).and_then(|file| file.sync_all()).map_err(io_error("write", &marker))
}

/// A server whose process was just killed is stopping; the new one must not meet it.
fn wait_for_predecessor(data: &Path) {
    let begun = Instant::now();
    while begun.elapsed() < STOP_TIMEOUT {
        let is_alive = state_file(data).lines().next().is_some_and(|pid| is_postgres(pid.trim()));
        if !is_alive {
            return;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

fn is_postgres(pid: &str) -> bool {
    !pid.is_empty()
        && Command::new("ps")
            .args(["-o", "comm=", "-p", pid])
            .output()
            .is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("postgres"))
}

/// The folder of the socket: the cluster's own, or, where that path is too long for a socket, one below the
/// system's temporary folder.
fn make_socket_folder(folder: &Path, account: &Account) -> Result<PathBuf, PostgresError> {
    if folder.as_os_str().len() <= SOCKET_FOLDER_BYTES_MAX {
        return Ok(folder.to_owned());
    }
    let mut hash = std::hash::DefaultHasher::new();
    std::hash::Hash::hash(folder, &mut hash);
    let name = format!("roundhouse-{:016x}", std::hash::Hasher::finish(&hash));
    let socket_folder = std::env::temp_dir().join(name);
    fs::create_dir_all(&socket_folder).map_err(io_error("create", &socket_folder))?;
    account.own(&socket_folder)?;
    fs::set_permissions(&socket_folder, fs::Permissions::from_mode(0o700))
        .map_err(io_error("protect", &socket_folder))?;
    Ok(socket_folder)
}

fn spawn(
    folder: &Path,
    data: &Path,
    socket_folder: &Path,
    account: &Account,
    programs: &Path,
    options: &Options,
) -> Result<(Child, ChildStdin), PostgresError> {
    let log_path = folder.join("postgres.log");
    let log = File::create(&log_path).map_err(io_error("create", &log_path))?;
    account.own(&log_path)?;
    let mut command = account.command("/bin/sh");
    // The pipe comes in as standard input and is moved to descriptor 3, away from the server.
    command.arg("-c").arg(format!("exec 3<&0 </dev/null\n{GUARD}")).arg("guard");
    if options.is_temporary {
        command.arg(folder);
    } else {
        command.arg("");
    }
    command.arg(programs.join("postgres")).arg("-D").arg(data).arg("-k").arg(socket_folder);
    command.args(["-c", "listen_addresses=", "-c", "max_connections=200"]);
    // A pick passes over the index entries of all that was picked since the last vacuum: those of a minute, as it ships, are many.
    command.args(["-c", "autovacuum_naptime=10s"]);
    for (name, value) in &options.settings {
        command.arg("-c").arg(format!("{name}={value}"));
    }
    command
        .current_dir(folder)
        // A group of its own: Ctrl-C is for us, and we stop the server after our last write to it.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(log.try_clone().map_err(io_error("open", &log_path))?)
        .stderr(log);
    let mut guard = command.spawn().map_err(io_error("start the server in", folder))?;
    match guard.stdin.take() {
        Some(pipe) => Ok((guard, pipe)),
        None => Err(PostgresError::Program {
            program: "sh",
            folder: folder.to_owned(),
            reason: "it has no standard input".to_owned(),
        }),
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
