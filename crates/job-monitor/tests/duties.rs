//! The duties that touch more than the queue, and who leads them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use artifact_store::{ArtifactStore, job_artifact_key, witness_input_key};
use job_monitor::{MonitorConfig, collect, queue_report};
use job_store::JobStore;
use job_store::batches::insert::NewBatch;
use job_store::duties::leadership::Leader;
use job_store::operator::mode::Mode;
use job_store::operator::pause::Pausable;
use proving_model::{AggregationRound, ArtifactKind, ArtifactRef, BatchId, CircuitId, JobKey, Stage};
use std::time::Duration;
use test_support::{VERSION, store};
use uuid::Uuid;

const BATCH: BatchId = BatchId { chain_id: 3, number: 1 };
/// Everything at once.
const CONFIG: MonitorConfig = MonitorConfig { collect_after: Some(Duration::ZERO), ..MonitorConfig::DEFAULT };

/// A batch in both stores, with an artifact of each kind.
async fn batch(store: &JobStore, artifacts: &ArtifactStore, id: BatchId) -> [ArtifactRef; 4] {
    let job = JobKey {
        round: AggregationRound::BasicCircuits,
        stage: Stage::CircuitProof,
        circuit_id: CircuitId(1),
        depth: 0,
        sequence: 0,
    };
    let put = async |kind: ArtifactKind| {
        let key = match kind {
            ArtifactKind::WitnessInput => witness_input_key(id, b"input"),
            kind => job_artifact_key(kind, id, &job, Uuid::new_v4()),
        };
        artifacts.put(kind, key, b"input").await.unwrap()
    };
    let input = put(ArtifactKind::WitnessInput).await;
    store.insert_batch(&NewBatch::new(id, VERSION, input.clone())).await.unwrap();
    [
        input,
        put(ArtifactKind::Circuit).await,
        put(ArtifactKind::Proof).await,
        put(ArtifactKind::FinalProof).await,
    ]
}

/// Which of the four are there.
async fn left(artifacts: &ArtifactStore, all: &[ArtifactRef; 4]) -> [bool; 4] {
    let mut left = [false; 4];
    for (at, (kind, artifact)) in ArtifactKind::ALL.iter().zip(all).enumerate() {
        left[at] = artifacts.get(*kind, artifact).await.is_ok();
    }
    left
}

#[tokio::test]
async fn what_was_made_for_a_batch_goes_when_it_is_over_and_the_rest_when_it_is_deleted() {
    let store = store().await;
    let folder = tempfile::tempdir().unwrap();
    let artifacts = ArtifactStore::open(folder.path().to_str().unwrap()).unwrap();
    let mine = batch(&store, &artifacts, BATCH).await;
    // Its number begins as the other's does.
    let other = BatchId { number: 11, ..BATCH };
    let others = batch(&store, &artifacts, other).await;
    collect::run_once(&store, &artifacts, &CONFIG).await.unwrap();
    assert_eq!(left(&artifacts, &mine).await, [true; 4], "it is not over");

    store.cancel_batch(BATCH, Mode::Apply).await.unwrap();
    let never = MonitorConfig { collect_after: None, ..CONFIG };
    collect::run_once(&store, &artifacts, &never).await.unwrap();
    let later = MonitorConfig { collect_after: Some(Duration::from_secs(3_600)), ..CONFIG };
    collect::run_once(&store, &artifacts, &later).await.unwrap();
    assert_eq!(left(&artifacts, &mine).await, [true; 4], "it is not due");
    collect::run_once(&store, &artifacts, &CONFIG).await.unwrap();
    assert_eq!(
        left(&artifacts, &mine).await,
        [true, false, false, true],
        "its input and its final proof stay"
    );
    assert!(store.next_collectable(Duration::ZERO).await.unwrap().is_none(), "once");

    tokio::time::sleep(Duration::from_millis(50)).await;
    store.delete_batch(BATCH, Mode::Apply).await.unwrap();
    collect::run_once(&store, &artifacts, &CONFIG).await.unwrap();
    assert_eq!(left(&artifacts, &mine).await, [false; 4]);
    assert!(store.next_collectable(Duration::ZERO).await.unwrap().is_none(), "once");
    assert_eq!(left(&artifacts, &others).await, [true; 4], "another batch's are not touched");

    // The next of that number is not taken for the one that was deleted.
    store.cancel_batch(other, Mode::Apply).await.unwrap();
    store.delete_batch(other, Mode::Apply).await.unwrap();
    let again = batch(&store, &artifacts, other).await;
    collect::run_once(&store, &artifacts, &CONFIG).await.unwrap();
    assert_eq!(left(&artifacts, &again).await, [true; 4]);
}

#[tokio::test]
async fn one_leads_until_it_ends_or_is_not_heard_of() {
    let store = store().await;
    let leader = |host: &str| Leader { id: Uuid::new_v4(), host: host.to_owned(), pid: 1 };
    let (first, second) = (leader("first"), leader("second"));
    let lease = Duration::from_millis(500);
    let lead = async |leader: &Leader, duties: &[&str]| {
        let mut led = store.lead(leader, duties, lease).await.unwrap();
        led.sort();
        led
    };
    assert_eq!(lead(&first, &["a", "b"]).await, ["a", "b"]);
    assert_eq!(lead(&second, &["a", "b", "c"]).await, ["c"], "what nobody leads");
    assert_eq!(lead(&first, &["a", "b"]).await, ["a", "b"], "it goes on");
    tokio::time::sleep(lease * 2).await;
    assert_eq!(lead(&second, &["a"]).await, ["a"], "the first is not heard of");
    assert_eq!(lead(&first, &["a", "b"]).await, ["b"], "and comes back too late");
    store.resign(&second).await.unwrap();
    assert_eq!(lead(&first, &["a", "b"]).await, ["a", "b"], "the second ended");
}

#[tokio::test]
async fn the_queue_report_counts_by_kind_and_knows_versions_that_have_nothing_to_do() {
    let store = store().await;
    let idle = proving_model::ProtocolVersion { patch: 9, ..VERSION };
    store.insert_protocol_version(idle, "mock", "others").await.unwrap();
    for number in 1..=3 {
        let input = test_support::artifact("input");
        let id = BatchId { chain_id: number % 2, number };
        store.insert_batch(&NewBatch::new(id, VERSION, input)).await.unwrap();
    }
    store.set_paused(Pausable::Chain(0), true, Mode::Apply).await.unwrap();
    let report = queue_report::queue_report(&store).await.unwrap();
    let [busy, idle] = report.as_slice() else { panic!("two versions: {report:?}") };
    assert_eq!((busy.version.as_str(), idle.version.as_str()), ("0.0.1", "0.0.9"));
    assert_eq!((busy.report.basic_witness_jobs.queued, busy.report.basic_witness_jobs.paused), (2, 1));
    assert_eq!(busy.report.prover_jobs.queued, 0);
    assert_eq!(busy.demand.len(), 2, "of each chain");
    assert_eq!(idle.report, queue_report::Report::default());
    // The fields that autoscalers read.
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json[0]["report"]["basic_witness_jobs"]["queued"], 2);
    for kind in ["leaf", "node", "recursion_tip", "scheduler"] {
        assert_eq!(json[0]["report"][format!("{kind}_witness_jobs")]["in_progress"], 0, "{kind}");
    }
    assert_eq!(json[0]["report"]["proof_compressor_jobs"]["queued"], 0);
}
