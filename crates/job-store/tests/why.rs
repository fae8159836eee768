//! Why a job does not run: one test a cause, each against what a pick does. (The simulation compares the two on random states.)

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use job_store::batches::add_jobs::{Extension, NewJob};
use job_store::batches::chains::ChainSettings;
use job_store::batches::insert::NewBatch;
use job_store::leases::fail::{AttemptFailure, FailureKind};
use job_store::leases::pick::PickFilter;
use job_store::leases::workers::NewWorker;
use job_store::model::rows::LeasedJob;
use job_store::operator::mode::Mode;
use job_store::operator::pause::Pausable;
use job_store::reports::why::Why;
use job_store::{JobStore, StoreError};
use proving_model::{
    AggregationRound, BatchId, BatchStatus, CircuitId, HeadOfChain, JobKey, MemoryClass, ProtocolVersion,
    Stage,
};
use std::time::Duration;
use test_support::{VERSION, artifact, new_worker, store};
use uuid::Uuid;

const LEASE: Duration = Duration::from_secs(600);
const BATCH: BatchId = BatchId { chain_id: 2, number: 1 };

fn filter(stage: Stage) -> PickFilter {
    PickFilter {
        stage,
        rounds: AggregationRound::ALL.to_vec(),
        memory_classes: vec![MemoryClass::Heavy, MemoryClass::Light],
        version: VERSION,
    }
}

async fn worker(store: &JobStore, budget: Option<u64>, filters: &[PickFilter]) -> Uuid {
    let me = NewWorker { capacity: 3, memory_budget_bytes: budget, ..new_worker() };
    let id = store.register_worker(&me, LEASE).await.unwrap();
    for filter in filters {
        store.announce_filter(id, filter).await.unwrap();
    }
    id
}

fn key(round: AggregationRound, stage: Stage, sequence: i32) -> JobKey {
    JobKey { round, stage, circuit_id: CircuitId(1), depth: 0, sequence }
}

/// Two circuits and a leaf over them.
fn extension() -> Extension {
    let leaf = key(AggregationRound::LeafAggregation, Stage::WitnessGeneration, 0);
    let mut extension = Extension::default();
    for sequence in 0..2 {
        let basic = key(AggregationRound::BasicCircuits, Stage::CircuitProof, sequence);
        extension.jobs.push(NewJob {
            key: basic,
            memory_class: MemoryClass::Light,
            expected_cost_ms: i64::from(sequence),
            peak_memory_bytes: 1 << 30,
            input: Some(artifact(&format!("circuit {sequence}"))),
        });
        extension.links.push((basic, leaf));
    }
    extension.jobs.push(NewJob {
        key: leaf,
        memory_class: MemoryClass::Light,
        expected_cost_ms: 0,
        peak_memory_bytes: 0,
        input: None,
    });
    extension
}

async fn insert(store: &JobStore, id: BatchId) {
    store.insert_batch(&NewBatch::new(id, VERSION, artifact("input"))).await.unwrap();
}

/// The jobs of one batch, whose generator has cut it: the generator, and the ids of two circuits and the leaf.
async fn cut(store: &JobStore, by: Uuid) -> (LeasedJob, [i64; 3]) {
    insert(store, BATCH).await;
    let generator = store.pick(&filter(Stage::WitnessGeneration), 1, by).await.unwrap().remove(0);
    store.extend_batch(&generator, &extension()).await.unwrap();
    // The longer circuit is picked first. The lanes of a batch stand one after the other in its ids.
    let lane = |lane: i64, sequence: i64| generator.id + (lane << 33) + (1 << 25) + sequence;
    (generator.clone(), [lane(5, 1), lane(5, 0), lane(1, 0)])
}

async fn why(store: &JobStore, id: i64) -> Why {
    let explanation = store.why(id).await.unwrap();
    assert_eq!((explanation.job_id, explanation.batch), (id, BATCH));
    explanation.why
}

async fn pick(store: &JobStore, by: Uuid) -> LeasedJob {
    store.pick(&filter(Stage::CircuitProof), 1, by).await.unwrap().remove(0)
}

#[tokio::test]
async fn nobody_takes_it_for_want_of_a_worker_a_version_a_kind_or_room() {
    let store = store().await;
    let (_, [circuit, ..]) = cut(&store, worker(&store, None, &[]).await).await;
    let nobody = async || match why(&store, circuit).await {
        Why::NobodyTakesIt { takers, .. } => {
            (takers.live, takers.of_version, takers.of_kind, takers.with_room)
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(nobody().await, (1, 0, 0, 0), "one lives, and takes nothing");
    let monitor = NewWorker { capacity: 0, component: "prover-job-monitor".to_owned(), ..new_worker() };
    store.register_worker(&monitor, LEASE).await.unwrap();
    assert_eq!(nobody().await, (1, 0, 0, 0), "a job monitor takes no jobs");
    let other = ProtocolVersion { patch: 2, ..VERSION };
    worker(&store, None, &[PickFilter { version: other, ..filter(Stage::CircuitProof) }]).await;
    assert_eq!(nobody().await, (2, 0, 0, 0), "of another version");
    worker(&store, None, &[filter(Stage::Compression)]).await;
    worker(
        &store,
        None,
        &[PickFilter { memory_classes: vec![MemoryClass::Heavy], ..filter(Stage::CircuitProof) }],
    )
    .await;
    let leaves =
        PickFilter { rounds: vec![AggregationRound::LeafAggregation], ..filter(Stage::CircuitProof) };
    worker(&store, None, &[leaves]).await;
    assert_eq!(nobody().await, (5, 3, 0, 0), "of another stage, class, round");
    worker(&store, Some((1 << 30) - 1), &[filter(Stage::CircuitProof)]).await;
    assert_eq!(nobody().await, (6, 4, 1, 0), "one byte is missing");
    let gone = worker(&store, None, &[filter(Stage::CircuitProof)]).await;
    store.stop_worker(gone).await.unwrap();
    assert_eq!(nobody().await, (6, 4, 1, 0), "the one that could has stopped");
    worker(&store, Some(1 << 30), &[filter(Stage::CircuitProof)]).await;
    assert!(matches!(why(&store, circuit).await, Why::Queued { place: Some(1), .. }));
}

#[tokio::test]
async fn places_in_the_queue_are_the_order_of_picks() {
    let store = store().await;
    let by = worker(&store, None, &[filter(Stage::CircuitProof)]).await;
    let (_, [first, second, _]) = cut(&store, by).await;
    for (id, expected) in [(first, 1), (second, 2)] {
        let Why::Queued { place, takers, is_suspect } = why(&store, id).await else { panic!("it is queued") };
        // It holds the generator.
        assert_eq!((place, takers.jobs_held, takers.capacity, is_suspect), (Some(expected), 1, 3, false));
    }
    assert_eq!(pick(&store, by).await.id, first);
    let Why::Running { component, is_expired, .. } = why(&store, first).await else { panic!("it runs") };
    assert_eq!((component.as_str(), is_expired), ("test", false));
    assert!(matches!(why(&store, second).await, Why::Queued { place: Some(1), .. }));
    store.stop_worker(by).await.unwrap();
    assert!(matches!(why(&store, first).await, Why::Running { is_expired: true, .. }));
}

#[tokio::test]
async fn a_failure_rests_and_then_fails_for_good_with_its_text() {
    let store = store().await;
    let by = worker(&store, None, &[filter(Stage::CircuitProof)]).await;
    let (_, [circuit, ..]) = cut(&store, by).await;
    let fail = async |kind| {
        let job = pick(&store, by).await;
        assert_eq!(job.id, circuit);
        let failure = AttemptFailure { kind, error: "it broke".into() };
        let _ = store.fail(&job, &failure).await.unwrap();
    };
    fail(FailureKind::Retryable).await;
    let Why::Rests { seconds, error } = why(&store, circuit).await else { panic!("it rests") };
    assert!(seconds > 0.0 && seconds <= 1.0 && error.as_deref() == Some("it broke"));
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    assert!(matches!(why(&store, circuit).await, Why::Queued { place: Some(1), .. }));
    fail(FailureKind::Fatal).await;
    let Why::Failed { failures, error, .. } = why(&store, circuit).await else { panic!("it failed") };
    assert_eq!((failures, error.as_deref()), (2, Some("it broke")));
    let attempts = store.attempts_of(circuit).await.unwrap();
    let ends: Vec<_> =
        attempts.iter().map(|a| (a.attempt, a.outcome.as_deref(), a.error.as_deref())).collect();
    assert_eq!(ends, [(1, Some("failed"), Some("it broke")), (2, Some("failed"), Some("it broke"))]);
}

#[tokio::test]
async fn what_waits_names_what_is_missing() {
    let store = store().await;
    let by = worker(&store, None, &[filter(Stage::CircuitProof)]).await;
    let (_, [first, second, leaf]) = cut(&store, by).await;
    let Why::WaitsForProofs { missing, first: named } = why(&store, leaf).await else { panic!("it waits") };
    assert_eq!(missing, 2);
    assert_eq!(named.iter().map(|job| job.job_id).collect::<Vec<_>>(), [second, first]);
    store.complete(&pick(&store, by).await, Some(&artifact("proof"))).await.unwrap();
    assert!(matches!(why(&store, first).await, Why::Over { status } if status == "successful"));
    let Why::WaitsForProofs { missing, first: named } = why(&store, leaf).await else { panic!("it waits") };
    assert_eq!((missing, named[0].job_id, named[0].status.as_str()), (1, second, "queued"));
}

#[tokio::test]
async fn a_lost_circuit_waits_for_its_generator() {
    let store = store().await;
    let by = worker(&store, None, &[filter(Stage::CircuitProof)]).await;
    let (generator, [first, ..]) = cut(&store, by).await;
    store.complete(&generator, None).await.unwrap();
    let job = pick(&store, by).await;
    store.lose_inputs(&job, &["circuit 1".into()], "gone").await.unwrap();
    let Why::WaitsForCircuit { generator } = why(&store, first).await else { panic!("it waits") };
    assert_eq!(generator, "queued");
}

#[tokio::test]
async fn a_strict_chain_waits_for_the_batch_before() {
    let store = store().await;
    let settings = ChainSettings { head_of_chain: Some(HeadOfChain::Strict), share: None };
    store.set_chain(BATCH.chain_id, settings).await.unwrap();
    insert(&store, BatchId { number: 0, ..BATCH }).await;
    insert(&store, BATCH).await;
    let ids = store.telling_jobs(BATCH).await.unwrap();
    let answer = why(&store, ids[0]).await;
    assert_eq!(answer, Why::WaitsForBatch { number: 0, status: BatchStatus::Queued });
}

#[tokio::test]
async fn what_is_paused_says_by_whose_pause() {
    let store = store().await;
    let by = worker(&store, None, &[filter(Stage::CircuitProof)]).await;
    let (_, [circuit, ..]) = cut(&store, by).await;
    for (what, words) in [
        (Pausable::Chain(BATCH.chain_id), ("chain", "2")),
        (Pausable::Stage(Stage::CircuitProof), ("stage", "circuit_proof")),
    ] {
        let would = store.set_paused(what, true, Mode::DryRun).await.unwrap();
        assert!(matches!(why(&store, circuit).await, Why::Queued { .. }), "nothing was changed");
        assert_eq!(store.set_paused(what, true, Mode::Apply).await.unwrap(), would, "it did what it said");
        assert_eq!((would.was_so_already, would.jobs), (false, 2));
        assert!(store.set_paused(what, true, Mode::Apply).await.unwrap().was_so_already);
        let Why::Paused { what: kind, name, .. } = why(&store, circuit).await else { panic!("it is paused") };
        assert_eq!((kind, name.as_str()), words);
        assert!(store.pick(&filter(Stage::CircuitProof), 9, by).await.unwrap().is_empty());
        assert_eq!(store.set_paused(what, false, Mode::Apply).await.unwrap(), would);
        assert!(matches!(why(&store, circuit).await, Why::Queued { .. }));
    }
    assert_eq!(store.paused().await.unwrap(), Default::default());
}

#[tokio::test]
async fn a_batch_is_told_by_the_first_job_of_each_kind_that_keeps_it() {
    let store = store().await;
    let by = worker(&store, None, &[filter(Stage::CircuitProof)]).await;
    let (generator, [first, second, leaf]) = cut(&store, by).await;
    assert_eq!(store.telling_jobs(BATCH).await.unwrap(), [generator.id, first], "one runs, one is next");
    store.complete(&generator, None).await.unwrap();
    let job = pick(&store, by).await;
    let failure = AttemptFailure { kind: FailureKind::Fatal, error: "it broke".into() };
    let _ = store.fail(&job, &failure).await.unwrap();
    store.complete(&pick(&store, by).await, Some(&artifact("proof"))).await.unwrap();
    assert_eq!(
        store.telling_jobs(BATCH).await.unwrap(),
        [first],
        "what failed, and nothing of what waits for it"
    );
    let Why::WaitsForProofs { first: named, .. } = why(&store, leaf).await else { panic!("it waits") };
    assert_eq!((named[0].job_id, named[0].status.as_str()), (first, "failed"));
    assert!(matches!(store.why(second + 77).await, Err(StoreError::NoSuchJob(_))));
}
