//! A drill: chains and batches with failures, deaths and delays, and an archive behind them. Every command tells what the tables hold, read by
//! the test's own SQL; how long each takes is printed.
//!
//! `DRILL=CHAINSxBATCHESxCIRCUITS DRILL_ARCHIVED=JOBS cargo test --release -p prover --test drill -- --nocapture` for a large one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use job_store::measure::ballast::Ballast;
use job_store::{DatabaseUrl, JobStore};
use serde_json::Value;
use sqlx::PgConnection;
use std::time::{Duration, Instant};
use test_support::programs::{Running, Scene, output, stderr, stdout};
use test_support::{VERSION, empty_database};

const LONG: Duration = Duration::from_secs(1_200);

/// The size: chains, batches of each, circuits of each batch.
fn size() -> [u32; 3] {
    let text = std::env::var("DRILL").unwrap_or_else(|_| "3x2x60".to_owned());
    let parts: Vec<u32> = text.split('x').map(|part| part.parse().expect("DRILL=3x5x1140")).collect();
    parts.try_into().expect("DRILL=3x5x1140")
}

fn archived() -> i64 {
    std::env::var("DRILL_ARCHIVED").map_or(20_000, |text| text.parse().expect("DRILL_ARCHIVED=1000000"))
}

struct Drill {
    scene: Scene,
    sql: PgConnection,
}

impl Drill {
    /// A command's answer, as JSON; how long it took is printed.
    fn ask(&self, arguments: &[&str]) -> Value {
        let begun = Instant::now();
        let result = output(self.scene.program("prover_cli").arg("--json").args(arguments));
        #[allow(clippy::print_stdout, reason = "the test's own output")]
        {
            println!("{:>6} ms  prover_cli {}", begun.elapsed().as_millis(), arguments.join(" "));
        }
        assert!(result.status.success(), "{arguments:?}: {}", stderr(&result));
        serde_json::from_str(&stdout(&result)).unwrap()
    }

    async fn count(&mut self, query: &'static str) -> i64 {
        sqlx::query_scalar(query).fetch_one(&mut self.sql).await.unwrap()
    }

    async fn one(&mut self, query: &'static str) -> String {
        sqlx::query_scalar::<_, i64>(query).fetch_one(&mut self.sql).await.unwrap().to_string()
    }

    fn start(&self, name: &str, arguments: &[&str]) -> Running {
        let pace = ["--heartbeat-interval-ms=500", "--lease-duration-ms=3000"];
        self.scene.start(name, &[arguments, &pace].concat())
    }
}

fn sum(rows: &Value, field: &str) -> i64 {
    rows.as_array().unwrap().iter().map(|row| row[field].as_i64().unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_tells_what_the_tables_hold() {
    let [chains, batches, circuits] = size();
    let url: DatabaseUrl = empty_database().await;
    // One kind that fails now and then, one that always does, one that kills its worker, and all with some delay.
    let mock = format!(
        "[[circuit]]\ncount = {circuits}\nprove_ms = 2\nfailure_rate = 0.02\n[[circuit]]\ncount = 1\npanics = true\n\
         [[circuit]]\ncount = 1\naborts = true\nheavy = true\n"
    );
    let scene = Scene::mock_on(&url, &mock, &[]);
    JobStore::connect(&url).await.unwrap().add_ballast(VERSION, archived(), Ballast::Archived).await.unwrap();
    let sql = url.connect().await.unwrap();
    let mut drill = Drill { scene, sql };
    let input = drill.scene.write("in.mock", "mock one");
    for chain in 0..chains {
        for number in 1..=batches {
            let (chain, number) = (chain.to_string(), number.to_string());
            let input = ["--input", input.to_str().unwrap()];
            drill.ask(&[&["insert-batch", "--chain-id", &chain, "--number", &number], &input[..]].concat());
        }
    }
    // Light circuits are proven by processes that live, heavy ones by one that is started again whenever it dies.
    let _monitor = drill.start("monitor", &["--component=prover-job-monitor"]);
    let _rest = drill.start("rest", &["--component=witness-generator,compressor", "--generator-count=2"]);
    let _light = drill.start("light", &["--component=circuit-prover", "-l4", "-H0"]);
    let heavy = ["--component=circuit-prover", "-l0", "-H1"];
    let mut killed = drill.start("heavy-0", &heavy);
    let mut deaths = 0;
    let all = i64::from(chains * batches);
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < LONG, "the drill does not end");
        tokio::time::sleep(Duration::from_millis(100)).await;
        if killed.ended().is_some() {
            deaths += 1;
            killed = drill.start(&format!("heavy-{deaths}"), &heavy);
        }
        let given_up =
            drill.count("SELECT count(*) FROM prover_jobs WHERE error LIKE 'quarantined%'").await == all;
        let left = "SELECT count(*) FROM prover_jobs WHERE status IN ('queued', 'in_progress')
                    AND aggregation_round < 2 AND circuit_id < 3";
        if given_up && drill.count(left).await == 0 {
            break;
        }
    }
    let is_idle = "SELECT count(*) FROM prover_jobs WHERE status IN ('queued', 'in_progress')";
    let begun = Instant::now();
    while drill.count(is_idle).await > 0 {
        assert!(begun.elapsed() < LONG, "nothing more comes");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    // Each against the tables.
    let queue = drill.ask(&["status", "queue"]);
    for (field, states) in [
        ("waiting", "SELECT count(*) FROM prover_jobs WHERE status = 'waiting_for_proofs'"),
        ("failed", "SELECT count(*) FROM prover_jobs WHERE status = 'failed'"),
        ("queued", "SELECT count(*) FROM prover_jobs WHERE status = 'queued'"),
    ] {
        assert_eq!(sum(&queue, field), drill.count(states).await, "{field}");
    }
    assert_eq!(sum(&queue, "failed"), 2 * all, "the one that panics and the one that kills, of each batch");
    let (last_chain, last) = ((chains - 1).to_string(), batches.to_string());
    let batch = ["--chain-id", last_chain.as_str(), "--number", last.as_str()];
    let with = |command: &[&'static str]| [command, &batch[..]].concat();
    let status = drill.ask(&with(&["status", "batch", "-v"]));
    let jobs: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM prover_jobs WHERE chain_id = $1 AND batch_number = $2 AND status = 'successful'",
    )
    .bind(i64::from(chains - 1))
    .bind(i64::from(batches))
    .fetch_one(&mut drill.sql)
    .await
    .unwrap();
    let successful: i64 = status["circuits"]
        .as_array()
        .unwrap()
        .iter()
        .map(|circuit| circuit["jobs"]["successful"].as_i64().unwrap())
        .sum();
    assert_eq!((status["status"].as_str(), successful), (Some("failed"), jobs));
    // Others of the batch may have run beside it, and died with their worker too.
    assert!(status["worker_deaths"].as_i64() >= Some(5), "{status:#}");
    let of_batch = status["stuck_jobs"].as_array().unwrap();
    let killer = of_batch.iter().filter_map(|job| job["worker_deaths"].as_i64()).max();
    assert_eq!(killer, Some(5), "the budget of the one that kills");
    assert_eq!(of_batch.iter().filter(|job| job["status"] == "failed").count(), 2, "{of_batch:?}");
    let stats = drill.ask(&["stats"]);
    let done = drill
        .count(
            "SELECT count(*) FROM all_prover_jobs WHERE status = 'successful' AND finished_at > now() - interval '24 hours'",
        )
        .await;
    assert_eq!(sum(&stats["circuits"], "jobs"), done);
    let workers = drill.ask(&["status", "workers"]);
    let registered = drill.count("SELECT count(*) FROM workers WHERE stopped_at IS NULL").await;
    assert_eq!(workers.as_array().unwrap().len() as i64, registered);
    assert_eq!(drill.ask(&["status", "versions"]).as_array().unwrap().len(), 1);

    let failed = drill
        .one("SELECT id FROM prover_jobs WHERE status = 'failed' AND worker_deaths = 0 ORDER BY id DESC LIMIT 1")
        .await;
    assert_eq!(drill.ask(&["why", &failed])["reason"], "failed");
    let attempts = drill.ask(&["attempts", &failed]);
    assert_eq!(attempts.as_array().unwrap().len(), 3, "{attempts}");
    let killer = drill.one("SELECT id FROM prover_jobs WHERE worker_deaths = 5 ORDER BY id LIMIT 1").await;
    assert_eq!(drill.ask(&["why", &killer])["worker_deaths"], 5);
    let waiting = drill
        .one("SELECT id FROM prover_jobs WHERE status = 'waiting_for_proofs' ORDER BY id DESC LIMIT 1")
        .await;
    assert_eq!(drill.ask(&["why", &waiting])["reason"], "waits_for_proofs");
    assert_eq!(drill.ask(&with(&["why"]))["status"], "failed");

    // What changes things says what it would change, and changes nothing.
    let rows = "SELECT bit_xor(hashtextextended(j::text, 0)) FROM jobs j";
    let before = drill.one(rows).await;
    assert_eq!(drill.ask(&with(&["requeue", "--dry-run"]))["jobs"], 2);
    let cancelled = drill.ask(&with(&["cancel", "--dry-run"]));
    let open = with_counts(&status, |state| state != "successful");
    assert_eq!(cancelled["jobs_dropped"], open);
    let restarted = drill.ask(&with(&["restart", "--from=basic-circuits", "--dry-run"]));
    let over = with_counts(&status, |state| state == "successful" || state == "failed");
    assert_eq!(restarted["jobs_again"], over);
    drill.ask(&["pause", "--chain-id", &last_chain, "--dry-run"]);
    drill.ask(&["release", &failed, "--dry-run"]);
    drill.ask(&["quarantine", &waiting, "--dry-run"]);
    assert_eq!(drill.one(rows).await, before, "a dry run changes nothing");

    // And does what it says.
    assert_eq!(drill.ask(&with(&["requeue"]))["jobs"], 2);
    assert_eq!(drill.ask(&with(&["cancel", "--yes"]))["dry_run"], false);
    assert_eq!(drill.ask(&with(&["delete", "--yes"]))["jobs"], open + jobs);
}

/// Jobs of a batch's status in these states.
fn with_counts(status: &Value, is_counted: impl Fn(&str) -> bool) -> i64 {
    let counts = status["jobs"].as_array().unwrap().iter();
    let counted = counts.filter(|count| is_counted(count["status"].as_str().unwrap()));
    counted.map(|count| count["count"].as_i64().unwrap()).sum()
}
