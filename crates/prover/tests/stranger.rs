//! A proof system that no crate of ours knows (`crates/proof-system/examples/sum.rs`), in programs of its own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, time::Duration};
use test_support::{
    empty_database,
    programs::{Scene, example, output, stderr},
};

const LONG: Duration = Duration::from_secs(120);

async fn scene() -> Scene {
    Scene::of_programs(&empty_database().await, &[], [example("sum_prover"), example("sum_cli")])
}

/// Numbers, one a line, and the statement of their sum.
fn numbers(scene: &Scene) -> (String, u64) {
    let numbers = 1..=200_u64;
    let text: String = numbers.clone().map(|number| format!("{number}\n")).collect();
    (scene.write("numbers.txt", &text).to_string_lossy().into_owned(), numbers.sum())
}

fn sum_in(statement: &std::path::Path) -> u64 {
    let statement: serde_json::Value = serde_json::from_slice(&fs::read(statement).unwrap()).unwrap();
    statement["sum"].as_u64().unwrap()
}

#[tokio::test]
async fn a_foreign_proof_system_proves_by_separate_processes_of_which_one_is_killed() {
    let scene = scene().await;
    let (input, sum) = numbers(&scene);
    scene.run_cli(&["insert-batch", "--number", "1", "--input", &input]);
    let mut victim = scene.start("victim", &["--component=all"]);
    victim.kill();
    let _others = ["witness-generator", "circuit-prover", "compressor", "prover-job-monitor"]
        .map(|component| scene.start(component, &[&format!("--component={component}")]));
    let status = scene.until_ended(0, 1, LONG);
    assert_eq!(status["status"], "successful", "{status:#}");
    let out = scene.path("out");
    scene.run_cli(&["proof", "fetch", "-n", "1", "--out", out.to_str().unwrap()]);
    assert_eq!(sum_in(&out.join("statement.json")), sum);
    let mut verify = scene.program("prover");
    verify.arg("verify").arg(out.join("proof.bin")).arg("--statement").arg(out.join("statement.json"));
    let verified = output(&mut verify);
    assert!(verified.status.success(), "{}", stderr(&verified));
}

#[tokio::test]
async fn a_foreign_proof_system_proves_with_one_command() {
    let scene = scene().await;
    let (input, sum) = numbers(&scene);
    // PostgreSQL's own user must be able to pass through.
    let data = tempfile::Builder::new().prefix("stranger").tempdir_in("/tmp").unwrap();
    fs::set_permissions(data.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let out = scene.path("out");
    let mut prove = scene.program("prover");
    prove.arg("prove").arg(&input).arg("--data").arg(data.path().join("work")).arg("--out").arg(&out);
    let proven = output(&mut prove);
    assert!(proven.status.success(), "{}", stderr(&proven));
    assert_eq!(sum_in(&out.join("statement.json")), sum);
}

#[tokio::test]
async fn a_program_takes_its_own_proof_systems_and_no_others() {
    let scene = scene().await;
    let (input, _) = numbers(&scene);
    let refused = output(scene.program("prover").args(["prove", &input, "--proof-system=ledger"]));
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr(&refused).contains("possible values: sum"), "{}", stderr(&refused));
}
