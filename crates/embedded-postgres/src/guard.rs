//! The processes beside the server that end it, and clear up, however ours ends.

use crate::{Options, PostgresError, account::Account, account::bare_command, home::Home, io_error};
use std::{
    fs::File,
    io::PipeWriter,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

/// The guard: starts the server, waits until our end of the pipe closes, and stops the server. It runs as the server's user, to whom a
/// socket folder elsewhere belongs: `$1` is that or empty. Its output is the cleaner's pipe, and not the server's.
const GUARD: &str = r#"
exec 3<&0 </dev/null
elsewhere=$1; shift
"$@" >&2 3<&- &
server=$!
while read -r _ <&3; do :; done
kill -INT "$server" 2>/dev/null
wait "$server"
if [ -n "$elsewhere" ]; then rmdir "$elsewhere"; fi
"#;

/// The cleaner of a temporary cluster: waits until the guard has ended, and removes the cluster's folder `$1`, by its mark, and the folder
/// `$2` above it, if it was made for it.
const CLEANER: &str = r#"
while read -r _; do :; done
[ ! -L "$1" ] && cd "$1" && [ -f .roundhouse ] && [ ! -L .roundhouse ] || exit 1
rm -rf -- ./data ./socket ./lock ./initialised ./postgres.log ./socket-folder && rm -f ./.roundhouse
cd / && rmdir "$1"
if [ -n "$2" ]; then rmdir "$2"; fi
"#;

/// What runs for a server, and how it is told to end.
#[derive(Debug)]
pub(crate) struct Guard {
    guard: Child,
    cleaner: Option<Child>,
    /// Closing it is the guard's signal.
    pipe: Option<PipeWriter>,
}

impl Guard {
    /// Starts the server. `made` is the folder above the cluster's, if it was made for it.
    pub(crate) fn start(
        home: &Home,
        made: Option<&Path>,
        log: &File,
        account: &Account,
        programs: &Path,
        options: &Options,
    ) -> Result<Self, PostgresError> {
        let folder = home.path();
        let failed = || io_error("start the server in", folder);
        let (input, pipe) = std::io::pipe().map_err(failed())?;
        let (cleaner, output) = if options.is_temporary {
            let (input, output) = std::io::pipe().map_err(failed())?;
            let mut command = bare_command("/bin/sh");
            command.args(["-c", CLEANER, "cleaner"]).arg(folder).arg(made.unwrap_or(Path::new("")));
            command
                .current_dir("/")
                .process_group(0)
                .stdin(input)
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            (Some(command.spawn().map_err(failed())?), Stdio::from(output))
        } else {
            (None, Stdio::null())
        };
        let mut command = account.command("/bin/sh");
        command.args(["-c", GUARD, "guard"]).arg(home.socket_elsewhere().unwrap_or(Path::new("")));
        command.arg(programs.join("postgres")).arg("-D").arg(home.data());
        // A list of folders, each quoted.
        let socket_folder = home.socket_folder().to_string_lossy().replace('"', "\"\"");
        command.arg("-c").arg(format!("unix_socket_directories=\"{socket_folder}\""));
        command.args([
            "-c",
            "unix_socket_permissions=0700",
            "-c",
            "listen_addresses=",
            "-c",
            "max_connections=200",
        ]);
        // A pick passes over the index entries of all that was picked since the last vacuum: those of a minute, as it ships, are many.
        command.args(["-c", "autovacuum_naptime=10s"]);
        // What parallel queries share lies in the cluster's folder. As it ships it lies in /dev/shm, of which a container has 64 MiB, for all that
        // run at once: six joins of reports' tables fail there. Reports take as long, and commits do.
        command.args(["-c", "dynamic_shared_memory_type=mmap"]);
        for (name, value) in &options.settings {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        command.stdin(input).stdout(output).stderr(log.try_clone().map_err(failed())?);
        let guard = command.spawn().map_err(failed())?;
        Ok(Self { guard, cleaner, pipe: Some(pipe) })
    }

    /// Whether the server is gone with its guard.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.guard.try_wait().ok().flatten().is_some()
    }

    /// Stops the server, and waits for that, and for the cleaner.
    pub(crate) fn stop(&mut self, limit: Duration) {
        drop(self.pipe.take());
        let begun = Instant::now();
        for child in [Some(&mut self.guard), self.cleaner.as_mut()].into_iter().flatten() {
            while matches!(child.try_wait(), Ok(None)) && begun.elapsed() < limit {
                std::thread::sleep(crate::POLL_INTERVAL);
            }
        }
    }
}
