//! The pipeline over an S3 URL: against a server that speaks as much of S3 as the pipeline does.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;
use test_support::bucket::Bucket;
use test_support::programs::{Scene, output, stderr};

const LONG: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_proven_over_s3_alone() {
    let bucket = Bucket::default();
    let endpoint = bucket.endpoint().settings();
    let mut settings: Vec<(&str, &str)> =
        endpoint.iter().map(|(key, value)| (*key, value.as_str())).collect();
    settings.push(("ROUNDHOUSE_PROOF_SYSTEM", "mock"));
    let scene = Scene::new(&settings).await;
    scene.write("in.mock", "mock one");
    scene.run_cli(&["insert-batch", "--number=1", "--input=in.mock"]);
    let mut process = scene.start("all", &["--component=all"]);
    assert_eq!(scene.until_ended(0, 1, LONG)["status"], "successful", "{}", process.log());
    scene.run_cli(&["proof", "fetch", "--proof-system=mock", "--number=1"]);
    assert_eq!(process.terminate(), 0);
    let keys = bucket.paths();
    assert!(keys.iter().all(|key| key.starts_with("/proofs/main/")), "{keys:?}");
    assert!(keys.iter().any(|key| key.starts_with("/proofs/main/final_proof/")), "{keys:?}");
    assert!(!keys.iter().any(|key| key.contains("/check/")), "the check leaves nothing: {keys:?}");
    assert!(!scene.path("artifacts").exists(), "nothing is written elsewhere");
    assert_eq!(bucket.unsigned(), 0);

    // A store that is not there: said at the start, without the secret.
    let mut command = scene.program("prover");
    command
        .args(["run", "--component=all"])
        .env("AWS_ENDPOINT", "http://127.0.0.1:1")
        .env("AWS_MAX_RETRIES", "0");
    let refused = output(&mut command);
    assert_eq!(refused.status.code(), Some(1));
    let words = stderr(&refused);
    assert!(words.contains("check --object-store") && words.contains("s3://proofs/main"), "{words}");
    assert!(!words.contains("the secret"), "{words}");
}
