//! The server programs of this machine.

use crate::account::{Account, bare_command};
use crate::{MAJOR_MIN, PROGRAMS_VARIABLE, PostgresError};
use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// Where the server programs are, and their major version: `$ROUNDHOUSE_POSTGRES_BIN`, PATH, then the newest of
/// `/usr/lib/postgresql/*/bin`, `/usr/pgsql-*/bin`, `/usr/local/pgsql/bin`, Homebrew's and Postgres.app's folders.
///
/// # Errors
/// [`PostgresError::NotInstalled`].
pub fn find_programs() -> Result<(PathBuf, u32), PostgresError> {
    let from_variable =
        env::var_os(PROGRAMS_VARIABLE).and_then(|folder| std::path::absolute(folder).ok()).into_iter();
    let path = env::var_os("PATH").unwrap_or_default();
    // A relative part of PATH means another folder to every process.
    let path = env::split_paths(&path).filter(|folder| folder.is_absolute());
    let usual = ["/usr/lib/postgresql/*/bin", "/usr/*/bin", "/usr/local/*/bin", "/opt/homebrew/opt/*/bin"]
        .into_iter()
        .flat_map(expand);
    from_variable
        .chain(path)
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
    // As whoever will run the server: the program may be that user's own.
    let output =
        Account::of_the_server().command(programs.join("postgres")).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let number = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Whether a process of this number runs and is a PostgreSQL server's.
pub(crate) fn is_postgres(pid: u32) -> bool {
    let output = bare_command("ps").args(["-o", "comm=", "-p", &pid.to_string()]).output();
    output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("postgres"))
}
