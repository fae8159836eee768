//! The pipeline as separately started processes on one database and one artifact folder, with the mock: fast enough to
//! kill, damage and stop whatever can be.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use rustix::process::Signal;
use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};
use test_support::http::get;
use test_support::programs::{Running, Scene, jobs, output, stderr, stdout, until};

const SOON: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(120);
/// Leases that end soon after their worker: the tests need not wait for the shipped 20 s.
const SHORT_LEASES: [&str; 2] = ["--heartbeat-interval-ms=200", "--lease-duration-ms=1000"];
/// Fifteen circuits of 150 ms in three kinds, then six leaves, three nodes, tip and scheduler.
const SLOW_CIRCUITS: &str = "[[circuit]]\nprove_ms = 150\n[[circuit]]\nprove_ms = 150\nheavy = true\n\
                             [[circuit]]\nsynthesize_ms = 100\nprove_ms = 50\n[aggregation]\nprove_ms = 20\n";

fn start(scene: &Scene, name: &str, component: &str) -> Running {
    let component = format!("--component={component}");
    scene.start(name, &[component.as_str(), SHORT_LEASES[0], SHORT_LEASES[1]])
}

fn insert(scene: &Scene, chain_id: u32, number: u32, input: &str) {
    let path = scene.write(&format!("{chain_id}-{number}.mock"), input);
    let (chain_id, number) = (chain_id.to_string(), number.to_string());
    let path = path.to_str().unwrap();
    scene.run_cli(&["insert-batch", "--chain-id", &chain_id, "--number", &number, "--input", path]);
}

/// Fetches a batch's proof, which verifies it, and verifies it once more from the files alone.
fn fetch(scene: &Scene, chain_id: u32, number: u32) -> PathBuf {
    let out = scene.path(&format!("out-{chain_id}-{number}"));
    let (chain_id, number) = (chain_id.to_string(), number.to_string());
    let arguments = [
        "proof",
        "fetch",
        "--proof-system=mock",
        "-c",
        &chain_id,
        "-n",
        &number,
        "--out",
        out.to_str().unwrap(),
    ];
    scene.run_cli(&arguments);
    assert_eq!(verify(scene, &out, &out), 0);
    out
}

fn verify(scene: &Scene, proof: &std::path::Path, statement: &std::path::Path) -> i32 {
    let mut command = scene.program("prover");
    command
        .args(["verify", "--proof-system=mock"])
        .arg(proof.join("proof.bin"))
        .arg("--statement")
        .arg(statement.join("statement.json"));
    output(&mut command).status.code().unwrap()
}

/// The mock's final proof digests every proof that it consumed, in its place: it verifies only if each was consumed once.
#[tokio::test]
async fn a_killed_prover_costs_nothing_but_its_own_attempts() {
    let scene = Scene::mock(SLOW_CIRCUITS).await;
    insert(&scene, 0, 1, "mock one");
    let _generator = start(&scene, "generator", "witness-generator");
    let _compressor = start(&scene, "compressor", "compressor");
    let _monitor = start(&scene, "monitor", "prover-job-monitor");
    let mut victim = start(&scene, "victim", "circuit-prover");
    until("the victim has proven a few circuits", SOON, || {
        (jobs(&scene.status(0, 1), 0, "circuit_proof", Some("successful")) >= 3).then_some(())
    });
    victim.kill();
    let _survivor = start(&scene, "survivor", "circuit-prover");
    let status = scene.until_ended(0, 1, LONG);
    assert_eq!(status["status"], "successful", "{status:#}");
    let deaths = status["worker_deaths"].as_i64().unwrap();
    assert!((1..=4).contains(&deaths), "jobs in the victim's hands: {status:#}");
    assert_eq!(status["failed_attempts"], 0, "{status:#}");
    assert_eq!(status["attempts"].as_i64().unwrap(), 39 + deaths, "every other job ran once: {status:#}");
    assert_eq!(jobs(&status, 0, "circuit_proof", None), 15);
    let trouble = &status["troubled_attempts"][0];
    assert_eq!(trouble["outcome"], "worker_died");
    assert_eq!(trouble["pid"].as_u64().unwrap(), u64::from(victim.pid()));
    fetch(&scene, 0, 1);
}

#[tokio::test]
async fn batches_of_several_chains_at_once_verify_only_against_their_own_statements() {
    let scene = Scene::mock(SLOW_CIRCUITS).await;
    let batches = [(1, 1, "mock one"), (1, 2, "mock two"), (2, 1, "mock one")];
    for (chain_id, number, input) in batches {
        insert(&scene, chain_id, number, input);
    }
    let _both = [start(&scene, "a", "all"), start(&scene, "b", "all")];
    let folders = batches.map(|(chain_id, number, _)| {
        assert_eq!(scene.until_ended(chain_id, number, LONG)["status"], "successful");
        fetch(&scene, chain_id, number)
    });
    for (i, proof) in folders.iter().enumerate() {
        for (j, statement) in folders.iter().enumerate() {
            assert_eq!(verify(&scene, proof, statement), i32::from(i != j), "proof {i}, statement {j}");
        }
    }
}

/// The compressor verifies what it made against the statement of the batch's own input, before the batch is successful.
#[tokio::test]
async fn a_final_proof_of_another_batch_fails_the_batch() {
    let scene = Scene::mock("wrong_final_proof = true").await;
    insert(&scene, 0, 1, "mock one");
    let _all = start(&scene, "all", "all");
    let status = scene.until_ended(0, 1, LONG);
    assert_eq!(status["status"], "failed", "{status:#}");
    let error = status["troubled_attempts"][0]["error"].as_str().unwrap();
    assert!(error.contains("does not verify against the statement"), "{error}");
}

/// An environment variable that says `mock` would have anybody's proof of nothing pass.
#[tokio::test]
async fn only_the_flag_has_a_verifier_accept_the_mocks_proofs() {
    let scene = Scene::mock("").await;
    insert(&scene, 0, 1, "mock one");
    let _all = start(&scene, "all", "all");
    assert_eq!(scene.until_ended(0, 1, LONG)["status"], "successful");
    let out = fetch(&scene, 0, 1);
    let file = scene.write("mock.toml", "proof_system = \"mock\"\n");
    let mut command = scene.program("prover");
    command.env("ROUNDHOUSE_PROOF_SYSTEM", "mock").env("ROUNDHOUSE_CONFIG", &file).arg("verify");
    command.arg(out.join("proof.bin")).arg("--statement").arg(out.join("statement.json"));
    let refused = output(&mut command);
    assert_eq!(refused.status.code(), Some(1), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("is refused"), "{}", stderr(&refused));
    let fetched = output(scene.program("prover_cli").args(["proof", "verify", "-n1"]));
    assert_eq!(fetched.status.code(), Some(1), "{}", stderr(&fetched));
}

/// Artifacts of a kind under the scene's folder.
fn artifacts(scene: &Scene, kind: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![scene.path("artifacts").join(kind)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

fn damage(path: &PathBuf) {
    let mut content = fs::read(path).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    fs::write(path, content).unwrap();
}

#[tokio::test]
async fn lost_circuits_and_proofs_are_made_again() {
    let scene = Scene::mock(SLOW_CIRCUITS).await;
    insert(&scene, 0, 1, "mock one");
    let mut generator = start(&scene, "generator", "witness-generator");
    until("all circuits are there", SOON, || {
        (jobs(&scene.status(0, 1), 0, "circuit_proof", Some("queued")) == 15).then_some(())
    });
    assert_eq!(generator.terminate(), 0);
    let circuits = artifacts(&scene, "circuit");
    assert_eq!(circuits.len(), 15);
    fs::remove_file(&circuits[3]).unwrap();
    damage(&circuits[11]);

    // Nobody aggregates yet: the proofs lie there, and two of one leaf are lost as well.
    let mut prover = start(&scene, "prover", "circuit-prover,prover-job-monitor");
    until("13 circuits are proven", LONG, || {
        (jobs(&scene.status(0, 1), 0, "circuit_proof", Some("successful")) == 13).then_some(())
    });
    let proofs = artifacts(&scene, "proof");
    damage(&proofs[0]);
    fs::remove_file(&proofs[1]).unwrap();
    let _rest = start(&scene, "rest", "witness-generator,compressor");
    let status = scene.until_ended(0, 1, LONG);
    assert_eq!(status["status"], "successful", "{status:#}");
    let troubles = status["troubled_attempts"].as_array().unwrap();
    assert!(troubles.len() >= 3 && troubles.iter().all(|t| t["outcome"] == "input_lost"), "{status:#}");
    assert_eq!(status["failed_attempts"], 0, "a lost artifact is nobody's failure");
    fetch(&scene, 0, 1);
    assert_eq!(prover.terminate(), 0);
}

#[tokio::test]
async fn a_poisonous_job_fails_its_batch_with_its_words_and_disturbs_no_other() {
    let scene = Scene::mock("[[circuit]]\ncount = 1\npanics = true\n").await;
    insert(&scene, 0, 1, "mock one");
    let mut process = start(&scene, "all", "all");
    let status = scene.until_ended(0, 1, LONG);
    assert_eq!(status["status"], "failed", "{status:#}");
    let error = status["error"].as_str().unwrap();
    assert!(error.contains("the mock panics"), "{error}");
    assert_eq!(status["failed_attempts"], 3, "the budget, exactly: {status:#}");
    assert_eq!(process.terminate(), 0, "no job ends the process");
}

/// A job that ends its process each time, in a process that works on four at a time and is started again whenever it dies.
#[tokio::test]
async fn a_job_that_kills_its_workers_is_quarantined_and_costs_its_neighbours_two_deaths_at_most() {
    let mock =
        "[[circuit]]\ncount = 1\nprove_ms = 100\naborts = true\n[[circuit]]\ncount = 24\nprove_ms = 100\n";
    let scene = Scene::mock(mock).await;
    insert(&scene, 0, 1, "mock one");
    let _rest = start(&scene, "rest", "witness-generator,prover-job-monitor");
    let flags = ["--component=circuit-prover", "-t4", SHORT_LEASES[0], SHORT_LEASES[1]];
    let mut deaths = 0;
    let mut prover = scene.start("prover-0", &flags);
    let status = until("everything else is proven, and the killer is given up", LONG, || {
        if let Some(status) = prover.ended() {
            assert_eq!(status, -Signal::ABORT.as_raw(), "{}", prover.log());
            deaths += 1;
            prover = scene.start(&format!("prover-{deaths}"), &flags);
        }
        // The store hears of a death a little before or after this test does.
        let status = scene.status(0, 1);
        let circuits = |state| jobs(&status, 0, "circuit_proof", Some(state));
        (circuits("successful") == 24 && circuits("failed") == 1 && deaths >= 5).then_some(status)
    });
    assert_eq!(deaths, 5, "{status:#}");
    assert!(status["error"].as_str().unwrap().contains("quarantined: 5 workers died"), "{status:#}");
    let mut by_job: BTreeMap<String, u32> = BTreeMap::new();
    let ended = |attempt: &&serde_json::Value| !attempt["outcome"].is_null();
    for attempt in status["troubled_attempts"].as_array().unwrap().iter().filter(ended) {
        assert_eq!(attempt["outcome"], "worker_died", "{status:#}");
        *by_job.entry(attempt["job_id"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    let mut counts: Vec<u32> = by_job.into_values().collect();
    counts.sort_unstable();
    assert_eq!(counts.pop(), Some(5), "the budget, exactly");
    assert!(counts.iter().all(|deaths| *deaths <= 2), "{counts:?}");
    assert_eq!(prover.terminate(), 0, "the last one lives");
}

/// Six threads that would take 100 MB each, and leave to take 250 MB.
#[tokio::test]
async fn circuits_are_admitted_by_what_they_need_and_what_they_took_is_told() {
    let scene =
        Scene::mock("[[circuit]]\ncount = 12\nsynthesize_ms = 150\nmemory_bytes = 100_000_000\n").await;
    insert(&scene, 0, 1, "mock one");
    let mut process = scene.start("all", &["--component=all", "-t6", "-m250000000"]);
    let status = scene.until_ended(0, 1, LONG);
    assert_eq!(status["status"], "successful", "{status:#}");
    let text = fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.split_whitespace().next().unwrap().parse().unwrap();
    assert!((200_000..350_000).contains(&peak), "two at a time, and not six: {peak} kB");
    assert_eq!(process.terminate(), 0);

    let mut command = scene.program("prover");
    let refused = output(command.args(["run", "--component=circuit-prover", "-m90000000"]));
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr(&refused).contains("needs 100000000 bytes"), "{}", stderr(&refused));
}

#[tokio::test]
async fn an_attempt_that_hangs_is_given_up_and_charged_as_a_timeout() {
    let scene = Scene::mock("[[circuit]]\ncount = 1\nprove_ms = 600000\n").await;
    insert(&scene, 0, 1, "mock one");
    let mut process = scene.start("all", &["--component=all", "--job-timeout-seconds=1"]);
    let status = scene.until_ended(0, 1, LONG);
    assert_eq!(status["status"], "failed", "{status:#}");
    let attempts = status["troubled_attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 2, "the budget, exactly: {status:#}");
    assert!(attempts.iter().all(|attempt| attempt["outcome"] == "timed_out"), "{status:#}");
    assert_eq!(process.terminate(), 0, "a hanging job does not keep the process from ending");
}

#[tokio::test]
async fn sigterm_drains_at_no_cost_and_a_second_one_stops_at_once() {
    let scene = Scene::mock("[[circuit]]\ncount = 6\nprove_ms = 1500\n").await;
    insert(&scene, 0, 1, "mock one");
    let mut first = start(&scene, "first", "all");
    let running = || jobs(&scene.status(0, 1), 0, "circuit_proof", Some("in_progress"));
    until("a circuit is being proven", SOON, || (running() > 0).then_some(()));
    assert_eq!(first.terminate(), 0, "{}", first.log());
    let status = scene.status(0, 1);
    assert_eq!(running(), 0, "nothing is left leased: {status:#}");
    assert_eq!(status["failed_attempts"].as_i64().unwrap() + status["worker_deaths"].as_i64().unwrap(), 0);

    let mut second = start(&scene, "second", "all");
    until("a circuit is being proven", SOON, || (running() > 0).then_some(()));
    second.signal(Signal::TERM);
    until("it drains", SOON, || second.log().contains("stopping").then_some(()));
    second.signal(Signal::TERM);
    assert_eq!(second.wait(SOON), 130);

    let _third = start(&scene, "third", "all");
    assert_eq!(scene.until_ended(0, 1, LONG)["status"], "successful");
    fetch(&scene, 0, 1);
}

/// No time to drain, and yet what runs is not cut short: that time begins with SIGTERM.
#[tokio::test]
async fn sigusr1_finishes_what_runs_takes_nothing_more_and_ends() {
    let scene = Scene::mock("[[circuit]]\ncount = 6\nprove_ms = 3000\n").await;
    insert(&scene, 0, 1, "mock one");
    let mut noticed = scene.start("noticed", &["--component=all", "--drain-timeout-seconds=0"]);
    let proofs = |state| jobs(&scene.status(0, 1), 0, "circuit_proof", Some(state));
    until("a circuit is being proven", SOON, || (proofs("in_progress") > 0).then_some(()));
    noticed.signal(Signal::USR1);
    assert_eq!(noticed.wait(SOON), 0, "{}", noticed.log());
    assert!(noticed.log().contains("the end of this machine is announced"), "{}", noticed.log());
    let status = scene.status(0, 1);
    assert_eq!(proofs("in_progress"), 0, "nothing is left leased: {status:#}");
    assert!((1..6).contains(&proofs("successful")), "what ran is done, and nothing more: {status:#}");
    assert_eq!(status["failed_attempts"].as_i64().unwrap() + status["worker_deaths"].as_i64().unwrap(), 0);
    let _next = start(&scene, "next", "all");
    assert_eq!(scene.until_ended(0, 1, LONG)["status"], "successful");
}

#[tokio::test]
async fn a_process_shows_its_health_and_its_metrics() {
    let scene = Scene::mock("[[circuit]]\ncount = 1\nprove_ms = 3000\n").await;
    let mut process = scene.start("all", &["--component=all", "--listen=127.0.0.1:0"]);
    let address = until("the address is logged", SOON, || {
        let log = process.log();
        log.split("http://").nth(1).map(|rest| rest.split_whitespace().next().unwrap().to_owned())
    });
    until("it is ready", SOON, || (get(&address, "/health/ready")?.status == 200).then_some(()));
    assert_eq!(get(&address, "/health/live").unwrap().status, 200);
    insert(&scene, 0, 1, "mock one");
    let proving = || {
        get(&address, "/metrics").filter(|m| {
            // The generator's own job may still be on its way to the disk.
            m.body.contains("busy_workers{runner=\"circuit_prover\"} 1")
                && m.body.contains("job_store_leases_held 1")
        })
    };
    let metrics = until("the prover is busy", SOON, proving);
    for name in ["job_runner_pick_time", "job_store_query_time_seconds_bucket"] {
        assert!(metrics.body.contains(name), "{name} is not in\n{}", metrics.body);
    }
    assert!(metrics.head.contains("application/openmetrics-text"), "{}", metrics.head);
    assert!(metrics.body.trim_end().ends_with("# EOF"));
    process.signal(Signal::TERM);
    until("it drains", SOON, || get(&address, "/health/ready")?.body.contains("draining").then_some(()));
    assert_eq!(get(&address, "/health/live").unwrap().status, 200, "a draining process lives");
    assert_eq!(process.wait(SOON), 0);
}

/// `prove` of the mock, in the scene's folder.
fn prove(scene: &Scene) -> std::process::Command {
    let mut command = scene.program("prover");
    scene.write("in.mock", "mock resumed");
    command.args(["prove", "in.mock", "--data"]).arg(scene.path("data"));
    command
}

#[tokio::test]
async fn an_interrupted_prove_goes_on_where_it_was() {
    let scene = Scene::mock(SLOW_CIRCUITS).await;
    let proven = |process: &Running, circuits: usize| {
        let log = process.log();
        let counts = log.lines().filter_map(|line| line.split("proven: basic-circuits ").nth(1));
        counts
            .filter_map(|rest| rest.split('/').next()?.parse::<usize>().ok())
            .any(|n| n >= circuits)
            .then_some(())
    };
    let mut killed = Running::start(&mut prove(&scene), scene.path("killed.log"));
    until("it has proven some", SOON, || proven(&killed, 3));
    killed.kill();
    let mut interrupted = Running::start(&mut prove(&scene), scene.path("interrupted.log"));
    until("it has proven more", LONG, || proven(&interrupted, 7));
    interrupted.signal(Signal::INT);
    assert_eq!(interrupted.wait(SOON), 1, "{}", interrupted.log());
    assert!(interrupted.log().contains("run the same command again"), "{}", interrupted.log());

    let finished = output(&mut prove(&scene));
    assert!(finished.status.success(), "{}", stderr(&finished));
    let text = stdout(&finished);
    let attempts = text.lines().find(|line| line.starts_with("attempts")).unwrap();
    let attempts: usize = attempts.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!((40..=39 + 10).contains(&attempts), "39 jobs, and what was in hand when it ended: {text}");
    let out = scene.path("proofs/0-1");
    assert_eq!(verify(&scene, &out, &out), 0);
    assert_eq!(fs::read_dir(scene.path("data")).unwrap().count(), 0, "nothing is left behind");
}
