//! The ledger, proven by processes of their own: three batches on two chains, and one prover killed in the middle.
//!
//! This is the slow one: real proofs of 24 circuits, on whatever cores there are.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};
use test_support::programs::{Running, Scene, jobs, output, stderr, stdout, until};

/// Real proofs take their time on a busy machine; the test needs about four minutes on two idle cores.
const LIMIT: Duration = Duration::from_secs(30 * 60);

fn insert(scene: &Scene, chain_id: u32, number: u32, input: &Path) {
    let (chain_id, number) = (chain_id.to_string(), number.to_string());
    let input = input.to_str().unwrap();
    scene.run_cli(&["insert-batch", "--chain-id", &chain_id, "--number", &number, "--input", input]);
}

fn verify(scene: &Scene, proof: &Path, statement: &Path) -> i32 {
    // In a folder of its own, with nothing of the pipeline: no keys, no database, no artifacts.
    let mut command = scene.program("prover");
    command.env_clear().arg("verify").arg(proof.join("proof.bin"));
    output(command.arg("--statement").arg(statement.join("statement.json"))).status.code().unwrap()
}

#[tokio::test]
async fn three_batches_are_proven_by_five_processes_of_which_one_is_killed() {
    // Where the key set of this build is generated once, for all tests.
    let keys = Path::new(env!("CARGO_TARGET_TMPDIR")).join("keys");
    let scene = Scene::new(&[("ROUNDHOUSE_KEYS", keys.to_str().unwrap())]).await;
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/ledger/transfers.csv");
    scene.write("accounts.csv", "account,balance\nada,100\nbob,1\n");
    let other = scene.write("other.csv", "from,to,amount\nada,bob,7\nbob,Zoë,8\nZoë,ada,1\n");
    let batches: [(u32, u32, &Path); 3] = [(1, 1, &example), (1, 2, &other), (2, 1, &other)];
    for (chain_id, number, input) in batches {
        insert(&scene, chain_id, number, input);
    }

    let start = |name: &str, component: &str| -> Running {
        let component = format!("--component={component}");
        scene.start(name, &[component.as_str(), "--heartbeat-interval-ms=500", "--lease-duration-ms=5000"])
    };
    let generator = start("generator", "witness-generator");
    let survivor = start("survivor", "circuit-prover");
    let mut victim = start("victim", "circuit-prover");
    let compressor = start("compressor", "compressor");
    let monitor = start("monitor", "prover-job-monitor");
    let victim_id = u64::from(victim.pid());
    let holds_a_job = |status: &serde_json::Value| {
        let running = status["troubled_attempts"].as_array().cloned().unwrap_or_default();
        running.iter().any(|attempt| attempt["pid"] == victim_id && attempt["outcome"].is_null())
    };
    until("the victim works on the first batch, of which something is proven", LIMIT, || {
        std::thread::sleep(Duration::from_millis(200));
        let status = scene.status(1, 1);
        (holds_a_job(&status) && jobs(&status, 0, "circuit_proof", Some("successful")) > 0).then_some(())
    });
    victim.kill();

    let folders: Vec<PathBuf> = batches
        .iter()
        .map(|(chain_id, number, _)| {
            let status = scene.until_ended(*chain_id, *number, LIMIT);
            assert_eq!(status["status"], "successful", "{status:#}");
            for (round, circuits) in [(0, 3), (1, 3), (3, 1), (4, 1)] {
                let proven = jobs(&status, round, "circuit_proof", Some("successful"));
                assert_eq!(proven, circuits, "round {round}: {status:#}");
            }
            let out = scene.path(&format!("out-{chain_id}-{number}"));
            let (chain_id, number) = (chain_id.to_string(), number.to_string());
            scene.run_cli(&[
                "proof",
                "fetch",
                "-c",
                &chain_id,
                "-n",
                &number,
                "--out",
                out.to_str().unwrap(),
            ]);
            out
        })
        .collect();
    let first = scene.status(1, 1);
    assert!(first["worker_deaths"].as_i64().unwrap() >= 1, "{first:#}");
    let story = scene.run_cli(&["status", "batch", "-c", "1", "-n", "1", "-v"]);
    assert!(story.contains("worker_died") && story.contains(&format!("process {victim_id}")), "{story}");
    for (i, proof) in folders.iter().enumerate() {
        for (j, statement) in folders.iter().enumerate() {
            assert_eq!(verify(&scene, proof, statement), i32::from(i != j), "proof {i}, statement {j}");
        }
    }
    let balances = fs::read_to_string(folders[1].join("accounts-after.csv")).unwrap();
    assert_eq!(balances, "account,balance\nZoë,7\nada,94\nbob,0\n");
    for mut process in [generator, survivor, compressor, monitor] {
        assert_eq!(process.terminate(), 0, "{}", process.log());
    }
    let keys_of = |folder: &Path, command: &str| {
        let mut program = scene.program("prover");
        output(program.env("ROUNDHOUSE_KEYS", folder).args(["keys", command]))
    };
    let published = keys_of(&keys, "publish");
    assert!(published.status.success(), "{}", stderr(&published));
    // A machine that joins has none, and generates none.
    let joined = scene.path("joined");
    let missing = keys_of(&joined, "verify");
    assert_eq!(missing.status.code(), Some(1));
    assert!(stderr(&missing).contains("22 keys") && stderr(&missing).contains("key node is missing"));
    let settings = [("ROUNDHOUSE_KEYS", joined.display().to_string())];
    let mut joining = scene.start_with("joining", &["--component=circuit-prover"], &settings);
    until("the machine has its keys", LIMIT, || joining.log().contains(" running ").then_some(()));
    assert_eq!(joining.terminate(), 0, "{}", joining.log());
    assert!(!joining.log().contains("generating key"), "{}", joining.log());
    assert!(keys_of(&joined, "verify").status.success());
    let listed = stdout(&keys_of(&joined, "list"));
    assert!(listed.lines().count() == 24 && !listed.contains("missing"), "{listed}");
}
