//! Admission by memory, and what is learned; and leases that nobody knows of.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use async_trait::async_trait;
use job_runner::{ExecuteError, Executor, JobContext, JobPicker, MemoryBudget, Picked};
use job_store::JobStore;
use job_store::batches::add_jobs::{Extension, NewJob};
use job_store::batches::insert::NewBatch;
use job_store::database::listen::WakeListener;
use job_store::leases::keeper::LeaseKeeper;
use job_store::leases::pick::{PickFilter, Room};
use job_store::leases::workers::NewWorker;
use job_store::model::rows::LeasedJob;
use job_store::runner::context::{LoadError, WorkerContext};
use job_store::runner::picker::{Loader, QueuePicker};
use proving_model::{AggregationRound, BatchId, CircuitId, JobKey, MemoryClass, Stage};
use std::{sync::Arc, time::Duration};
use test_support::{VERSION, artifact, new_worker, store};

const MEGABYTE: i64 = 1 << 20;
const SOON: Duration = Duration::from_secs(20);

fn me() -> NewWorker {
    NewWorker { memory_budget_bytes: Some(1), ..new_worker() }
}

fn key(stage: Stage, circuit: i16, sequence: i32) -> JobKey {
    let round = match stage {
        Stage::Compression => AggregationRound::Scheduler,
        _ => AggregationRound::BasicCircuits,
    };
    JobKey { round, stage, circuit_id: CircuitId(circuit), depth: 0, sequence }
}

fn filter(stage: Stage) -> PickFilter {
    PickFilter {
        stage,
        rounds: AggregationRound::ALL.to_vec(),
        memory_classes: vec![MemoryClass::Heavy, MemoryClass::Light],
        version: VERSION,
    }
}

/// A batch of circuits that expect so many megabytes each, the first in the queue first; returns its generator.
async fn batch(store: &JobStore, number: u32, peaks: &[i64]) -> LeasedJob {
    let id = BatchId { chain_id: 0, number };
    store.insert_batch(&NewBatch::new(id, VERSION, artifact("input"))).await.unwrap();
    let by = store.register_worker(&me(), Duration::from_secs(600)).await.unwrap();
    let generator = store.pick(&filter(Stage::WitnessGeneration), 1, by).await.unwrap().remove(0);
    let circuits = (0..).zip(peaks).map(|(sequence, peak)| NewJob {
        key: key(Stage::CircuitProof, i16::try_from(sequence % 2).unwrap(), sequence),
        memory_class: MemoryClass::Light,
        // The longest come first.
        expected_cost_ms: 100 - i64::from(sequence),
        peak_memory_bytes: peak * MEGABYTE,
        input: Some(artifact("circuit")),
    });
    let extension = Extension { jobs: circuits.collect(), links: Vec::new() };
    store.extend_batch(&generator, &extension).await.unwrap();
    generator
}

#[tokio::test]
async fn the_next_job_is_not_overtaken_by_what_fits_and_what_never_fits_is_left_to_others() {
    let store = store().await;
    batch(&store, 1, &[900, 300, 100]).await;
    let by = store.register_worker(&me(), Duration::from_secs(600)).await.unwrap();
    let circuits = filter(Stage::CircuitProof);
    let pick = async |free: i64, total: i64| {
        let room = Room { free: free * MEGABYTE, total: total * MEGABYTE, suspects: true };
        let picked = store.pick_into(&circuits, 1, by, room).await.unwrap();
        let next = store.next_peak_memory(&circuits, room).await.unwrap();
        (picked.first().map(|job| job.peak_memory_bytes / MEGABYTE), next.map(|bytes| bytes / MEGABYTE))
    };
    // The 900 are for another machine; the 300 are next, and the 100 behind them wait too.
    assert_eq!(pick(299, 500).await, (None, Some(300)));
    assert_eq!(pick(300, 500).await, (Some(300), Some(100)));
    assert_eq!(pick(500, 1000).await, (None, Some(900)));
    assert_eq!(pick(100, 500).await, (Some(100), None));
    assert_eq!(pick(900, 1000).await, (Some(900), None));
}

struct Nothing;

impl Executor for Nothing {
    type Input = ();
    type Output = ();
    type Metadata = LeasedJob;

    fn execute(&self, (): (), _: &JobContext<'_, LeasedJob>) -> Result<(), ExecuteError> {
        Ok(())
    }
}

#[async_trait]
impl Loader for Nothing {
    type Input = ();

    async fn load(&self, _: &LeasedJob) -> Result<(), LoadError> {
        Ok(())
    }
}

async fn context(store: &JobStore, budget_megabytes: u64, heartbeat: Duration) -> WorkerContext {
    WorkerContext {
        store: Arc::new(store.clone()),
        keeper: LeaseKeeper::start(store, &me(), heartbeat, Duration::from_secs(600)).await.unwrap(),
        wake: WakeListener::start(store).await.unwrap(),
        memory: MemoryBudget::new(Some(budget_megabytes << 20)),
        poll_interval: Duration::from_secs(600),
        job_timeout: Duration::from_secs(600),
        circuit_names: None,
    }
}

#[tokio::test]
async fn pickers_of_a_process_share_the_budget_and_a_large_job_is_waited_for_by_all() {
    let store = store().await;
    batch(&store, 1, &[300, 700, 100, 100]).await;
    let context = context(&store, 1_000, Duration::from_secs(100)).await;
    let picker = || QueuePicker::<Nothing, _>::new(context.clone(), filter(Stage::CircuitProof), Nothing);
    let (mut one, mut other) = (picker(), picker());
    let expected = |jobs: &[Picked<Nothing>]| {
        jobs.iter().map(|job| job.metadata.peak_memory_bytes / MEGABYTE).collect::<Vec<_>>()
    };
    let first = one.pick(2).await.unwrap();
    assert_eq!(expected(&first), [300, 700]);
    assert!(one.pick(1).await.unwrap().is_empty() && other.pick(1).await.unwrap().is_empty(), "all is taken");
    // Of the 1,000, 700 are free: room for two more of 100; then a new large one comes, and waits for the 300.
    let mut first = first.into_iter();
    let (small, large) = (first.next().unwrap(), first.next().unwrap());
    context.keeper.forget(&large.metadata);
    drop(large);
    let second = other.pick(1).await.unwrap();
    assert_eq!(expected(&second), [100]);
    batch(&store, 2, &[650]).await;
    let third = other.pick(1).await.unwrap();
    assert_eq!(expected(&third), [100]);
    assert!(one.pick(1).await.unwrap().is_empty());
    let waiting = tokio::spawn(async move {
        loop {
            one.wait().await;
            let jobs = one.pick(1).await.unwrap();
            if !jobs.is_empty() {
                return (jobs, one);
            }
        }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    // Both small ones end: 700 are free, and kept for the one that waits.
    batch(&store, 3, &[50]).await;
    for job in [second, third].into_iter().flatten() {
        context.keeper.forget(&job.metadata);
        drop(job);
    }
    let (fourth, _one) = tokio::time::timeout(SOON, waiting).await.unwrap().unwrap();
    assert_eq!(expected(&fourth), [650]);
    assert_eq!(expected(&other.pick(1).await.unwrap()), [50]);
    drop(small);
}

#[tokio::test]
async fn what_a_circuit_took_is_expected_of_the_next_and_forgotten_slowly() {
    let store = store().await;
    let measure = async |number: u32, took: u64| {
        let generator = batch(&store, number, &[10, 10]).await;
        let compression = NewJob {
            key: key(Stage::Compression, 0, 0),
            memory_class: MemoryClass::Light,
            expected_cost_ms: 0,
            peak_memory_bytes: 0,
            input: None,
        };
        let circuits = [key(Stage::CircuitProof, 0, 0), key(Stage::CircuitProof, 1, 1)];
        let links = circuits.map(|circuit| (circuit, compression.key)).to_vec();
        store.extend_batch(&generator, &Extension { jobs: vec![compression], links }).await.unwrap();
        store.complete(&generator, None).await.unwrap();
        let mut expected = Vec::new();
        for job in store.pick(&filter(Stage::CircuitProof), 9, generator.worker).await.unwrap() {
            expected.push((job.key.circuit_id.0, job.peak_memory_bytes / MEGABYTE));
            // Of one kind nothing is ever measured.
            let peak = (job.key.circuit_id.0 == 0).then_some(took << 20);
            store.complete_measured(&job, Some(&artifact("proof")), peak).await.unwrap();
        }
        let last = store.pick(&filter(Stage::Compression), 1, generator.worker).await.unwrap().remove(0);
        store.complete(&last, Some(&artifact("final"))).await.unwrap();
        assert_eq!(store.learn_from_batch().await.unwrap(), Some(generator.batch));
        assert_eq!(store.learn_from_batch().await.unwrap(), None, "once");
        expected
    };
    assert_eq!(measure(1, 800).await, [(0, 10), (1, 10)], "as declared");
    assert_eq!(measure(2, 160).await, [(0, 800), (1, 10)], "as measured");
    assert_eq!(measure(3, 900).await, [(0, 700), (1, 10)], "seven eighths");
    assert_eq!(measure(4, 1).await, [(0, 900), (1, 10)], "up at once");
}

/// A pick whose answer was lost, and an end that could not be written: the worker lives, and would keep the jobs for ever.
#[tokio::test]
async fn a_lease_that_nobody_knows_of_is_handed_back_at_no_cost() {
    let store = store().await;
    batch(&store, 1, &[1, 1]).await;
    let context = context(&store, 1_000, Duration::from_millis(100)).await;
    let circuits = filter(Stage::CircuitProof);
    let lost = store.pick(&circuits, 1, context.keeper.worker()).await.unwrap().remove(0);
    // One that is known stays.
    let mut picker = QueuePicker::<Nothing, _>::new(context.clone(), circuits.clone(), Nothing);
    let known = picker.pick(1).await.unwrap().remove(0);
    let again = tokio::time::timeout(SOON, async {
        loop {
            let found = picker.pick(1).await.unwrap();
            if let Some(found) = found.into_iter().next() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let again = again.await.expect("it is handed back");
    assert_eq!((again.metadata.id, again.metadata.attempt), (lost.id, 2));
    assert!(!known.lease.is_lost());
    store.complete(&known.metadata, Some(&artifact("proof"))).await.unwrap();
    let attempts = store.troubled_attempts(lost.batch).await.unwrap();
    let released = attempts.iter().find(|attempt| attempt.job_id == lost.id).unwrap();
    assert_eq!(released.outcome.as_deref(), Some("released"), "{attempts:?}");
}
