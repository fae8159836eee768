//! What the commands print, and what they answer to bad calls. Times are masked.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use insta::{assert_snapshot, with_settings};
use job_store::DatabaseUrl;
use rustix::process::Signal;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;
use std::time::Duration;
use test_support::programs::{Running, Scene, jobs, output, program, stderr, stdout, until};
use test_support::proxy::{Network, Proxy};
use test_support::{empty_database, server_socket};

const LONG: Duration = Duration::from_secs(60);
/// What differs from run to run.
const MASKS: [(&str, &str); 10] = [
    (r"\d+\.\d+ s", "[seconds] s"),
    (r" +\d+ s\b", " [seconds] s"),
    (r#""(\w*seconds)": \d+(\.\d+)?"#, r#""$1": "[seconds]""#),
    (r"on \S+, process \d+", "on [host], process [pid]"),
    (r#""pid": \d+"#, r#""pid": "[pid]""#),
    (r"[0-9a-f]{8}-[0-9a-f-]{27}", "[worker]"),
    (r"(\[worker\] +\S+ +)\S+ +\d+", "$1[host] [pid]"),
    (r" +\d+ MiB", " [memory] MiB"),
    (r" +\d+/\d+ \[memory\]", " [jobs] [memory]"),
    (r"\d{4}-\d\d-\d\dT\S+Z", "[time]"),
];
/// One circuit of each kind; the second kind never gets through.
const POISONOUS: &str = "[[circuit]]\ncount = 1\n[[circuit]]\ncount = 1\npanics = true\nheavy = true\n";

macro_rules! snapshot {
    ($text:expr) => {
        let text = $text;
        with_settings!({ filters => MASKS }, { assert_snapshot!(text) })
    };
}

fn first_file(folder: &std::path::Path) -> std::path::PathBuf {
    let first = std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    if first.is_dir() { first_file(&first) } else { first }
}

#[tokio::test]
async fn a_batch_from_insertion_to_its_proof() {
    let scene = Scene::mock("[[circuit]]\ncount = 5\n[[circuit]]\ncount = 1\nheavy = true\n").await;
    scene.write("in.mock", "mock one");
    snapshot!(scene.run_cli(&["insert-version"]));
    snapshot!(scene.run_cli(&["insert-batch", "--number=7", "--version=0", "--patch=1", "--input=in.mock"]));
    snapshot!(scene.run_cli(&["insert-batch", "--number=7", "--input=in.mock"]));
    snapshot!(scene.run_cli(&["status", "batch", "--number=7"]));
    snapshot!(scene.run_cli(&["status", "queue"]));
    snapshot!(scene.run_cli(&["--json", "status", "queue"]));
    snapshot!(scene.run_cli(&["status", "versions"]));
    snapshot!(scene.run_cli(&["status", "workers"]));
    let mut all = scene.start("all", &["--component=all"]);
    assert_eq!(scene.until_ended(0, 7, LONG)["status"], "successful");
    let log = all.log();
    let ends: Vec<&str> = log.lines().filter(|line| line.contains("the attempt ended")).collect();
    assert!(ends.len() >= 6, "each attempt's end is a line: {log}");
    // The generation of a batch's circuits has no circuit of its own.
    let parts =
        ["INFO", "batch=", "job=", "attempt=1", "outcome=\"successful\"", "took_seconds=", "waited_seconds="];
    assert!(ends.iter().all(|line| parts.iter().all(|part| line.contains(part))), "{log}");
    assert!(ends.iter().any(|line| line.contains("circuit=\"")), "{log}");
    snapshot!(scene.run_cli(&["status", "workers"]));
    snapshot!(scene.run_cli(&["status", "batch", "--number=7"]));
    snapshot!(scene.run_cli(&["status", "batch", "--number=7", "--json"]));
    snapshot!(scene.run_cli(&["status", "batch", "--number=7", "-v"]));
    snapshot!(scene.run_cli(&["status", "queue"]));
    snapshot!(scene.run_cli(&["proof", "fetch", "--proof-system=mock", "--number=7"]));
    let verified = scene.run_cli(&["proof", "verify", "--proof-system=mock", "--number=7"]);
    assert!(
        verified.starts_with("batch 7 of chain 0: the proof of ")
            && verified.ends_with("verifies with proof system mock, version 0.0.1, no verification key\n")
    );
    snapshot!(scene.run_cli(&["set-chain", "--chain-id=3", "--head-of-chain=strict", "--share=2"]));
    snapshot!(scene.run_cli(&["--json", "set-chain", "--chain-id=3", "--share=5"]));
    let workers: serde_json::Value =
        serde_json::from_str(&scene.run_cli(&["--json", "status", "workers"])).unwrap();
    let worker = &workers[0]["id"].as_str().unwrap()[..8];
    snapshot!(scene.run_cli(&["drain", worker, "--dry-run"]));
    snapshot!(scene.run_cli(&["drain", worker]));
    assert_eq!(all.wait(LONG), 0, "it stops by itself");
    assert_eq!(scene.run_cli(&["status", "workers"]), "no worker lives\n");
    let gone = output(scene.program("prover_cli").args(["drain", worker]));
    assert_eq!((gone.status.code(), stderr(&gone).contains("no worker")), (Some(2), true));

    let proof = first_file(&scene.path("artifacts/final_proof"));
    let shown = proof.to_string_lossy().into_owned();
    let info = scene.run_cli(&["--json", "file-info", &shown]);
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert_eq!((&info["kind"], &info["payload_bytes"]), (&"final_proof".into(), &64.into()));
    assert!(
        scene.run_cli(&["file-info", &shown]).contains(": a whole final_proof, 64 bytes, schema version 1")
    );
    assert!(scene.run_cli(&["file-info", &shown]).contains("  digest: "), "what it tells of itself");
    let debug = |arguments: &[&str]| {
        output(scene.program("prover_cli").args(["debug-proof", "--proof-system=mock"]).args(arguments))
    };
    let accepted = debug(&[&shown, "--statement=proofs/0-7/statement.json"]);
    assert_eq!(accepted.status.code(), Some(0), "{}", stderr(&accepted));
    scene.write("forged.json", &"0".repeat(9));
    let refused = debug(&[&shown, "--statement=forged.json"]);
    assert_eq!(refused.status.code(), Some(1), "{}", stderr(&refused));
    assert!(
        stdout(&refused).contains(": a final_proof, refused: not a mock statement"),
        "{}",
        stdout(&refused)
    );
    assert_eq!(debug(&[&shown]).status.code(), Some(2), "it needs a statement");
    // The scene's environment says `mock`, and that says nothing of what is accepted.
    let by_environment = output(scene.program("prover_cli").args([
        "debug-proof",
        &shown,
        "--statement=proofs/0-7/statement.json",
    ]));
    assert_eq!(by_environment.status.code(), Some(1), "{}", stdout(&by_environment));
    for (kind, words) in [
        ("proof", ": a proof of basic-circuits circuit 1, accepted\n  public inputs: "),
        ("circuit", ": a circuit of basic-circuits circuit 1, accepted"),
    ] {
        let file = first_file(&scene.path("artifacts").join(kind).join("0/7/0/1"));
        let checked = debug(&[file.to_str().unwrap()]);
        assert!(stdout(&checked).contains(words), "{}{}", stdout(&checked), stderr(&checked));
        assert!(
            scene
                .run_cli(&["file-info", file.to_str().unwrap()])
                .contains("  circuit: basic-circuits circuit 1")
        );
    }
    let circuit = first_file(&scene.path("artifacts/circuit/0/7/0/1")).to_string_lossy().into_owned();
    let other = debug(&[&circuit, "--round=basic-circuits", "--circuit-id=77"]);
    assert_eq!(other.status.code(), Some(1), "{}", stderr(&other));

    let mut damaged = std::fs::read(&proof).unwrap();
    *damaged.last_mut().unwrap() ^= 1;
    std::fs::write(&proof, damaged).unwrap();
    let torn = output(scene.program("prover_cli").args(["file-info", &shown]));
    assert_eq!(torn.status.code(), Some(1));
    assert!(stderr(&torn).contains("not a whole artifact: its checksum does not match"), "{}", stderr(&torn));

    let stats: serde_json::Value =
        serde_json::from_str(&scene.run_cli(&["--json", "stats", "--by=week"])).unwrap();
    let jobs: i64 =
        stats["circuits"].as_array().unwrap().iter().map(|circuit| circuit["jobs"].as_i64().unwrap()).sum();
    assert_eq!((jobs, &stats["batches"][0]["successful"]), (20, &1.into()));
    // Of the 20 jobs 12 are proofs of circuits; the rate is over the seconds of work, and not over a day.
    let [rate, worked] = ["proofs_per_hour", "working_seconds"].map(|key| stats[key].as_f64().unwrap());
    assert!(worked > 0.0 && worked < 120.0, "{worked}");
    assert!((rate * worked.max(1.0) / 3_600.0 - 12.0).abs() < 1e-6, "{rate} {worked}");
    // What a short job took of memory is measured or not, so the table is not the same each time.
    let table = scene.run_cli(&["stats"]);
    assert!(
        table.starts_with("the last 24 hours: ")
            && table.contains("in which a batch was being proven\nstage "),
        "{table}"
    );
    assert!(table.contains("\ncircuit_proof      basic-circuits          1       5 "), "{table}");

    let ask = output(scene.program("prover_cli").args(["delete", "--number=7"]));
    assert_eq!((ask.status.code(), stderr(&ask).contains("Nobody is there to ask")), (Some(2), true));
    snapshot!(scene.run_cli(&["delete", "--number=7", "--dry-run"]));
    snapshot!(scene.run_cli(&["delete", "--number=7", "--yes"]));
    let gone = output(scene.program("prover_cli").args(["delete", "--number=7", "--yes"]));
    assert_eq!((gone.status.code(), stderr(&gone).contains("there is no batch 7")), (Some(2), true));
    assert!(scene.run_cli(&["status", "workers", "--all"]).contains("stopped"));
}

/// Answers requests for one path with these bytes, and others with 404, as long as the test runs.
fn serve(path: &'static str, content: &'static str) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4_096];
            let read = stream.read(&mut request).unwrap();
            let is_there = request[..read].starts_with(format!("GET {path} ").as_bytes());
            let (status, body) = if is_there { ("200 OK", content) } else { ("404 Not Found", "") };
            let head =
                format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n", body.len());
            let dates = "Last-Modified: Sun, 22 Nov 2026 00:00:00 GMT\r\nETag: \"1\"\r\n";
            write!(stream, "{head}{dates}\r\n{body}").unwrap();
        }
    });
    format!("http://{address}")
}

#[tokio::test]
async fn an_input_is_a_file_a_url_or_standard_input() {
    let scene = Scene::mock("[[circuit]]\ncount = 1\n").await;
    let file = scene.write("in.mock", "mock one");
    let server = serve("/inputs/in.mock", "mock one");
    let insert = |input: &str, stdin: &std::path::Path| {
        let mut command = scene.program("prover_cli");
        command.args(["insert-batch", "--number=1", "--input", input]);
        output(command.stdin(std::fs::File::open(stdin).unwrap()))
    };
    let words = |input: &str| {
        let result = insert(input, &file);
        assert!(result.status.success(), "{input}: {}", stderr(&result));
        stdout(&result)
    };
    assert_eq!(words("-"), "batch 1 of chain 0 is queued: 8 bytes for the mock\n");
    for same in [format!("file://{}", file.display()), format!("{server}/inputs/in.mock")] {
        assert!(words(&same).contains("was there already, with the same input"), "{same}");
    }
    let other = scene.write("other", "not one of its inputs");
    let missing = format!("{server}/inputs/other.mock");
    for (input, stdin, said) in [
        ("-", &other, "-: the mock's input starts with the word mock"),
        (missing.as_str(), &file, "inputs/other.mock is missing from http://127.0.0.1"),
        ("nonsense://one", &file, "nonsense://one is not an object store"),
        ("file:///nowhere/in.mock", &file, "nowhere/in.mock"),
    ] {
        let refused = insert(input, stdin);
        assert_eq!(refused.status.code(), Some(2), "{input}: {}", stderr(&refused));
        assert!(stderr(&refused).contains(said), "{input}: {}", stderr(&refused));
    }
}

#[tokio::test]
async fn a_batch_that_asks_for_more_than_the_fleet_has_is_refused() {
    let scene = Scene::mock("[[circuit]]\ncount = 1\n").await;
    scene.write("in.mock", "mock one");
    let insert = |asked: &[&str]| {
        let mut command = scene.program("prover_cli");
        output(command.args(["insert-batch", "--number=1", "--input=in.mock"]).args(asked))
    };
    let refused = insert(&["--compute-capacity=4"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("have places for 0 jobs, and the batch wants 4: nothing was inserted"));
    let wrong = insert(&["--compute-capacity=4", "--minimal-compute-capacity=5"]);
    assert_eq!(wrong.status.code(), Some(2), "{}", stderr(&wrong));
    let unknown = output(scene.program("prover_cli").args(["why", "--number=1"]));
    assert_eq!(unknown.status.code(), Some(2), "it is not there");
    let _prover = scene.start("prover", &["--component=circuit-prover", "-t3"]);
    until("it lives", LONG, || (!scene.run_cli(&["status", "workers"]).contains("no worker")).then_some(()));
    assert_eq!(insert(&["--compute-capacity=4"]).status.code(), Some(1));
    let fewer = insert(&["--compute-capacity=4", "--minimal-compute-capacity=3"]);
    assert!(fewer.status.success(), "{}", stderr(&fewer));
    assert!(
        stdout(&fewer).ends_with("of the 4 places that are asked for 3 are there\n"),
        "{}",
        stdout(&fewer)
    );
}

#[tokio::test]
async fn why_says_what_a_job_waits_for_and_cancel_asks_first() {
    let scene = Scene::mock("[[circuit]]\ncount = 2\n").await;
    scene.write("in.mock", "mock one");
    scene.run_cli(&["insert-batch", "--number=3", "--input=in.mock"]);
    snapshot!(scene.run_cli(&["why", "--number=3"]));
    snapshot!(scene.run_cli(&["--json", "why", "--number=3"]));
    let job = serde_json::from_str::<serde_json::Value>(&scene.run_cli(&["--json", "why", "--number=3"]))
        .unwrap()["jobs"][0]["job_id"]
        .as_str()
        .unwrap()
        .to_owned();
    snapshot!(scene.run_cli(&["why", &job]));
    snapshot!(scene.run_cli(&["attempts", &job]));
    snapshot!(scene.run_cli(&["quarantine", &job, "--dry-run"]));
    snapshot!(scene.run_cli(&["quarantine", &job, "--reason=it smells"]));
    snapshot!(scene.run_cli(&["why", &job]));
    snapshot!(scene.run_cli(&["--json", "release", &job]));
    snapshot!(scene.run_cli(&["cancel", "--number=3", "--dry-run"]));
    for (call, words) in [
        (vec!["cancel", "--number=3"], "Nobody is there to ask"),
        (vec!["cancel", "--number=4", "--yes"], "there is no batch 4 of chain 0"),
        (vec!["why", "--number=4"], "there is no batch 4 of chain 0"),
        (vec!["why", "12345"], "there is no job 12345"),
        (vec!["attempts", "12345"], "there is no job 12345"),
        (vec!["release", "12345"], "there is no job 12345"),
        (vec!["release", &job], "only a failed job can be released"),
        (vec!["why"], "required"),
        (vec!["why", "1", "--number=3"], "cannot be used with"),
    ] {
        let refused = output(scene.program("prover_cli").args(&call));
        assert_eq!(refused.status.code(), Some(2), "{call:?}");
        assert!(stderr(&refused).contains(words), "{call:?}: {}", stderr(&refused));
    }
    snapshot!(scene.run_cli(&["--json", "cancel", "--number=3", "--yes"]));
    snapshot!(scene.run_cli(&["cancel", "--number=3", "--yes"]));
    snapshot!(scene.run_cli(&["why", "--number=3"]));
    snapshot!(scene.run_cli(&["why", &job]));
}

#[tokio::test]
async fn what_is_paused_runs_once_it_is_resumed_and_a_restart_makes_it_again() {
    let scene = Scene::mock("[[circuit]]\ncount = 5\n").await;
    scene.write("in.mock", "mock one");
    snapshot!(scene.run_cli(&["pause", "--chain-id=2", "--dry-run"]));
    snapshot!(scene.run_cli(&["pause", "--chain-id=2"]));
    scene.run_cli(&["insert-batch", "--number=1", "--chain-id=2", "--input=in.mock"]);
    snapshot!(scene.run_cli(&["pause", "--chain-id=2"]));
    snapshot!(scene.run_cli(&["--json", "pause", "--stage=compression"]));
    let all = scene.start("all", &["--component=all"]);
    until("it lives", LONG, || (!scene.run_cli(&["status", "workers"]).contains("no worker")).then_some(()));
    snapshot!(scene.run_cli(&["why", "-c2", "-n1"]));
    snapshot!(scene.run_cli(&["resume", "--chain-id=2", "--dry-run"]));
    snapshot!(scene.run_cli(&["resume", "--chain-id=2"]));
    let compression = || jobs(&scene.status(2, 1), 4, "compression", Some("queued"));
    until("all but the compression is done", LONG, || (compression() == 1).then_some(()));
    snapshot!(scene.run_cli(&["why", "-c2", "-n1"]));
    snapshot!(scene.run_cli(&["resume", "--stage=compression"]));
    snapshot!(scene.run_cli(&["resume", "--stage=compression"]));
    assert_eq!(scene.until_ended(2, 1, LONG)["status"], "successful");
    let fetch = || {
        std::fs::read(
            scene
                .path(scene.run_cli(&["proof", "fetch", "--proof-system=mock", "-c2", "-n1"]).trim())
                .join("proof.bin"),
        )
    };
    let proof = fetch().unwrap();

    let ask = output(scene.program("prover_cli").args(["restart", "-c2", "-n1", "--from=node-aggregation"]));
    assert_eq!((ask.status.code(), stderr(&ask).contains("Nobody is there to ask")), (Some(2), true));
    for from in ["scheduler", "node-aggregation", "basic-circuits"] {
        let from = format!("--from={from}");
        snapshot!(scene.run_cli(&["restart", "-c2", "-n1", &from, "--dry-run"]));
        assert_eq!(scene.status(2, 1)["status"], "successful", "nothing was changed");
        snapshot!(scene.run_cli(&["restart", "-c2", "-n1", &from, "--yes"]));
        let watched = scene.run_cli(&["watch", "-c2", "-n1", "--interval=0.05"]);
        let last = watched.lines().last().unwrap();
        assert!(last.starts_with("batch 1 of chain 2: successful, basic-circuits 6/6, "), "{watched}");
        assert_eq!(fetch().unwrap(), proof, "the same proof");
    }
    let status = scene.status(2, 1);
    assert_eq!(status["attempts"], 17 + 3 + 7 + 17, "what was forgotten stays in the books: {status:#}");
    drop(all);
}

#[tokio::test]
async fn a_batch_that_fails_says_why() {
    let scene = Scene::mock(POISONOUS).await;
    scene.write("in.mock", "mock one");
    scene.run_cli(&["insert-batch", "--number=1", "--chain-id=9", "--input=in.mock"]);
    let mut all = scene.start("all", &["--component=all", "--light-wvg-count=0"]);
    assert_eq!(scene.until_ended(9, 1, LONG)["status"], "failed");
    assert_eq!(all.terminate(), 0);
    snapshot!(scene.run_cli(&["status", "batch", "--chain-id=9", "--number=1"]));
    snapshot!(scene.run_cli(&["why", "--chain-id=9", "--number=1"]));
    let why = scene.run_cli(&["why", "--chain-id=9", "--number=1", "--json"]);
    let why: serde_json::Value = serde_json::from_str(&why).unwrap();
    let failed = why["jobs"][0]["job_id"].as_str().unwrap();
    snapshot!(scene.run_cli(&["attempts", failed]));
    snapshot!(scene.run_cli(&["status", "queue"]));
    let fetch =
        output(scene.program("prover_cli").args(["proof", "fetch", "--proof-system=mock", "-c9", "-n1"]));
    assert_eq!(fetch.status.code(), Some(1));
    snapshot!(stderr(&fetch));
    snapshot!(scene.run_cli(&["requeue", "--chain-id=9", "--number=1", "--dry-run"]));
    assert!(scene.run_cli(&["why", failed]).contains("failed for good"), "nothing was changed");
    snapshot!(scene.run_cli(&["--json", "requeue", "--chain-id=9", "--number=1"]));
    assert!(scene.run_cli(&["why", failed]).contains("is queued"));
    snapshot!(scene.run_cli(&["requeue", "--chain-id=9", "--number=1"]));
}

#[tokio::test]
async fn bad_calls_change_nothing_and_say_what_to_do() {
    let scene = Scene::mock(POISONOUS).await;
    scene.write("in.mock", "mock one");
    scene.write("other.mock", "mock two");
    scene.write("no.mock", "nothing");
    scene.run_cli(&["insert-batch", "--number=1", "--input=in.mock"]);
    for (arguments, code) in [
        (["insert-batch", "--number=2", "--input=no.mock"].as_slice(), 2),
        (&["insert-batch", "--number=2", "--input=missing"], 2),
        (&["insert-batch", "--number=2", "--version=9", "--input=in.mock"], 2),
        (&["insert-batch", "--number=1", "--input=other.mock"], 1),
        (&["insert-version", "--patch=77"], 2),
        (&["status", "batch", "--number=2"], 2),
        (&["watch", "--number=2"], 2),
        (&["watch", "--interval=0"], 2),
        (&["restart", "--number=2", "--from=scheduler", "--yes"], 2),
        (&["restart", "--number=1", "--from=the-start", "--yes"], 2),
        (&["pause"], 2),
        (&["pause", "--stage=proof"], 2),
        (&["resume", "--chain-id=1", "--stage=compression"], 2),
        (&["proof", "fetch", "--proof-system=mock", "--number=1"], 1),
        (&["insert-batch", "--number=2", "--input=in.mock", "--deadline=tomorrow"], 2),
        (&["insert-batch", "--number=2", "--input=in.mock", "--deadline=infinity"], 2),
        (&["insert-batch", "--number=1", "--input=other.mock", "--replace"], 1),
        (&["set-batch", "--number=1"], 2),
        (&["set-batch", "--number=2", "--priority=1"], 2),
        (&["set-chain", "--chain-id=3"], 2),
        (&["set-chain", "--chain-id=3", "--share=0"], 2),
        (&["set-chain", "--chain-id=3", "--head-of-chain=loose"], 2),
    ] {
        let result = output(scene.program("prover_cli").args(arguments));
        assert_eq!(result.status.code(), Some(code), "{arguments:?}: {}", stderr(&result));
        assert_eq!(stdout(&result), "", "{arguments:?}");
        snapshot!(format!("prover_cli {}\n{}", arguments.join(" "), stderr(&result)));
    }
}

/// A deadline that has passed, or that cannot be met, is said where a batch is inserted and wherever it is shown.
#[tokio::test]
async fn deadlines_and_settings_are_told() {
    let scene = Scene::mock("[[circuit]]\ncount = 1\n").await;
    scene.write("in.mock", "mock one");
    scene.write("other.mock", "mock two");
    let insert = |number: &str, more: &[&str]| {
        scene.run_cli(&[&["insert-batch", "--number", number, "--input=in.mock"], more].concat())
    };
    let late = insert("1", &["--deadline=2020-01-01T00:00:00Z"]);
    assert!(late.contains("its deadline, 2020-01-01T00:00:00Z, has passed"), "{late}");
    let again = insert("1", &["--priority=7"]);
    assert!(
        again.contains("its priority stays 0 and its deadline 2020-01-01T00:00:00Z: `prover_cli set-batch`"),
        "{again}"
    );
    let set =
        scene.run_cli(&["set-batch", "--number=1", "--priority=7", "--deadline=2190-01-01T01:00:00+01:00"]);
    assert_eq!(set, "batch 1 of chain 0 has priority 7 and the deadline 2190-01-01T00:00:00Z\n");
    assert_eq!(scene.status(0, 1)["deadline_standing"], "on_time");
    assert!(scene.run_cli(&["status", "batch", "--number=1"]).contains("deadline 2190-01-01T00:00:00Z: in "));
    let dry = scene.run_cli(&["set-batch", "--number=1", "--no-deadline", "--dry-run"]);
    assert_eq!(dry, "batch 1 of chain 0 would have priority 7 and no deadline\n");
    let mut all = scene.start("all", &["--component=all"]);
    assert_eq!(scene.until_ended(0, 1, LONG)["deadline_standing"], "met");
    all.terminate();
    let soon = scene.run_cli(&["insert-batch", "--number=2", "--input=in.mock", "--deadline", &soon()]);
    assert!(soon.contains("is at risk: it takes about") || soon.contains("has passed"), "{soon}");
    scene.run_cli(&["cancel", "--number=2", "--yes"]);
    let cancelled = insert("2", &[]);
    assert!(cancelled.contains("it is cancelled: --replace has it proven anew"), "{cancelled}");
    let replaced =
        scene.run_cli(&["insert-batch", "--number=2", "--input=other.mock", "--replace", "--json"]);
    let replaced: serde_json::Value = serde_json::from_str(&replaced).unwrap();
    assert_eq!((&replaced["is_new"], &replaced["has_replaced"]), (&true.into(), &true.into()), "{replaced}");
    assert_eq!(replaced["status"], "queued");
}

/// A moment that is over before a batch can be proven.
fn soon() -> String {
    let now = std::process::Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"]).output().unwrap();
    String::from_utf8(now.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_database_that_is_not_named_not_valid_or_not_there() {
    for (url, code) in
        [(None, 2), (Some("postgres://me:secret@["), 2), (Some("postgres://me:secret@127.0.0.1:1/x"), 1)]
    {
        let result = output(program("prover_cli").args(url).args(["status", "queue"]));
        assert_eq!(result.status.code(), Some(code));
        assert!(!stderr(&result).contains("secret"), "{}", stderr(&result));
        snapshot!(stderr(&result));
    }
}

/// A role that may read is told everything, and changes nothing.
#[tokio::test]
async fn a_role_that_may_only_read_reads_and_is_told_why_it_cannot_write() {
    let url = empty_database().await;
    let scene = Scene::mock_on(&url, "[[circuit]]\ncount = 1\n", &[]);
    scene.write("in.mock", "mock one");
    scene.run_cli(&["insert-batch", "--number=1", "--input=in.mock"]);
    let reader = url_of_a_member(&scene, &url, "looking", "reader").await;
    let call = |arguments: &[&str]| output(scene.program("prover_cli").arg(&reader).args(arguments));
    let job = (1_i64 << 37).to_string();
    for arguments in [
        ["status", "queue"].as_slice(),
        &["status", "batch", "-n1"],
        &["status", "workers"],
        &["status", "versions"],
        &["why", "-n1"],
        &["attempts", &job],
        &["stats"],
    ] {
        let read = call(arguments);
        assert_eq!(read.status.code(), Some(0), "{arguments:?}: {}", stderr(&read));
    }
    for arguments in [
        ["cancel", "-n1", "--yes"].as_slice(),
        &["requeue", "-n1"],
        &["restart", "-n1", "--from=scheduler", "--yes"],
        &["pause", "-c0"],
        &["pause", "-scompression"],
        &["quarantine", &job],
        &["set-chain", "-c0", "--share=2"],
        &["insert-batch", "-n2", "--input=in.mock"],
    ] {
        let refused = call(arguments);
        assert_eq!(refused.status.code(), Some(1), "{arguments:?}: {}", stderr(&refused));
        let words = stderr(&refused);
        assert!(words.contains("may not do this") && words.contains("permission denied for"), "{words}");
    }
    assert!(scene.run_cli(&["status", "batch", "-n1"]).starts_with("batch 1 of chain 0: queued"));
    // What goes on looking.
    for arguments in [["watch"].as_slice(), &["watch", "-n1"]] {
        let mut command = scene.program("prover_cli");
        let mut watch = command.arg(&reader).args(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(watch.stdout.take().unwrap()).read_line(&mut line).unwrap();
        watch.kill().unwrap();
        watch.wait().unwrap();
        assert!(line.contains("batch"), "{arguments:?}: {line}");
    }
    let fetched = call(&["proof", "fetch", "-n1", "--proof-system=mock"]);
    assert!(!stderr(&fetched).contains("permission"), "{}", stderr(&fetched));
}

/// The roles, applied by the program to a database that it migrated; the URL of a new member of one of them.
async fn url_of_a_member(scene: &Scene, url: &DatabaseUrl, prefix: &str, role: &str) -> String {
    // Roles are the whole server's.
    let prefix = format!("{prefix}_{}", std::process::id());
    let applied = output(scene.program("prover").args(["database", "roles", "--apply", "--prefix", &prefix]));
    assert!(applied.status.success(), "{}", stderr(&applied));
    let user = format!("{prefix}_user");
    let create = format!("CREATE ROLE {user} LOGIN IN ROLE {prefix}_{role}");
    let mut sql = url.connect().await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(create)).execute(&mut sql).await.unwrap();
    url.with_user(&user).unwrap().expose().to_owned()
}

/// All components, insertion and the operators' commands, by a role that may work and does not own anything.
#[tokio::test]
async fn a_role_that_may_work_proves_a_batch_and_does_what_operators_do() {
    let url = empty_database().await;
    let scene = Scene::mock_on(&url, "[[circuit]]\ncount = 3\n", &[]);
    scene.write("in.mock", "mock one");
    let component = url_of_a_member(&scene, &url, "working", "component").await;
    let call = |arguments: &[&str]| {
        let done = output(scene.program("prover_cli").arg(&component).args(arguments));
        assert_eq!(done.status.code(), Some(0), "{arguments:?}: {}", stderr(&done));
        stdout(&done)
    };
    call(&["insert-version"]);
    call(&["insert-batch", "--number=1", "--input=in.mock"]);
    call(&["insert-batch", "--number=2", "--input=in.mock"]);
    let job = (1_i64 << 37).to_string();
    for arguments in [
        ["pause", "-c0"].as_slice(),
        &["resume", "-c0"],
        &["pause", "-scompression"],
        &["resume", "-scompression"],
        &["set-chain", "-c0", "--share=2"],
        &["quarantine", &job],
        &["release", &job],
        &["requeue", "-n1"],
        &["cancel", "-n2", "--yes"],
        &["delete", "-n2", "--yes"],
    ] {
        call(arguments);
    }
    let all = "--component=witness-generator,circuit-prover,compressor,prover-job-monitor";
    let running = scene.start_with("all", &[all, "-l1", "-H1"], &[("DATABASE_URL", component.clone())]);
    let status = scene.until_ended(0, 1, LONG);
    assert_eq!(status["status"], "successful", "{}", running.log());
    assert!(!running.log().contains("permission denied"), "{}", running.log());
    call(&["proof", "fetch", "-n1", "--proof-system=mock"]);
    call(&["restart", "-n1", "--from=scheduler", "--yes"]);
}

/// What is printed can be applied by hand; a name that is none is refused before anything is done.
#[tokio::test]
async fn the_roles_are_printed_as_sql_that_needs_no_database() {
    let printed = output(program("prover").args(["database", "roles"]));
    assert!(printed.status.success(), "{}", stderr(&printed));
    let text = stdout(&printed);
    assert!(text.contains("GRANT SELECT ON ALL TABLES IN SCHEMA roundhouse TO roundhouse_reader;"), "{text}");
    let url = empty_database().await;
    let mut sql = url.connect().await.unwrap();
    for _ in 0..2 {
        sqlx::raw_sql(sqlx::AssertSqlSafe(text.clone())).execute(&mut sql).await.unwrap();
    }
    let refused = output(program("prover").args(["database", "roles", "--prefix=a;b"]));
    assert_eq!(refused.status.code(), Some(2), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("is no prefix for roles"), "{}", stderr(&refused));
}

/// A look that finds no database says so, and the next is taken as if nothing had been.
#[tokio::test]
async fn a_watch_outlasts_its_database() {
    let scene = Scene::mock("[[circuit]]\ncount = 1\n").await;
    let proxy = Proxy::start(server_socket());
    let plain = scene.program("prover_cli");
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "exec \"$0\" watch --interval=0.1 >looks.txt"]).arg(plain.get_program());
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("DATABASE_URL", scene.database_by_way_of(&proxy)).current_dir(scene.path(""));
    let mut watch = Running::start(&mut command, scene.path("watch.log"));
    let looks = || std::fs::read_to_string(scene.path("looks.txt")).unwrap_or_default().lines().count();
    until("it looks", LONG, || (looks() > 0).then_some(()));
    proxy.set_network(Network::Reset);
    until("it says that it tries again", LONG, || watch.log().contains("next try in").then_some(()));
    let before = looks();
    proxy.set_network(Network::Whole);
    until("it looks again", LONG, || (looks() > before).then_some(()));
    watch.signal(Signal::TERM);
    assert_eq!(watch.wait(LONG), 0);
}

#[tokio::test]
async fn another_schema_is_named_and_left_alone() {
    let url = empty_database().await;
    let none = output(program("prover_cli").arg(url.expose()).args(["status", "queue"]));
    assert_eq!(none.status.code(), Some(1));
    assert!(stderr(&none).contains("has no schema yet: run `prover database migrate`"), "{}", stderr(&none));
    let scene = Scene::mock_on(&url, "[[circuit]]\ncount = 1\n", &[]);
    let mut sql = url.connect().await.unwrap();
    for (change, words) in [
        (
            "INSERT INTO _sqlx_migrations SELECT 99990101000001, description, installed_on, success, checksum, execution_time
             FROM _sqlx_migrations ORDER BY version LIMIT 1",
            "is newer than this program's",
        ),
        (
            "DELETE FROM _sqlx_migrations WHERE version > (SELECT min(version) FROM _sqlx_migrations)",
            "is older than this program's: run `prover database migrate`",
        ),
    ] {
        sqlx::raw_sql(change).execute(&mut sql).await.unwrap();
        for arguments in [["status", "queue"].as_slice(), &["why", "-n1"], &["pause", "-c0"], &["watch"]] {
            let refused = output(scene.program("prover_cli").args(arguments));
            assert_eq!(refused.status.code(), Some(1), "{arguments:?}: {}", stderr(&refused));
            assert!(stderr(&refused).contains(words), "{arguments:?}: {}", stderr(&refused));
        }
    }
}

#[test]
fn the_settings_say_where_they_come_from_and_hide_passwords() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("roundhouse.toml");
    std::fs::write(&file, "keys = \"/keys\"\n\n[circuit_prover]\nthreads = 3\n").unwrap();
    let config = |arguments: &[&str]| {
        let mut command = program("prover_cli");
        command
            .env("ROUNDHOUSE_OBJECT_STORE", "s3://me:secret@bucket/x?token=secret")
            .env("ROUNDHOUSE_CONFIG", &file);
        output(command.args(arguments))
    };
    let shown = config(&["postgres://me:secret@db:5432/x?password=secret", "config"]);
    assert_eq!(shown.status.code(), Some(0), "{}", stderr(&shown));
    let text = stdout(&shown).replace(&file.display().to_string(), "[file]");
    assert!(!text.contains("secret"), "{text}");
    snapshot!(text);
    let shown: serde_json::Value = serde_json::from_str(&stdout(&config(&["--json", "config"]))).unwrap();
    assert_eq!(shown.as_array().unwrap().iter().filter(|setting| setting["key"] == "threads").count(), 1);
    std::fs::write(&file, "key = \"/keys\"\n").unwrap();
    let refused = config(&["config"]);
    assert_eq!(
        (refused.status.code(), stderr(&refused).contains("line 1: there is no setting key")),
        (Some(2), true)
    );
}

#[test]
fn the_help_texts() {
    for command in [
        [].as_slice(),
        &["insert-version"],
        &["insert-batch"],
        &["status", "batch"],
        &["proof", "fetch"],
        &["set-chain"],
        &["restart"],
        &["pause"],
        &["watch"],
        &["debug-proof"],
    ] {
        snapshot!(stdout(&output(program("prover_cli").args(command).arg("--help"))));
    }
}

/// What a worker or whoever else writes into the database chooses, and a terminal would obey.
#[tokio::test]
async fn a_terminal_obeys_nothing_that_comes_from_the_database() {
    const SLY: &str = "\nforged line\u{1b}[2J\u{1b}]0;owned\u{7}\u{9b}31m\r\u{202e}gone\u{8}";
    let url = empty_database().await;
    let scene = Scene::mock_on(&url, POISONOUS, &[]);
    scene.write("in.mock", "mock one");
    scene.run_cli(&["insert-batch", "--number=1", "--input=in.mock"]);
    let mut all = scene.start("all", &["--component=all"]);
    assert_eq!(scene.until_ended(0, 1, LONG)["status"], "failed");
    all.terminate();
    let mut sql = url.connect().await.unwrap();
    for table in ["workers", "batches", "jobs", "job_attempts"] {
        // Every text that no rule of the schema binds.
        let columns: Vec<String> = sqlx::query_scalar(
            "SELECT column_name::text FROM information_schema.columns
             WHERE table_name = $1 AND data_type = 'text' AND column_name IN ('host', 'component', 'error', 'last_error')",
        )
        .bind(table)
        .fetch_all(&mut sql)
        .await
        .unwrap();
        for column in columns {
            let change = format!("UPDATE {table} SET {column} = {column} || $1 WHERE {column} IS NOT NULL");
            sqlx::query(sqlx::AssertSqlSafe(change)).bind(SLY).execute(&mut sql).await.unwrap();
        }
    }
    sqlx::Connection::close(sql).await.unwrap();
    let failed = scene.run_cli(&["--json", "status", "batch", "--number=1", "-v"]);
    let failed: serde_json::Value = serde_json::from_str(&failed).unwrap();
    let job = failed["stuck_jobs"][0]["job_id"].as_str().unwrap().to_owned();
    let mut escaped = 0;
    for arguments in [
        ["status", "batch", "--number=1"].as_slice(),
        &["status", "batch", "--number=1", "-v"],
        &["status", "workers"],
        &["status", "queue"],
        &["status", "versions"],
        &["why", "--number=1"],
        &["why", &job],
        &["attempts", &job],
        &["watch", "--number=1"],
        &["stats"],
        &["requeue", "--number=1", "--dry-run"],
        &["release", &job, "--dry-run"],
        &["cancel", "--number=1", "--dry-run"],
        &["proof", "fetch", "--number=1", "--proof-system=mock"],
    ] {
        for json in [&[][..], &["--json"]] {
            let result = output(scene.program("prover_cli").args(json).args(arguments));
            for text in [stdout(&result), stderr(&result)] {
                let obeyed = text.chars().find(|c| (c.is_control() && *c != '\n') || *c == '\u{202e}');
                assert_eq!(obeyed, None, "{arguments:?} {json:?}: {text:?}");
                assert!(!text.contains("\nforged line"), "{arguments:?} {json:?}: {text:?}");
                escaped += usize::from(text.contains("\\u009b31m"));
            }
            if !json.is_empty() && result.status.success() {
                let lines = stdout(&result);
                let value: Result<serde_json::Value, _> = serde_json::from_str(lines.trim());
                assert!(value.is_ok(), "{arguments:?}: {lines}");
            }
        }
    }
    assert!(escaped >= 8, "only {escaped} of the answers show what was written");
}
