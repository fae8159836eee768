//! What every backend must do, on memory and on a real folder.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use artifact_store::{ArtifactError, ArtifactStore, HEADER_LEN, job_artifact_key, witness_input_key};
use proving_model::{AggregationRound, ArtifactKind, ArtifactRef, BatchId, CircuitId, JobKey, Stage};
use uuid::Uuid;

async fn conformance(store: &ArtifactStore) {
    for size in [0, 1, 1000, 3 << 20] {
        let payload: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        let artifact = store.put(ArtifactKind::Proof, format!("proof/{size}"), &payload).await.unwrap();
        assert_eq!(store.get(ArtifactKind::Proof, &artifact).await.unwrap(), payload);
        let other = store.get(ArtifactKind::Circuit, &artifact).await.unwrap_err();
        assert!(matches!(other, ArtifactError::Corrupt { .. }), "{other}");
    }
    let first = store.put(ArtifactKind::Proof, "proof/x".into(), b"one").await.unwrap();
    let second = store.put(ArtifactKind::Proof, "proof/x".into(), b"two").await.unwrap();
    assert_eq!(store.get(ArtifactKind::Proof, &second).await.unwrap(), b"two");
    let stale = store.get(ArtifactKind::Proof, &first).await.unwrap_err().to_string();
    assert!(stale.contains("proof/x") && stale.contains("not the one"), "{stale}");
    let nowhere = ArtifactRef { key: "proof/nowhere".into(), ..first };
    let missing = store.get(ArtifactKind::Proof, &nowhere).await.unwrap_err();
    assert!(matches!(missing, ArtifactError::Missing { .. }), "{missing}");
}

#[tokio::test]
async fn memory_conforms() {
    conformance(&ArtifactStore::open("memory:").unwrap()).await;
}

#[tokio::test]
async fn a_folder_conforms_by_path_and_by_url_and_every_flipped_byte_is_corrupt() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new folder");
    conformance(&ArtifactStore::open(path.to_str().unwrap()).unwrap()).await;
    let url = url::Url::from_directory_path(&path).unwrap();
    let store = ArtifactStore::open(url.as_str()).unwrap();
    conformance(&store).await;

    let artifact = store.put(ArtifactKind::Circuit, "circuit/1".into(), b"a circuit").await.unwrap();
    let file = path.join("circuit/1");
    let whole = std::fs::read(&file).unwrap();
    assert_eq!(whole.len(), HEADER_LEN + 9);
    for position in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[position] ^= 0x10;
        std::fs::write(&file, &damaged).unwrap();
        let error = store.get(ArtifactKind::Circuit, &artifact).await.unwrap_err();
        assert!(matches!(error, ArtifactError::Corrupt { .. }), "byte {position}: {error}");
    }
    for length in 0..whole.len() {
        std::fs::write(&file, &whole[..length]).unwrap();
        let error = store.get(ArtifactKind::Circuit, &artifact).await.unwrap_err();
        assert!(matches!(error, ArtifactError::Corrupt { .. }), "cut to {length}: {error}");
    }
}

#[tokio::test]
async fn a_folder_with_other_things_in_it_is_no_store_and_a_store_is_private() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    std::fs::create_dir_all(home.join("circuit")).unwrap();
    std::fs::write(home.join("circuit/1"), "precious").unwrap();
    for url in [home.to_str().unwrap(), url::Url::from_directory_path(&home).unwrap().as_str()] {
        let error = ArtifactStore::open(url).unwrap_err().to_string();
        assert!(error.contains("home") && error.contains("other things are in it"), "{error}");
    }
    assert_eq!(std::fs::read_dir(&home).unwrap().count(), 1);
    let path = dir.path().join("store");
    ArtifactStore::open(path.to_str().unwrap()).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
    // A store that is there is one, whatever is in it.
    std::fs::rename(home.join("circuit"), path.join("circuit")).unwrap();
    ArtifactStore::open(path.to_str().unwrap()).unwrap();
}

#[test]
fn a_bad_url_is_refused_without_its_secrets() {
    for url in ["nonsense://x?secret=swordfish", "file://host/only?secret=swordfish", "s3:?secret=swordfish"]
    {
        let error = ArtifactStore::open(url).unwrap_err().to_string();
        assert!(!error.contains("swordfish"), "{error}");
    }
}

#[test]
fn keys_name_what_they_hold() {
    let batch = BatchId { chain_id: 2, number: 9 };
    let job = JobKey {
        round: AggregationRound::NodeAggregation,
        stage: Stage::CircuitProof,
        circuit_id: CircuitId(3),
        depth: 1,
        sequence: 7,
    };
    let token = Uuid::nil();
    let key = job_artifact_key(ArtifactKind::Proof, batch, &job, token);
    assert_eq!(key, format!("proof/2/9/2/3/1/7-{token}"));
    assert_ne!(witness_input_key(batch, b"a"), witness_input_key(batch, b"b"));
}
