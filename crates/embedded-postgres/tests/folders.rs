//! What a private server does to the folders around it, and what its user can do to the process that started it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use embedded_postgres::{EmbeddedPostgres, Options, PROGRAMS_VARIABLE, PostgresError, find_programs};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    process::Command,
};

/// A folder of a user who lets others pass.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    set_mode(dir.path(), 0o755);
    dir
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn start(folder: &Path) -> EmbeddedPostgres {
    EmbeddedPostgres::start(folder, &Options::default()).unwrap()
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// Content or link, owner and mode of everything in a folder, itself included.
fn inventory(folder: &Path) -> BTreeMap<PathBuf, (u32, u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(path) = folders.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let mut content = Vec::new();
        if metadata.is_dir() {
            folders.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if metadata.is_file() {
            content = fs::read(&path).unwrap();
        }
        found.insert(path, (metadata.uid(), metadata.mode(), content));
    }
    found
}

#[test]
fn what_the_user_has_in_the_data_folder_keeps_content_owner_and_mode() {
    let dir = folder();
    let data = dir.path().join("photos");
    fs::create_dir_all(data.join("data/2024")).unwrap();
    for file in ["data/2024/one.jpg", "lock", "initialised", "postgres.log", "PG_VERSION"] {
        fs::write(data.join(file), "precious").unwrap();
    }
    set_mode(&data, 0o751);
    set_mode(&data.join("lock"), 0o644);
    let before = inventory(&data);
    for _ in 0..2 {
        start(&data).stop();
    }
    let mut after = inventory(&data);
    after.retain(|path, _| !path.starts_with(data.join("postgres")));
    assert_eq!(after, before);
}

#[test]
fn a_folder_that_is_not_ours_is_refused_and_stays() {
    let dir = folder();
    let theirs = dir.path().join("postgres");
    fs::create_dir(&theirs).unwrap();
    set_mode(&theirs, 0o755);
    let refused = |named: &str| {
        let before = inventory(dir.path());
        let error = EmbeddedPostgres::start(dir.path(), &Options::default()).unwrap_err();
        assert!(error.is_wrong_folder() && error.to_string().contains(named), "{error}");
        assert_eq!(inventory(dir.path()), before, "{error}");
    };
    refused("its mark");
    fs::write(theirs.join("letter"), "precious").unwrap();
    refused("its mark");
    fs::rename(&theirs, dir.path().join("elsewhere")).unwrap();
    symlink(dir.path().join("elsewhere"), &theirs).unwrap();
    refused("it is no folder");
}

#[test]
fn everything_of_the_cluster_is_private() {
    let dir = folder();
    let data = dir.path().join("made/for/it");
    let _server = start(&data);
    let home = data.join("postgres");
    for (path, found) in inventory(&home) {
        let is_home = path == home;
        // Where the server is another user's, that user passes through.
        let allowed = if is_home && is_root() { 0o711 } else { 0o700 };
        let is_socket = path.ends_with("socket/.s.PGSQL.5432");
        assert!(is_socket || found.1 & 0o777 & !allowed == 0, "{} has mode {:o}", path.display(), found.1);
        let is_servers = ["data", "socket"].iter().any(|name| path.starts_with(home.join(name)));
        if is_root() {
            assert_eq!(found.0 != 0, is_servers, "{} belongs to {}", path.display(), found.0);
        }
    }
    for made in [data.as_path(), data.parent().unwrap()] {
        let allowed = if is_root() { 0o711 } else { 0o700 };
        assert_eq!(fs::metadata(made).unwrap().mode() & 0o777, allowed);
    }
}

/// A user `postgres` who plants links under the names that root's process uses gets nothing of their targets.
#[test]
fn links_that_the_servers_user_plants_lead_nowhere() {
    if !is_root() {
        return;
    }
    let dir = folder();
    let target = dir.path().join("target");
    fs::write(&target, "root's\nsecret\n").unwrap();
    set_mode(&target, 0o600);
    start(dir.path()).stop();
    let home = dir.path().join("postgres");
    let user = fs::metadata(home.join("data")).unwrap();
    let names = ["postgres.log", "lock", "initialised", ".roundhouse", "postmaster.pid", "PG_VERSION"];
    // In the home the user cannot make one at all.
    for name in names {
        let mut plant = Command::new("ln");
        std::os::unix::process::CommandExt::uid(&mut plant, user.uid());
        let planted = plant.arg("-sf").arg(&target).arg(home.join(name)).output().unwrap();
        assert!(!planted.status.success(), "{name} is in the user's hands");
    }
    // In the cluster it can.
    symlink(&target, home.join("data/postmaster.pid")).unwrap();
    let error = match EmbeddedPostgres::start(dir.path(), &Options::default()) {
        Ok(server) => {
            drop(server);
            String::new()
        }
        Err(error) => error.to_string(),
    };
    assert!(!error.contains("secret"), "{error}");
    let after = fs::metadata(&target).unwrap();
    assert_eq!((after.uid(), after.mode() & 0o777), (0, 0o600));
    assert_eq!(fs::read_to_string(&target).unwrap(), "root's\nsecret\n");
    // The cluster's folder exchanged for a link, by whoever may.
    fs::rename(home.join("data"), home.join("data.real")).unwrap();
    symlink(dir.path(), home.join("data")).unwrap();
    let error = EmbeddedPostgres::start(dir.path(), &Options::default()).unwrap_err();
    assert!(error.is_wrong_folder(), "{error}");
    assert_eq!(fs::metadata(dir.path()).unwrap().uid(), 0);
}

#[test]
fn the_socket_folder_of_a_long_path_is_nobody_elses_and_stays_the_same() {
    let dir = folder();
    let data = dir.path().join("a long name ".repeat(8));
    let server = start(&data);
    let socket_folder = server.socket().parent().unwrap().to_owned();
    let home = data.join("postgres");
    assert!(!socket_folder.starts_with(dir.path()));
    assert_eq!(fs::metadata(&socket_folder).unwrap().mode() & 0o777, 0o700);
    let (first, other) = (server.url("postgres"), dir.path().join("another long name ".repeat(8)));
    assert_ne!(start(&other).socket().parent().unwrap(), socket_folder);
    server.stop();
    assert!(!socket_folder.exists(), "it goes with the server");
    let server = start(&data);
    assert_eq!(server.url("postgres"), first, "components find the server again");
    server.stop();
    // Somebody is there first: with a link, with a folder that others may enter, or as another user.
    for plant in 0..3 {
        let taken = PathBuf::from(fs::read_to_string(home.join("socket-folder")).unwrap());
        match plant {
            0 => symlink(dir.path(), &taken).unwrap(),
            1 => {
                fs::create_dir(&taken).unwrap();
                set_mode(&taken, 0o777);
            }
            _ => {
                fs::create_dir(&taken).unwrap();
                set_mode(&taken, 0o700);
                if is_root() {
                    chown(&taken, Some(65_534), None).unwrap();
                }
            }
        }
        let is_ours = plant == 2 && !is_root();
        let before = fs::symlink_metadata(&taken).unwrap();
        let server = start(&data);
        assert_eq!(server.socket().parent().unwrap() == taken, is_ours, "{plant}");
        server.stop();
        if !is_ours {
            let after = fs::symlink_metadata(&taken).unwrap();
            assert_eq!((before.uid(), before.mode()), (after.uid(), after.mode()));
            fs::remove_dir(&taken).or_else(|_| fs::remove_file(&taken)).unwrap();
        }
    }
}

/// Root's own folders are closed to the server's user. They stay closed: the user is told what to do.
#[test]
fn a_folder_that_the_servers_user_cannot_reach_is_refused_before_anything_is_made() {
    if !is_root() {
        return;
    }
    let dir = folder();
    let closed = dir.path().join("closed");
    fs::create_dir_all(closed.join("deeper")).unwrap();
    set_mode(&closed, 0o700);
    let before = inventory(dir.path());
    for data in ["closed", "closed/deeper", "closed/none/yet"] {
        let error = EmbeddedPostgres::start(&dir.path().join(data), &Options::default()).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, PostgresError::Unreachable { .. }), "{text}");
        let advice = format!("chmod o+x {}", closed.canonicalize().unwrap().display());
        assert!(text.contains(&advice) && text.contains("/var/lib/roundhouse"), "{text}");
        assert_eq!(inventory(dir.path()), before);
    }
    set_mode(&closed, 0o711);
    start(&closed.join("none/yet"));
}

/// Runs this test's own binary as a child with secrets in its environment, and with server programs that write down theirs.
#[test]
fn no_program_that_is_started_sees_this_process_environment() {
    if let Some(folder) = std::env::var_os("CLUSTER_OF_THE_CHILD") {
        let server = start(Path::new(&folder));
        let user = server.postmaster().unwrap();
        // The guard is the server's parent.
        let stat = fs::read_to_string(format!("/proc/{user}/stat")).unwrap();
        let guard = stat.rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap().to_owned();
        for pid in [user.to_string(), guard] {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
            let seen = Path::new(&folder).join("../seen").join(format!("process-{pid}"));
            fs::write(seen, environment).unwrap();
        }
        return;
    }
    let dir = folder();
    let (programs, seen) = (dir.path().join("bin"), dir.path().join("seen"));
    for folder in [&programs, &seen] {
        fs::create_dir(folder).unwrap();
        set_mode(folder, 0o777);
    }
    let real = find_programs().unwrap().folder;
    for program in ["initdb", "postgres"] {
        let script = format!(
            "#!/bin/sh\n{{ env; echo AS=$(id -u); }} >{}/{program}-$$\nexec {}/{program} \"$@\"\n",
            seen.display(),
            real.display()
        );
        fs::write(programs.join(program), script).unwrap();
        set_mode(&programs.join(program), 0o755);
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "no_program_that_is_started_sees_this_process_environment"])
        .env("CLUSTER_OF_THE_CHILD", dir.path().join("cluster"))
        .env(PROGRAMS_VARIABLE, &programs)
        .envs([("DATABASE_URL", "postgres://me:swordfish@db/x"), ("AWS_SECRET_ACCESS_KEY", "swordfish")])
        .envs([("PGPASSWORD", "swordfish"), ("PGDATA", "/swordfish"), ("LD_PRELOAD_OF_MINE", "swordfish")])
        .output()
        .unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
    let allowed = ["AS", "PATH", "LC_ALL", "TMPDIR", "PWD", "SHLVL", "_", "OLDPWD"];
    let mut programs_seen = 0;
    for entry in fs::read_dir(&seen).unwrap().map(Result::unwrap) {
        programs_seen += 1;
        let text = String::from_utf8_lossy(&fs::read(entry.path()).unwrap()).replace('\0', "\n");
        assert!(!text.contains("swordfish"), "{}: {text}", entry.path().display());
        // What a root's process starts of the server's programs, to ask for their version too, may be that user's own.
        assert!(!text.contains("AS=0\n"), "{}: {text}", entry.path().display());
        let is_process = entry.file_name().to_string_lossy().starts_with("process-");
        for line in text.lines().filter(|line| !line.is_empty()) {
            let name = line.split('=').next().unwrap();
            // What PostgreSQL itself adds for its own programs.
            assert!(is_process || allowed.contains(&name) || name.starts_with("PG"), "{line}");
        }
    }
    assert!(programs_seen >= 5, "initdb, its postgres, --version, the server, the guard: {programs_seen}");
}

/// Whoever the server runs as may listen in its place, and a driver would offer the password that the environment or a file has.
#[test]
fn the_url_leaves_nothing_to_the_environment_or_a_password_file() {
    let dir = folder();
    let server = EmbeddedPostgres::start(dir.path(), &Options::default()).unwrap();
    assert!(
        server.url("x").starts_with("postgres://roundhouse:none@localhost:5432/x?host="),
        "{}",
        server.url("x")
    );
}

#[test]
fn a_temporary_cluster_goes_with_its_process_and_takes_nothing_else() {
    let options = Options { is_temporary: true, ..Options::default() };
    let dir = folder();
    fs::write(dir.path().join("letter"), "precious").unwrap();
    EmbeddedPostgres::start(dir.path(), &options).unwrap().stop();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    let made = dir.path().join("made");
    EmbeddedPostgres::start(&made, &options).unwrap().stop();
    assert!(!made.exists());
}
