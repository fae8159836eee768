//! The pipeline over an S3 URL: against a server that speaks as much of S3 as the pipeline does.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};
use test_support::programs::{Scene, output, stderr};

const LONG: Duration = Duration::from_secs(120);

#[derive(Clone, Default)]
struct Bucket {
    objects: Arc<Mutex<BTreeMap<String, Bytes>>>,
    unsigned: Arc<Mutex<u32>>,
}

async fn answer(
    State(bucket): State<Bucket>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let is_signed =
        headers.get("authorization").is_some_and(|a| a.as_bytes().starts_with(b"AWS4-HMAC-SHA256"));
    if !is_signed {
        *bucket.unsigned.lock().unwrap() += 1;
    }
    let mut objects = bucket.objects.lock().unwrap();
    let path = uri.path().to_owned();
    match method {
        Method::PUT => {
            objects.insert(path, body);
            [("etag", "\"1\"")].into_response()
        }
        Method::GET | Method::HEAD => match objects.get(&path) {
            Some(content) => {
                let date = "Sat, 21 Nov 2026 00:00:00 GMT";
                ([("etag", "\"1\""), ("last-modified", date)], content.clone()).into_response()
            }
            None => StatusCode::NOT_FOUND.into_response(),
        },
        // Removal of many: one request names them in its body.
        Method::POST => {
            let text = String::from_utf8(body.to_vec()).unwrap();
            let keys = text.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next());
            let removed = keys.map(|key| {
                objects.retain(|path, _| !path.ends_with(key));
                format!("<Deleted><Key>{key}</Key></Deleted>")
            });
            format!("<DeleteResult>{}</DeleteResult>", removed.collect::<String>()).into_response()
        }
        _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_proven_over_s3_alone() {
    let bucket = Bucket::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(answer).with_state(bucket.clone());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let settings = [
        ("ROUNDHOUSE_PROOF_SYSTEM", "mock"),
        ("ROUNDHOUSE_OBJECT_STORE", "s3://proofs/main"),
        ("AWS_ENDPOINT", endpoint.as_str()),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_REGION", "here"),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "the secret"),
    ];
    let scene = Scene::new(&settings).await;
    scene.write("in.mock", "mock one");
    scene.run_cli(&["insert-batch", "--number=1", "--input=in.mock"]);
    let mut process = scene.start("all", &["--component=all"]);
    assert_eq!(scene.until_ended(0, 1, LONG)["status"], "successful", "{}", process.log());
    scene.run_cli(&["proof", "fetch", "--number=1"]);
    assert_eq!(process.terminate(), 0);
    let keys: Vec<String> = bucket.objects.lock().unwrap().keys().cloned().collect();
    assert!(keys.iter().all(|key| key.starts_with("/proofs/main/")), "{keys:?}");
    assert!(keys.iter().any(|key| key.starts_with("/proofs/main/final_proof/")), "{keys:?}");
    assert!(!keys.iter().any(|key| key.contains("/check/")), "the check leaves nothing: {keys:?}");
    assert!(!scene.path("artifacts").exists(), "nothing is written elsewhere");
    assert_eq!(*bucket.unsigned.lock().unwrap(), 0);

    // A store that is not there: said at the start, without the secret.
    let mut command = scene.program("prover");
    command
        .args(["run", "--component=all"])
        .env("AWS_ENDPOINT", "http://127.0.0.1:1")
        .env("AWS_MAX_RETRIES", "0");
    let refused = output(&mut command);
    assert_eq!(refused.status.code(), Some(1));
    let words = stderr(&refused);
    assert!(words.contains("the object store is of no use") && words.contains("s3://proofs/main"), "{words}");
    assert!(!words.contains("the secret"), "{words}");
}
