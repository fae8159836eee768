//! The server programs of this machine.

use crate::account::{Account, bare_command};
use crate::{MAJOR_MIN, PROGRAMS_VARIABLE, PostgresError};
use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// What is shown of a program's words.
const WORDS_MAX: usize = 300;

/// Server programs that run here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    /// The folder of `initdb` and `postgres`.
    pub folder: PathBuf,
    /// Their major version.
    pub version: u32,
}

/// The server programs of this machine: those in `$ROUNDHOUSE_POSTGRES_BIN`, if it is set; else the first in PATH, and then the newest of
/// `/usr/lib/postgresql/*/bin`, `/usr/pgsql-*/bin`, `/usr/local/pgsql/bin`, Homebrew's and Postgres.app's folders, that are new enough.
///
/// # Errors
/// [`PostgresError::NotInstalled`], or [`PostgresError::NoPrograms`] for the folder that the variable names.
pub fn find_programs() -> Result<Programs, PostgresError> {
    if let Some(folder) = env::var_os(PROGRAMS_VARIABLE).filter(|folder| !folder.is_empty()) {
        return programs_in(Path::new(&folder));
    }
    let path = env::var_os("PATH").unwrap_or_default();
    // A relative part of PATH means another folder to every process.
    let path = env::split_paths(&path).filter(|folder| folder.is_absolute());
    let usual = ["/usr/lib/postgresql/*/bin", "/usr/*/bin", "/usr/local/*/bin", "/opt/homebrew/opt/*/bin"]
        .into_iter()
        .flat_map(expand);
    path.chain(usual)
        .find_map(|folder| look_into(&folder).ok().map(|version| Programs { folder, version }))
        .ok_or(PostgresError::NotInstalled)
}

/// The server programs in a folder that the user names.
///
/// # Errors
/// [`PostgresError::NoPrograms`] when there are none, when they are too old, or when they do not run.
pub fn programs_in(folder: &Path) -> Result<Programs, PostgresError> {
    let failed = |reason| PostgresError::NoPrograms { folder: folder.to_owned(), reason };
    // They run with another current folder.
    let absolute = std::path::absolute(folder).map_err(|e| failed(e.to_string()))?;
    let version = look_into(&absolute).map_err(failed)?;
    Ok(Programs { folder: absolute, version })
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

/// The major version of the server programs in a folder, or why they do not serve.
pub(crate) fn look_into(folder: &Path) -> Result<u32, String> {
    for program in ["initdb", "postgres"] {
        if !folder.join(program).is_file() {
            return Err(format!("there is no {program}"));
        }
    }
    // As whoever will run the server: the program may be that user's own.
    let output = Account::of_the_server()
        .command(folder.join("postgres"))
        .arg("--version")
        .output()
        .map_err(|e| format!("postgres cannot be run: {e}"))?;
    let words = |bytes: &[u8]| -> String {
        String::from_utf8_lossy(bytes).trim().replace('\n', " | ").chars().take(WORDS_MAX).collect()
    };
    if !output.status.success() {
        return Err(format!("postgres --version fails: {}", words(&output.stderr)));
    }
    let text = words(&output.stdout);
    let version = major_version(&text).ok_or_else(|| format!("postgres --version says {text:?}"))?;
    if version < MAJOR_MIN {
        return Err(format!("it is PostgreSQL {version}, and {MAJOR_MIN} is the oldest that serves"));
    }
    Ok(version)
}

fn major_version(text: &str) -> Option<u32> {
    let number = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Whether a process of this number runs and is a PostgreSQL server's.
pub(crate) fn is_postgres(pid: u32) -> bool {
    let output = bare_command("ps").args(["-o", "comm=", "-p", &pid.to_string()]).output();
    output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("postgres"))
}
