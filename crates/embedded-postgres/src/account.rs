//! Who runs the server.

use crate::{POLL_INTERVAL, PostgresError, io_error};
use private_folder::Access;
use rustix::io::{FdFlags, fcntl_setfd};
use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    os::fd::BorrowedFd,
    os::unix::{ffi::OsStringExt, fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, UNIX_EPOCH},
};

/// Between the making of a folder and its opening for others there is one call; a busy machine may take its time. The moment of the making is
/// known to the second.
const HALF_MADE_MAX: Duration = Duration::from_secs(2);

/// Says the first of the folders given that cannot be entered.
const ENTER_EACH: &str =
    r#"for folder do cd "$folder" 2>/dev/null || { printf %s "$folder"; exit 1; }; done"#;

/// A command without this process's environment, which holds passwords: whoever runs as the server's user reads its environment. What
/// stays says where programs and temporary files are.
pub(crate) fn bare_command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("LC_ALL", "C");
    for name in ["PATH", "TMPDIR"] {
        if let Some(value) = env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

/// Who runs the server: ourselves, or for root another.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    name: String,
    /// User and group, where they are not this process's.
    pub(crate) ids: Option<(u32, u32)>,
}

impl Account {
    /// The one for a server of this process.
    pub(crate) fn of_the_server() -> Self {
        if !rustix::process::geteuid().is_root() {
            return Self { name: "this user".to_owned(), ids: None };
        }
        Self::of_roots_server(&fs::read_to_string("/etc/passwd").unwrap_or_default())
    }

    /// The account that root's server runs as: `postgres`, which a package makes, or else `nobody`. Not a number that nobody has: `initdb` asks
    /// for its user's name.
    fn of_roots_server(passwd: &str) -> Self {
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

    /// Who must pass through the folders above the server's.
    pub(crate) fn access(&self) -> Access {
        if self.ids.is_some() { Access::Passage } else { Access::Owner }
    }

    /// A command that this account runs, in the root folder and in a session of its own.
    ///
    /// Root's session has root's terminal: a process of another account in it could read what root types there, and type itself. And
    /// Ctrl-C, which the terminal sends to its session, is for us: we stop the server after our last write to it.
    #[expect(
        unsafe_code,
        reason = "between fork and exec the child makes one system call, and touches no memory"
    )]
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        keep_descriptors();
        let mut command = bare_command(program);
        command.current_dir("/");
        // SAFETY: `setsid` may be called between `fork` and `exec`: it is async-signal-safe, and allocates nothing.
        unsafe { command.pre_exec(|| Ok(rustix::process::setsid().map(drop)?)) };
        if let Some((uid, gid)) = self.ids {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// That it can enter every folder above this path that is there; nothing is changed before that is known. `instead` is what the user may
    /// choose if not.
    pub(crate) fn check_passage(&self, path: &Path, instead: &'static str) -> Result<(), PostgresError> {
        if self.ids.is_none() {
            return Ok(());
        }
        let path = std::path::absolute(path).map_err(io_error("find", path))?;
        loop {
            let Some(closed) = self.closed_folder(&path)? else { return Ok(()) };
            if !may_be_half_made(&closed) {
                return Err(PostgresError::Unreachable {
                    folder: path,
                    closed,
                    user: self.name.clone(),
                    instead,
                });
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// The first folder on the way to this path that it cannot enter.
    fn closed_folder(&self, path: &Path) -> Result<Option<PathBuf>, PostgresError> {
        let there = path.ancestors().find_map(|folder| folder.canonicalize().ok()).unwrap_or_default();
        let mut folders: Vec<&Path> = there.ancestors().collect();
        folders.reverse();
        let output = self
            .command("/bin/sh")
            .args(["-c", ENTER_EACH, "sh"])
            .args(&folders)
            .stdin(Stdio::null())
            .output()
            .map_err(io_error("run /bin/sh to look at", path))?;
        let is_closed = !output.status.success();
        Ok(is_closed.then(|| PathBuf::from(OsString::from_vec(output.stdout))))
    }
}

/// Whether another process of this user may be making this folder: it is closed at first, and open a moment later.
fn may_be_half_made(folder: &Path) -> bool {
    let Ok(found) = folder.symlink_metadata() else { return false };
    let changed = UNIX_EPOCH + Duration::from_secs(found.ctime().try_into().unwrap_or(0));
    let is_ours = found.uid() == rustix::process::geteuid().as_raw();
    is_ours && changed.elapsed().is_ok_and(|age| age < HALF_MADE_MAX)
}

/// Keeps what this process was started with to itself: files that only we may read, terminals. What it opens itself is closed in other programs
/// anyway.
#[expect(unsafe_code, reason = "a descriptor that is known by its number alone is used for one system call")]
fn keep_descriptors() {
    // `/dev/fd` is the one that other systems than Linux have.
    for entry in fs::read_dir("/dev/fd").into_iter().flatten().flatten() {
        let number: Option<i32> = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(number) = number.filter(|number| *number > 2) else { continue };
        // SAFETY: The number was open a moment ago. If another thread closed it since, the call fails, or marks what that thread opened, which
        // is marked already.
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        let _ = fcntl_setfd(descriptor, FdFlags::CLOEXEC);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn roots_server_runs_as_postgres_or_where_there_is_none_as_nobody_and_never_as_root() {
        let with =
            "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65533::/:/bin/false\npostgres:x:101:104:::\n";
        let ids = |passwd: &str| Account::of_roots_server(passwd).ids;
        assert_eq!(ids(with), Some((101, 104)));
        assert_eq!(ids(with.rsplit_once("postgres").unwrap().0), Some((65_534, 65_533)));
        assert_eq!(ids("root:x:0:0:root:/root:/bin/sh\n"), Some((65_534, 65_534)));
    }

    /// Two processes make the same folders at the same time: what is closed to others for a moment is not closed.
    #[test]
    fn a_folder_that_is_just_being_made_is_waited_for() {
        let account = Account::of_the_server();
        if account.ids.is_none() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        let opened = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
        });
        account.check_passage(&folder.path().join("none/yet"), "another").unwrap();
        opened.join().unwrap();
    }

    /// What a shell gave us, `7<secret`, the server's user may not have.
    #[test]
    fn what_runs_as_another_account_has_no_descriptors_of_ours() {
        let secret = std::fs::File::open("/etc/hostname").unwrap();
        let inherited = rustix::io::dup(&secret).unwrap();
        fcntl_setfd(&inherited, FdFlags::empty()).unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&inherited);
        let script = format!("if [ -e /proc/self/fd/{number} ]; then echo open; else echo closed; fi");
        let output = Account::of_the_server().command("/bin/sh").args(["-c", &script]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "closed\n");
    }

    /// In our session a process of another account has our terminal: it can read what is typed there, and type itself.
    #[test]
    fn what_runs_as_another_account_has_no_terminal_of_ours() {
        let output = Account::of_the_server()
            .command("/bin/sh")
            .args(["-c", "read -r _ _ _ _ _ session terminal _ </proc/self/stat; echo $$ $session $terminal"])
            .output()
            .unwrap();
        let words = String::from_utf8(output.stdout).unwrap();
        let words: Vec<&str> = words.split_whitespace().collect();
        assert_eq!(words.len(), 3, "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!((words[0], words[2]), (words[1], "0"), "its session is its own, without a terminal");
    }
}
