//! The cluster's life, seen with the `psql` that comes with the server programs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use embedded_postgres::{EmbeddedPostgres, Options, PostgresError, find_programs};
use std::{
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

fn query(server: &EmbeddedPostgres, sql: &str) -> String {
    let beside = find_programs().unwrap().folder.join("psql");
    let psql = if beside.exists() { beside } else { "psql".into() };
    let output = Command::new(psql).args(["-XAt", "-c", sql]).arg(server.url("postgres")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn start(folder: &Path) -> EmbeddedPostgres {
    EmbeddedPostgres::start(folder, &Options::default()).unwrap()
}

/// A folder that other users may enter, as `tempfile`'s are not.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(dir.path(), mode).unwrap();
    dir
}

#[test]
fn what_is_committed_survives_a_restart_and_durability_is_on() {
    let dir = folder();
    // Long enough for a socket folder elsewhere, with characters that a URL must escape.
    let cluster = dir.path().join("a cluster & its ünusually long name, ".repeat(3)).join("pg");
    let server = start(&cluster);
    assert_eq!(query(&server, "show fsync"), "on");
    assert_eq!(query(&server, "show synchronous_commit"), "on");
    query(&server, "create table kept (x int); insert into kept values (7)");
    server.stop();
    assert_eq!(query(&start(&cluster), "select x from kept"), "7");
}

#[test]
fn a_path_may_have_any_characters() {
    let dir = folder();
    for name in ["a, b", "say \"cheese\"", "it's $HOME; \\ `x` *"] {
        query(&start(&dir.path().join(name)), "select 1");
    }
}

#[test]
fn a_second_user_of_the_folder_is_refused_and_other_folders_do_not_collide() {
    let (one, two) = (folder(), folder());
    let (first, _second) = (start(one.path()), start(two.path()));
    let error = EmbeddedPostgres::start(one.path(), &Options::default()).unwrap_err();
    assert!(matches!(error, PostgresError::InUse { .. }), "{error}");
    assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
    drop(first);
    start(one.path());
}

#[test]
fn a_half_made_cluster_is_made_anew() {
    let dir = folder();
    start(dir.path()).stop();
    // As a killed initdb leaves it.
    std::fs::remove_file(dir.path().join("postgres/initialised")).unwrap();
    std::fs::write(dir.path().join("postgres/data/PG_VERSION"), "rubbish").unwrap();
    std::fs::write(dir.path().join("postgres/data/.hidden"), "rubbish").unwrap();
    query(&start(dir.path()), "select 1");
}

/// Runs this test's own binary as a child that starts a server and then is killed.
#[test]
fn a_killed_process_leaves_no_server_and_loses_nothing() {
    if let Some(folder) = std::env::var_os("CLUSTER_OF_THE_CHILD") {
        let server = start(Path::new(&folder));
        query(&server, "create table kept (x int); insert into kept values (7)");
        std::fs::write(Path::new(&folder).join("../ready"), "").unwrap();
        loop {
            std::thread::park();
        }
    }
    let dir = folder();
    let cluster = dir.path().join("cluster");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_killed_process_leaves_no_server_and_loses_nothing"])
        .env("CLUSTER_OF_THE_CHILD", &cluster)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while !dir.path().join("ready").exists() {
        assert!(begun.elapsed() < Duration::from_secs(60), "the child does not start its server");
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // The very next start waits for the dying server, and finds everything.
    assert_eq!(query(&start(&cluster), "select x from kept"), "7");
    while cluster.join("postgres/data/postmaster.pid").exists() {
        assert!(begun.elapsed() < Duration::from_secs(120), "the server outlives its process");
        std::thread::yield_now();
    }
}

/// A container has a /dev/shm of 64 MiB, for all parallel queries at once; here it has 4 MiB, and the join shares 8 MiB. Runs this
/// test's own binary as a child with such a one.
#[test]
fn queries_in_parallel_need_no_room_in_dev_shm() {
    const SMALL: &str = "mount -t tmpfs -o size=4m,mode=1777 tmpfs /dev/shm && exec \"$0\" \"$@\"";
    if let Some(folder) = std::env::var_os("CLUSTER_WITH_LITTLE_SHARED_MEMORY") {
        let server = start(Path::new(&folder));
        query(&server, "create table t as select s as x from generate_series(1, 200000) s");
        query(&server, "analyze t");
        let settings = "set min_parallel_table_scan_size = 0; set parallel_setup_cost = 0; \
                        set parallel_tuple_cost = 0; set enable_mergejoin = off; set work_mem = '16MB'; ";
        let join = "select count(*) from t a join t b using (x)";
        let plan = query(&server, &format!("{settings}explain {join}"));
        assert!(plan.contains("Parallel Hash"), "{plan}");
        let answer = query(&server, &format!("{settings}{join}"));
        assert!(answer.ends_with("200000"), "{answer}");
        return;
    }
    let dir = folder();
    let in_namespace = |program: &Path| {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", SMALL]).arg(program);
        command.env("CLUSTER_WITH_LITTLE_SHARED_MEMORY", dir.path());
        command
    };
    if !in_namespace(Path::new("true")).output().is_ok_and(|output| output.status.success()) {
        eprintln!("LEFT OUT: no /dev/shm of another size can be mounted here");
        return;
    }
    let output = in_namespace(&std::env::current_exe().unwrap())
        .args(["--exact", "queries_in_parallel_need_no_room_in_dev_shm", "--nocapture"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}{text}", String::from_utf8_lossy(&output.stdout));
}
