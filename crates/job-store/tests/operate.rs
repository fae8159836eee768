//! What operators do to batches.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use job_runner::Lease;
use job_store::batches::chains::ChainSettings;
use job_store::batches::insert::NewBatch;
use job_store::database::listen::WakeListener;
use job_store::leases::keeper::LeaseKeeper;
use job_store::leases::pick::PickFilter;
use job_store::model::rows::LeasedJob;
use job_store::operator::cancel::Cancelled;
use job_store::operator::delete::Deleted;
use job_store::operator::mode::Mode;
use job_store::operator::pause::Pausable;
use job_store::reports::why::Why;
use job_store::{JobStore, StoreError};
use proving_model::{AggregationRound, BatchId, BatchStatus, HeadOfChain, MemoryClass, Stage};
use sqlx::Connection;
use std::time::{Duration, Instant};
use test_support::{VERSION, artifact, empty_database, new_worker, store};

const BATCH: BatchId = BatchId { chain_id: 4, number: 1 };

async fn insert(store: &JobStore, number: u32) {
    let batch = NewBatch::new(BatchId { number, ..BATCH }, VERSION, artifact("input"));
    store.insert_batch(&batch).await.unwrap();
}

async fn pick(store: &JobStore, by: uuid::Uuid) -> Option<LeasedJob> {
    let filter = PickFilter {
        stage: Stage::WitnessGeneration,
        rounds: AggregationRound::ALL.to_vec(),
        memory_classes: vec![MemoryClass::Light],
        version: VERSION,
    };
    store.pick(&filter, 1, by).await.unwrap().pop()
}

#[tokio::test]
async fn a_cancelled_batch_stops_within_a_second_wherever_it_runs() {
    let url = empty_database().await;
    let store = JobStore::connect(&url).await.unwrap();
    store.migrate().await.unwrap();
    store.insert_protocol_version(VERSION, "mock", "digest").await.unwrap();
    insert(&store, 1).await;
    // Another process, whose next heartbeat is far away.
    let elsewhere = JobStore::connect(&url).await.unwrap();
    let (interval, lease) = (Duration::from_secs(100), Duration::from_secs(300));
    let keeper = LeaseKeeper::start(&elsewhere, &new_worker(), interval, lease).await.unwrap();
    let _wake = WakeListener::start(&elsewhere).await.unwrap();
    let job = pick(&elsewhere, keeper.worker()).await.unwrap();
    let held = Lease::new();
    keeper.hold(&job, &held, Instant::now());

    let would = store.cancel_batch(BATCH, Mode::DryRun).await.unwrap();
    assert_eq!(would, Cancelled { jobs_dropped: 0, jobs_stopped: 1, starts_next: false });
    assert_eq!(store.batch(BATCH).await.unwrap().unwrap().status, BatchStatus::InProgress, "nothing changed");
    assert_eq!(store.cancel_batch(BATCH, Mode::Apply).await.unwrap(), would, "it did what it said");
    tokio::time::timeout(Duration::from_secs(1), held.lost()).await.expect("the worker hears of it");
    let late = elsewhere.complete(&job, None).await;
    assert!(matches!(late, Err(StoreError::LeaseLost { .. })), "{late:?}");
    let batch = store.batch(BATCH).await.unwrap().unwrap();
    assert!(batch.status == BatchStatus::Cancelled && batch.duration_seconds.is_some());
    let attempts = store.attempts_of(job.id).await.unwrap();
    assert_eq!(attempts[0].outcome.as_deref(), Some("cancelled"));
    assert_eq!(store.cancel_batch(BATCH, Mode::Apply).await.unwrap(), Cancelled::default(), "once");
    assert!(store.archive_batch(Duration::ZERO).await.unwrap().is_some(), "it is archived as any other");
}

#[tokio::test]
async fn a_batchs_report_is_of_one_moment() {
    let url = empty_database().await;
    let store = JobStore::connect(&url).await.unwrap();
    store.migrate().await.unwrap();
    store.insert_protocol_version(VERSION, "mock", "digest").await.unwrap();
    insert(&store, 1).await;
    // The batch and its job fail together, after the report has read the batch and before it can read the job.
    let mut failing = url.connect().await.unwrap();
    sqlx::raw_sql(
        "BEGIN; LOCK TABLE jobs;
         UPDATE jobs SET status = 'failed', error = 'broken';
         UPDATE batches SET status = 'failed', error = 'broken'",
    )
    .execute(&mut failing)
    .await
    .unwrap();
    let report = tokio::spawn({
        let store = store.clone();
        async move { store.batch_report(BATCH).await.unwrap() }
    });
    let mut looking = url.connect().await.unwrap();
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'jobs'::regclass";
    while sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut looking).await.unwrap() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    sqlx::raw_sql("COMMIT").execute(&mut failing).await.unwrap();
    let report = report.await.unwrap();
    assert_eq!((report.batch.status, report.stuck.len()), (BatchStatus::Queued, 0));
    let later = store.batch_report(BATCH).await.unwrap();
    assert_eq!((later.batch.status, later.stuck.len()), (BatchStatus::Failed, 1));
}

#[tokio::test]
async fn the_next_batch_of_a_strict_chain_starts_when_the_one_before_is_cancelled() {
    let store = store().await;
    let settings = ChainSettings { head_of_chain: Some(HeadOfChain::Strict), share: None };
    store.set_chain(BATCH.chain_id, settings).await.unwrap();
    insert(&store, 1).await;
    insert(&store, 2).await;
    let cancelled = store.cancel_batch(BATCH, Mode::Apply).await.unwrap();
    assert_eq!(cancelled, Cancelled { jobs_dropped: 1, jobs_stopped: 0, starts_next: true });
    let by = store.register_worker(&new_worker(), Duration::from_secs(60)).await.unwrap();
    assert_eq!(pick(&store, by).await.unwrap().batch.number, 2);
    let unknown = store.cancel_batch(BatchId { number: 9, ..BATCH }, Mode::Apply).await;
    assert!(matches!(unknown, Err(StoreError::NoSuchBatch(_))));
}

#[tokio::test]
async fn a_quarantined_job_is_out_of_circulation_until_it_is_released() {
    let store = store().await;
    let by = store.register_worker(&new_worker(), Duration::from_secs(60)).await.unwrap();
    insert(&store, 1).await;
    let job = pick(&store, by).await.unwrap();
    let would = store.quarantine_job(job.id, "a test", Mode::DryRun).await.unwrap();
    assert_eq!((would.was.as_str(), would.is.as_str()), ("in_progress", "failed"));
    assert_eq!(store.quarantine_job(job.id, "a test", Mode::Apply).await.unwrap(), would);
    assert!(
        matches!(store.complete(&job, None).await, Err(StoreError::LeaseLost { .. })),
        "it was taken away"
    );
    assert!(pick(&store, by).await.is_none());
    let again = store.quarantine_job(job.id, "a test", Mode::Apply).await;
    assert!(matches!(&again, Err(StoreError::Invalid(text)) if text.contains("is failed")), "{again:?}");
    let Why::Failed { error, .. } = store.why(job.id).await.unwrap().why else { panic!("it is failed") };
    assert_eq!(error.as_deref(), Some("a test"));
    let released = store.release_job(job.id, Mode::Apply).await.unwrap();
    assert_eq!((released.was.as_str(), released.is.as_str()), ("failed", "queued"));
    let job = pick(&store, by).await.unwrap();
    let attempts = store.attempts_of(job.id).await.unwrap();
    let ends: Vec<_> = attempts.iter().map(|attempt| attempt.outcome.as_deref()).collect();
    assert_eq!(ends, [Some("cancelled"), None]);
    let running = store.release_job(job.id, Mode::Apply).await;
    assert!(
        matches!(&running, Err(StoreError::Invalid(text)) if text.contains("in_progress")),
        "{running:?}"
    );
    assert!(matches!(store.release_job(5, Mode::Apply).await, Err(StoreError::NoSuchJob(5))));
}

/// What a job waits for may come while it is out of circulation.
#[tokio::test]
async fn a_job_that_was_quarantined_while_it_waited_is_queued_when_it_is_released_after_its_turn_came() {
    let store = store().await;
    let settings = ChainSettings { head_of_chain: Some(HeadOfChain::Strict), share: None };
    store.set_chain(BATCH.chain_id, settings).await.unwrap();
    insert(&store, 1).await;
    insert(&store, 2).await;
    let second = BatchId { number: 2, ..BATCH };
    let waiting = store.telling_jobs(second).await.unwrap()[0];
    let change = store.quarantine_job(waiting, "a test", Mode::Apply).await.unwrap();
    assert_eq!(change.was, "waiting_for_proofs");
    let early = store.release_job(waiting, Mode::DryRun).await.unwrap();
    assert_eq!(early.is, "waiting_for_proofs", "the batch before it is not over");
    store.cancel_batch(BATCH, Mode::Apply).await.unwrap();
    assert_eq!(store.release_job(waiting, Mode::Apply).await.unwrap().is, "queued");
    let by = store.register_worker(&new_worker(), Duration::from_secs(60)).await.unwrap();
    assert_eq!(pick(&store, by).await.unwrap().id, waiting);
}

/// A generator that inserts while its chain is paused: what it inserts is held back as well.
#[tokio::test]
async fn a_pause_reaches_jobs_that_are_being_inserted() {
    let url = empty_database().await;
    let store = JobStore::connect(&url).await.unwrap();
    store.migrate().await.unwrap();
    store.insert_protocol_version(VERSION, "mock", "digest").await.unwrap();
    let by = store.register_worker(&new_worker(), Duration::from_secs(60)).await.unwrap();
    insert(&store, 1).await;
    let generator = pick(&store, by).await.unwrap();
    // As `extend_batch` does it, stopped before its commit.
    let mut connection = url.connect().await.unwrap();
    let mut inserting = connection.begin().await.unwrap();
    sqlx::query(
        "INSERT INTO jobs
         SELECT (jsonb_populate_record(NULL::jobs, to_jsonb(g) || jsonb_build_object(
             'id', g.id + 1, 'status', 'queued', 'worker_id', NULL, 'lease_token', NULL))).*
         FROM (SELECT * FROM jobs WHERE id = $1 FOR SHARE) AS g",
    )
    .bind(generator.id)
    .execute(&mut *inserting)
    .await
    .unwrap();
    let pausing = store.clone();
    let pause =
        tokio::spawn(async move { pausing.set_paused(Pausable::Chain(4), true, Mode::Apply).await.unwrap() });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!pause.is_finished(), "it waits for whoever inserts");
    inserting.commit().await.unwrap();
    assert_eq!(pause.await.unwrap().jobs, 1);
    assert!(pick(&store, by).await.is_none(), "what was inserted is held back");
}

#[tokio::test]
async fn a_batch_that_is_over_can_be_deleted_and_leaves_nothing() {
    let store = store().await;
    insert(&store, 1).await;
    let open = store.delete_batch(BATCH, Mode::Apply).await;
    assert!(matches!(&open, Err(StoreError::Invalid(text)) if text.contains("cancel it first")), "{open:?}");
    let job = store.telling_jobs(BATCH).await.unwrap()[0];
    store.cancel_batch(BATCH, Mode::Apply).await.unwrap();
    let would = store.delete_batch(BATCH, Mode::DryRun).await.unwrap();
    assert_eq!(would, Deleted { jobs: 1, starts_next: false });
    assert!(store.batch(BATCH).await.unwrap().is_some(), "nothing changed");
    // In the archive or not.
    store.archive_batch(Duration::ZERO).await.unwrap().unwrap();
    assert_eq!(store.delete_batch(BATCH, Mode::Apply).await.unwrap(), would);
    assert!(store.batch(BATCH).await.unwrap().is_none());
    assert!(matches!(store.why(job).await, Err(StoreError::NoSuchJob(_))));
    insert(&store, 1).await;
    assert_ne!(store.telling_jobs(BATCH).await.unwrap()[0], job, "another batch of the same number");
}
