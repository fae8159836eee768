//! Faults of every kind on real processes: each ends with a verified proof, nobody having done anything about it, and an account of
//! every attempt. `docs/faults.md` has the table.
//!
//! The programs are the shipped ones and know nothing of this: what stands between them and the database or the object store stops
//! them at a chosen statement or request ([`test_support::proxy`], [`test_support::bucket`]), and then they are killed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use axum::http::Method;
use embedded_postgres::{EmbeddedPostgres, Options};
use job_store::DatabaseUrl;
use rustix::process::{Pid, Signal, kill_process};
use std::{collections::BTreeMap, fs, process::Command, sync::mpsc, time::Duration};
use test_support::{
    bucket::{Bucket, Endpoint, Weather},
    empty_database,
    programs::{Running, Scene, jobs, output, stderr, until},
    proxy::{Moment, Network, Proxy, Target},
    server_socket,
};

const SOON: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(120);
/// A batch of few jobs, each of which takes long enough to be met at its work.
const MOCK: &str = "[[circuit]]\ncount = 3\nprove_ms = 250\n[aggregation]\nprove_ms = 30\n";
/// Leases that end soon, and pickers that look often: what is announced to a dead process is announced to nobody.
const PACE: [&str; 3] = ["--heartbeat-interval-ms=200", "--lease-duration-ms=1000", "--poll-interval-ms=500"];

const PICK: &str = "AS preferred";
const COMPLETE: &str = "WITH done AS";

fn arguments(components: &str) -> Vec<String> {
    let mut all = vec![format!("--component={components}")];
    all.extend(PACE.map(str::to_owned));
    all
}

/// A scene whose artifacts lie in a bucket.
struct Stage {
    scene: Scene,
    bucket: Bucket,
}

impl Stage {
    async fn new(mock: &str) -> Self {
        let bucket = Bucket::default();
        let settings = bucket.endpoint().settings();
        let settings: Vec<(&str, &str)> =
            settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
        let url = empty_database().await;
        let scene = tokio::task::block_in_place(|| Scene::mock_on(&url, mock, &settings));
        Self { scene, bucket }
    }

    fn insert(&self, number: u32) {
        self.scene.write("in.mock", "mock one");
        self.scene.run_cli(&["insert-batch", "--number", &number.to_string(), "--input", "in.mock"]);
    }

    fn start(&self, name: &str, components: &str) -> Running {
        let arguments = arguments(components);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.scene.start(name, &arguments)
    }

    /// A process that sees the world through a proxy and an endpoint of its own.
    fn start_exposed(&self, name: &str, components: &str) -> Exposed {
        let (proxy, endpoint) = (Proxy::start(server_socket()), self.bucket.endpoint());
        let mut settings = endpoint.settings();
        settings.push(("DATABASE_URL", self.scene.database_by_way_of(&proxy)));
        // Failures are this system's to handle, and not hidden by a library for minutes.
        settings.push(("AWS_MAX_RETRIES", "0".to_owned()));
        settings.push(("AWS_TIMEOUT", "2s".to_owned()));
        let arguments = arguments(components);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Exposed { process: self.scene.start_with(name, &arguments, &settings), proxy, endpoint }
    }

    /// The batch's proof verifies, and its attempts add up: every job succeeded once, and every other attempt is told with its
    /// reason. Returns how many ended in which way.
    fn settle(&self, number: u32) -> BTreeMap<String, i64> {
        let status = self.scene.until_ended(0, number, LONG);
        assert_eq!(status["status"], "successful", "{status:#}");
        // The last to end may be a generator: nobody waits for more than its circuits.
        let status = until("all jobs have ended", LONG, || {
            let status = self.scene.status(0, number);
            let mut jobs = status["jobs"].as_array().unwrap().iter();
            jobs.all(|jobs| jobs["status"] == "successful").then_some(status)
        });
        let out = self.scene.path(&format!("out-{number}"));
        let out = out.to_str().unwrap();
        self.scene.run_cli(&[
            "proof",
            "fetch",
            "--proof-system=mock",
            "-n",
            &number.to_string(),
            "--out",
            out,
        ]);
        account(&status)
    }
}

/// Attempts that did not succeed, by how they ended.
fn account(status: &serde_json::Value) -> BTreeMap<String, i64> {
    let mut ends: BTreeMap<String, i64> = BTreeMap::new();
    for attempt in status["troubled_attempts"].as_array().unwrap() {
        let end = attempt["outcome"].as_str().unwrap();
        *ends.entry(end.to_owned()).or_default() += 1;
    }
    let others: i64 = ends.values().sum();
    let all: i64 =
        status["jobs"].as_array().unwrap().iter().map(|jobs| jobs["count"].as_i64().unwrap()).sum();
    // A job whose output was lost succeeds once more.
    let lost = ends.get("input_lost").copied().unwrap_or(0);
    let again = status["attempts"].as_i64().unwrap() - all - others;
    assert!((lost.min(1)..=lost * 4).contains(&again), "{ends:?} {status:#}");
    ends
}

struct Exposed {
    process: Running,
    proxy: Proxy,
    endpoint: Endpoint,
}

/// Where in its life a job is when its process is killed.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// The claim is made, the process has not heard of it.
    Picked,
    /// It asks for its input.
    Loading,
    /// It has its input and is at work.
    Executing,
    /// It is about to write its output.
    Uploading,
    /// Its output is written, the process has not heard of it.
    Uploaded,
    /// All is done but for the commit.
    BeforeCommit,
    /// It is committed, the process has not heard of it.
    AfterCommit,
}

const STEPS: [Step; 7] = [
    Step::Picked,
    Step::Loading,
    Step::Executing,
    Step::Uploading,
    Step::Uploaded,
    Step::BeforeCommit,
    Step::AfterCommit,
];

impl Exposed {
    fn trap(&self, step: Step, input: &'static str, output: &'static str) -> mpsc::Receiver<()> {
        let Self { proxy, endpoint, .. } = self;
        match step {
            Step::Picked => proxy.trap(Target::Rows(PICK), Moment::After),
            Step::Loading => endpoint.trap(Method::GET, input, Moment::Before),
            Step::Executing => endpoint.trap(Method::GET, input, Moment::Passed),
            Step::Uploading => endpoint.trap(Method::PUT, output, Moment::Before),
            Step::Uploaded => endpoint.trap(Method::PUT, output, Moment::After),
            Step::BeforeCommit => proxy.trap(Target::Commit(COMPLETE), Moment::Before),
            Step::AfterCommit => proxy.trap(Target::Commit(COMPLETE), Moment::After),
        }
    }
}

/// Kills a component at each step of a job's life; another takes over.
async fn kill_at_each_step(component: &str, others: &str, input: &'static str, output: &'static str) {
    let stage = Stage::new(MOCK).await;
    tokio::task::block_in_place(|| {
        let mut rest = stage.start("rest", others);
        for (number, step) in (1..).zip(STEPS) {
            let mut victim = stage.start_exposed(&format!("victim-{number}"), component);
            let closed = victim.trap(step, input, output);
            stage.insert(number);
            closed
                .recv_timeout(SOON)
                .unwrap_or_else(|_| panic!("{step:?} is reached\n{}", victim.process.log()));
            if matches!(step, Step::Executing) {
                // The answer is on its way; the work takes longer.
                std::thread::sleep(Duration::from_millis(60));
            }
            victim.process.kill();
            let mut successor = stage.start(&format!("successor-{number}"), component);
            let ends = stage.settle(number);
            let deaths = ends.get("worker_died").copied().unwrap_or(0);
            let least = i64::from(!matches!(step, Step::AfterCommit));
            assert!((least..=4).contains(&deaths), "{step:?}: {ends:?}");
            assert!(ends.keys().all(|end| end == "worker_died"), "{step:?}: {ends:?}");
            assert_eq!(successor.terminate(), 0, "{step:?}");
        }
        assert_eq!(rest.terminate(), 0, "the others never noticed");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_generator_is_killed_at_each_step_of_a_batchs_first_job() {
    // Another takes the later rounds.
    let others = "circuit-prover,compressor,prover-job-monitor";
    kill_at_each_step("witness-generator", others, "/witness_input/", "/circuit/0/").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_circuit_prover_is_killed_at_each_step() {
    let others = "witness-generator,compressor,prover-job-monitor";
    kill_at_each_step("circuit-prover", others, "/circuit/", "/proof/").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressor_is_killed_at_each_step() {
    let others = "witness-generator,circuit-prover,prover-job-monitor";
    kill_at_each_step("compressor", others, "/proof/", "/final_proof/").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_generator_is_killed_while_it_extends_and_aggregates() {
    let stage = Stage::new(MOCK).await;
    tokio::task::block_in_place(|| {
        let _rest = stage.start("rest", "circuit-prover,compressor,prover-job-monitor");
        let extend = "INSERT INTO jobs AS job";
        let traps: [(&str, Option<Target>, Moment); 6] = [
            ("an extension that was not made", Some(Target::Statement(extend)), Moment::Before),
            ("an extension without its answer", Some(Target::Statement(extend)), Moment::After),
            ("links that were not committed", Some(Target::Commit(extend)), Moment::Before),
            ("links without their answer", Some(Target::Commit(extend)), Moment::After),
            ("an aggregation that reads its proofs", None, Moment::Before),
            ("an aggregation that has written its circuit", None, Moment::After),
        ];
        for (number, (what, target, moment)) in (1..).zip(traps) {
            let mut victim = stage.start_exposed(&format!("victim-{number}"), "witness-generator");
            let closed = match (target, moment) {
                (Some(target), moment) => victim.proxy.trap(target, moment),
                (None, Moment::Before) => victim.endpoint.trap(Method::GET, "/proof/", Moment::Before),
                (None, moment) => victim.endpoint.trap(Method::PUT, "/1/1/", moment),
            };
            stage.insert(number);
            closed.recv_timeout(SOON).unwrap_or_else(|_| panic!("{what}\n{}", victim.process.log()));
            victim.process.kill();
            let mut successor = stage.start(&format!("successor-{number}"), "witness-generator");
            let ends = stage.settle(number);
            assert!((1..=2).contains(&ends["worker_died"]) && ends.len() == 1, "{what}: {ends:?}");
            assert_eq!(successor.terminate(), 0, "{what}");
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_monitor_is_killed_in_the_middle_of_each_of_its_duties() {
    let stage = Stage::new(MOCK).await;
    tokio::task::block_in_place(|| {
        let rescue = "SELECT j.id FROM workers w JOIN jobs j";
        let archive = "WITH moved AS";
        let learn = "INSERT INTO learned_circuits";
        let traps = [
            (Target::Commit(rescue), Moment::Before),
            (Target::Commit(rescue), Moment::After),
            (Target::Statement("pg_stat_get_backend_idset"), Moment::Before),
            (Target::Commit(learn), Moment::Before),
            (Target::Commit(learn), Moment::After),
            (Target::Commit(archive), Moment::Before),
            (Target::Commit(archive), Moment::After),
        ];
        let _rest = stage.start("rest", "witness-generator,compressor");
        for (number, (target, moment)) in (1..).zip(traps) {
            let (proxy, name) = (Proxy::start(server_socket()), format!("monitor-{number}"));
            let settings = [
                ("DATABASE_URL", stage.scene.database_by_way_of(&proxy)),
                ("ROUNDHOUSE_ARCHIVE_AFTER_SECONDS", "0".to_owned()),
            ];
            let closed = proxy.trap(target, moment);
            let flags = ["--component=prover-job-monitor", "--rescue-interval-ms=200"];
            let mut monitor = stage.scene.start_with(&name, &flags, &settings);
            stage.insert(number);
            // A death for the monitor to see.
            let mut doomed = stage.start(&format!("doomed-{number}"), "circuit-prover");
            until("a circuit is being proven", SOON, || {
                (jobs(&stage.scene.status(0, number), 0, "circuit_proof", Some("in_progress")) > 0)
                    .then_some(())
            });
            doomed.kill();
            let mut prover = stage.start(&format!("prover-{number}"), "circuit-prover");
            closed.recv_timeout(SOON).unwrap_or_else(|_| panic!("{target:?}\n{}", monitor.log()));
            monitor.kill();
            let mut next = stage.start(&format!("next-{number}"), "prover-job-monitor");
            let ends = stage.settle(number);
            assert!((1..=4).contains(&ends["worker_died"]) && ends.len() == 1, "{target:?}: {ends:?}");
            assert_eq!(next.terminate(), 0);
            assert_eq!(prover.terminate(), 0);
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_stalls_resets_and_half_closes_costs_attempts_and_no_more() {
    let stage = Stage::new("[[circuit]]\ncount = 3\nprove_ms = 1500\n").await;
    tokio::task::block_in_place(|| {
        let _monitor = stage.start("monitor", "prover-job-monitor");
        let mut exposed = stage.start_exposed("exposed", "witness-generator,circuit-prover,compressor");
        // For less than a lease, and for longer.
        let breaks = [
            (Network::Stalled, 300),
            (Network::Stalled, 2_500),
            (Network::Reset, 300),
            (Network::Reset, 2_500),
            (Network::HalfClosed, 2_500),
            (Network::Forgotten, 1_500),
        ];
        for (number, (network, milliseconds)) in (1..).zip(breaks) {
            stage.insert(number);
            until("a circuit is being proven", SOON, || {
                (jobs(&stage.scene.status(0, number), 0, "circuit_proof", Some("in_progress")) > 0)
                    .then_some(())
            });
            exposed.proxy.set_network(network);
            std::thread::sleep(Duration::from_millis(milliseconds));
            exposed.proxy.set_network(Network::Whole);
            let ends = stage.settle(number);
            let known = ["worker_died", "released"];
            assert!(ends.keys().all(|end| known.contains(&end.as_str())), "{network:?}: {ends:?}");
        }
        assert_eq!(exposed.process.terminate(), 0, "{}", exposed.process.log());
    });
}

/// Its machine loses power: nothing tells the server, which still has its transaction open, with the locks of a job that nobody works on.
#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_loses_power_in_the_middle_of_a_commit_keeps_its_locks_for_seconds_only() {
    let stage = Stage::new(MOCK).await;
    tokio::task::block_in_place(|| {
        let _rest = stage.start("rest", "witness-generator,compressor,prover-job-monitor");
        let mut victim = stage.start_exposed("victim", "circuit-prover");
        let closed = victim.proxy.trap(Target::Commit(COMPLETE), Moment::Before);
        stage.insert(1);
        closed.recv_timeout(SOON).unwrap();
        victim.proxy.set_network(Network::Forgotten);
        victim.process.kill();
        let _successor = stage.start("successor", "circuit-prover");
        let ends = stage.settle(1);
        assert!(ends["worker_died"] >= 1 && ends.len() == 1, "{ends:?}");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_store_that_refuses_says_nothing_cuts_or_truncates_is_waited_for() {
    let stage = Stage::new(MOCK).await;
    tokio::task::block_in_place(|| {
        let mut exposed = stage.start_exposed("exposed", "all");
        for (number, weather) in (1..).zip([Weather::Refusing, Weather::Silent, Weather::Cut, Weather::Short])
        {
            stage.insert(number);
            until("a circuit is being proven", SOON, || {
                (jobs(&stage.scene.status(0, number), 0, "circuit_proof", Some("in_progress")) > 0)
                    .then_some(())
            });
            exposed.endpoint.set_weather(weather);
            std::thread::sleep(Duration::from_millis(1_500));
            exposed.endpoint.set_weather(Weather::Fair);
            let ends = stage.settle(number);
            // What cannot be had is tried later. What is damaged is made again; what nobody can make again is read again.
            let expected: &[&str] =
                if weather == Weather::Short { &["input_lost", "failed"] } else { &["released"] };
            let is_expected = |end: &String| expected.contains(&end.as_str());
            assert!(ends.keys().all(is_expected), "{weather:?}: {ends:?}\n{}", exposed.process.log());
        }
        assert_eq!(exposed.process.terminate(), 0);
    });
}

/// Frozen until its jobs are others', it wakes up and goes on as if nothing had been.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_given_up_and_comes_back_changes_nothing() {
    let stage = Stage::new("[[circuit]]\ncount = 3\nprove_ms = 700\n").await;
    tokio::task::block_in_place(|| {
        let _rest = stage.start("rest", "witness-generator,compressor,prover-job-monitor");
        stage.insert(1);
        let mut frozen = stage.start("frozen", "circuit-prover");
        until("a circuit is being proven", SOON, || {
            (jobs(&stage.scene.status(0, 1), 0, "circuit_proof", Some("in_progress")) > 0).then_some(())
        });
        frozen.signal(Signal::STOP);
        let _other = stage.start("other", "circuit-prover");
        until("the others have its jobs", SOON, || {
            (stage.scene.status(0, 1)["worker_deaths"].as_i64().unwrap() > 0).then_some(())
        });
        frozen.signal(Signal::CONT);
        let ends = stage.settle(1);
        assert!(ends["worker_died"] >= 1 && ends.len() == 1, "{ends:?}");
        // It lives on, and is of use.
        stage.insert(2);
        assert!(stage.settle(2).is_empty());
        assert_eq!(frozen.terminate(), 0, "{}", frozen.log());
    });
}

/// The server is killed as hard as can be, all of it, and started again on the same folder: with its safe defaults, what was committed is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_and_restarted_in_the_middle_of_a_batch_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = folder.path().join("cluster");
    tokio::task::block_in_place(|| {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let start = || EmbeddedPostgres::start(&cluster, &Options::default()).unwrap();
        let mut server = start();
        let url = DatabaseUrl::new(&server.url("postgres")).unwrap();
        let scene = Scene::mock_on(&url, "[[circuit]]\ncount = 12\nprove_ms = 250\n", &[]);
        scene.write("in.mock", "mock one");
        scene.run_cli(&["insert-batch", "--number=1", "--input=in.mock"]);
        let arguments = arguments("all");
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut process = scene.start("all", &arguments);
        for proven in [2, 6] {
            until("some are proven", SOON, || {
                (jobs(&scene.status(0, 1), 0, "circuit_proof", Some("successful")) >= proven).then_some(())
            });
            let postmaster = server.postmaster().unwrap();
            // Its children first, or they would have a moment to end in order.
            let children = output(Command::new("pgrep").args(["-P", &postmaster.to_string()]));
            let children = String::from_utf8(children.stdout).unwrap();
            for pid in children.split_whitespace().map(|pid| pid.parse().unwrap()).chain([postmaster]) {
                let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
                let _ = kill_process(pid, Signal::KILL);
            }
            drop(server);
            // For longer than a lease.
            std::thread::sleep(Duration::from_millis(2_500));
            server = start();
        }
        let status = scene.until_ended(0, 1, LONG);
        assert_eq!(status["status"], "successful", "{status:#}\n{}", process.log());
        scene.run_cli(&[
            "proof",
            "fetch",
            "--proof-system=mock",
            "-n1",
            "--out",
            scene.path("out").to_str().unwrap(),
        ]);
        assert_eq!(jobs(&status, 0, "circuit_proof", Some("successful")), 12);
        assert_eq!(status["failed_attempts"], 0, "{status:#}");
        assert_eq!(status["worker_deaths"], 0, "nobody died while the server was away: {status:#}");
        assert_eq!(process.terminate(), 0, "{}", process.log());
    });
}

/// A file system of two megabytes for the artifacts.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(path: std::path::PathBuf) -> Option<Self> {
        fs::create_dir_all(&path).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=2m", "none"]).arg(&path);
        output(&mut mount).status.success().then_some(Self(path))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = output(Command::new("umount").arg("-l").arg(&self.0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_waited_for_and_costs_no_attempts_budget() {
    let url = empty_database().await;
    tokio::task::block_in_place(|| {
        let scene = Scene::mock_on(&url, MOCK, &[]);
        let Some(disk) = SmallDisk::mount(scene.path("artifacts")) else {
            // Only root may mount; then another test's faults stand for this one's.
            assert!(!rustix::process::geteuid().is_root(), "root may mount");
            return;
        };
        scene.write("in.mock", "mock one");
        scene.run_cli(&["insert-batch", "--number=1", "--input=in.mock"]);
        let arguments = arguments("all");
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut process = scene.start("all", &arguments);
        until("a circuit is being proven", SOON, || {
            (jobs(&scene.status(0, 1), 0, "circuit_proof", Some("in_progress")) > 0).then_some(())
        });
        let ballast = disk.0.join("ballast");
        let filled = fs::write(&ballast, vec![0_u8; 4 << 20]);
        assert!(filled.is_err(), "the disk is full");
        until("a write fails", SOON, || process.log().contains("No space left").then_some(()));
        std::thread::sleep(Duration::from_millis(500));
        fs::remove_file(&ballast).unwrap();
        let status = scene.until_ended(0, 1, LONG);
        assert_eq!(status["status"], "successful", "{status:#}");
        account(&status);
        scene.run_cli(&[
            "proof",
            "fetch",
            "--proof-system=mock",
            "-n1",
            "--out",
            scene.path("out").to_str().unwrap(),
        ]);
        assert_eq!(process.terminate(), 0);

        // A process that starts on a full disk says so and does not start.
        assert!(fs::write(&ballast, vec![0_u8; 4 << 20]).is_err());
        let refused = output(scene.program("prover").args(["run", "--component=all"]));
        assert_eq!(refused.status.code(), Some(1));
        assert!(stderr(&refused).contains("No space left"), "{}", stderr(&refused));
    });
}
