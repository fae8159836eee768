//! The size of the tables does not matter: plans along indexes at every size, and old work out of the way.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use job_store::batches::insert::NewBatch;
use job_store::duties::archive::Moved;
use job_store::leases::fail::{AttemptFailure, FailureKind};
use job_store::leases::pick::PickFilter;
use job_store::measure::ballast::Ballast;
use job_store::model::rows::LeasedJob;
use job_store::operator::mode::Mode;
use job_store::{DatabaseUrl, JobStore, StoreError};
use proving_model::{AggregationRound, BatchId, BatchStatus, MemoryClass, Stage};
use sqlx::PgConnection;
use std::time::{Duration, Instant};
use test_support::{VERSION, artifact, empty_database, new_worker, store};
use uuid::Uuid;

const LEASE: Duration = Duration::from_secs(60);
/// Statistics of a backend are there once it has ended, or soon after.
const STATISTICS_WAIT: Duration = Duration::from_secs(20);

async fn worker(store: &JobStore) -> Uuid {
    store.register_worker(&new_worker(), LEASE).await.unwrap()
}

async fn pick(store: &JobStore, stage: Stage, want: usize, worker: Uuid) -> Vec<LeasedJob> {
    let filter = PickFilter {
        stage,
        rounds: AggregationRound::ALL.to_vec(),
        memory_classes: vec![MemoryClass::Heavy, MemoryClass::Light],
        version: VERSION,
    };
    store.pick(&filter, want, worker).await.unwrap()
}

/// Whole scans of the hot table so far, and rows that were read through its indexes.
async fn reads(connection: &mut PgConnection) -> (i64, i64) {
    sqlx::query_as(
        "SELECT seq_scan, coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables WHERE relname = 'jobs'",
    )
    .fetch_one(connection)
    .await
    .unwrap()
}

/// The store's own connections report what they read when they end.
async fn settled_reads(store: JobStore, connection: &mut PgConnection) -> (i64, i64) {
    store.close().await;
    let begun = Instant::now();
    loop {
        let others: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'",
        )
        .fetch_one(&mut *connection)
        .await
        .unwrap();
        if others == 0 {
            return reads(connection).await;
        }
        assert!(begun.elapsed() < STATISTICS_WAIT, "the store's connections end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The planner is free to choose, and the statistics are as wrong as they get: none at first, then those of before the last rows.
#[tokio::test]
async fn no_statement_of_a_job_reads_more_than_its_rows_at_any_size_or_limit() {
    let url = empty_database().await;
    let mut connection = url.connect().await.unwrap();
    let first = migrated(&url).await;
    first.close().await;
    for (rows, analyzed) in [(100, false), (5_000, false), (50_000, true), (100_000, false)] {
        for limit in [1, 16, 64, 512] {
            let filler = JobStore::connect(&url).await.unwrap();
            if limit == 1 {
                filler.add_ballast(VERSION, rows, Ballast::Queued).await.unwrap();
                if analyzed {
                    filler.analyze().await.unwrap();
                }
            }
            let before = settled_reads(filler, &mut connection).await;

            let store = JobStore::connect(&url).await.unwrap();
            let worker = worker(&store).await;
            let jobs = pick(&store, Stage::CircuitProof, limit, worker).await;
            let proof = artifact("proof");
            let completed =
                jobs.iter().skip(3).map(|job| store.complete(job, Some(&proof))).collect::<Vec<_>>();
            for completed in futures::future::join_all(completed).await {
                completed.unwrap();
            }
            for (i, job) in jobs.iter().take(3).enumerate() {
                match i {
                    0 => store.release(job, Duration::from_secs(600)).await.unwrap(),
                    1 => {
                        let failure =
                            AttemptFailure { kind: FailureKind::Fatal, error: "for the test".into() };
                        let _ = store.fail(job, &failure).await.unwrap();
                    }
                    _ => drop(store.predecessors(job).await.unwrap()),
                }
            }
            store.stop_worker(worker).await.unwrap();
            store.rescue_expired(Duration::MAX).await.unwrap();
            let after = settled_reads(store, &mut connection).await;
            assert_eq!(after.0, before.0, "{rows} rows, {limit} at a time: the table was scanned");
            // A few reads a job for the candidate, its update, its completion; some dead rows on the way.
            let read = after.1 - before.1;
            let expected = i64::try_from(limit).unwrap() * 12 + 200;
            assert!(
                read <= expected,
                "{rows} rows, {limit} at a time: {read} rows read, {expected} expected"
            );
        }
    }
}

/// A store that lives through it all plans its statements while the table is empty, and the server is told that it is.
#[tokio::test]
async fn a_plan_made_for_an_empty_table_is_gone_when_the_table_has_grown() {
    let url = empty_database().await;
    let mut connection = url.connect().await.unwrap();
    let store = migrated(&url).await;
    let worker = worker(&store).await;
    let complete = async |jobs: Vec<LeasedJob>| {
        let proof = artifact("proof");
        let completed = jobs.iter().map(|job| store.complete(job, Some(&proof))).collect::<Vec<_>>();
        for completed in futures::future::join_all(completed).await {
            completed.unwrap();
        }
    };
    store.add_ballast(VERSION, 3, Ballast::Queued).await.unwrap();
    sqlx::raw_sql("VACUUM ANALYZE jobs").execute(&mut connection).await.unwrap();
    complete(pick(&store, Stage::CircuitProof, 1, worker).await).await;

    store.add_ballast(VERSION, 20_000, Ballast::Queued).await.unwrap();
    // The last rows of the table are the first to be picked.
    let last = "UPDATE jobs SET priority = 1 WHERE id IN (SELECT id FROM jobs ORDER BY id DESC LIMIT 64)";
    sqlx::raw_sql(last).execute(&mut connection).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let before = reads(&mut connection).await.1;
    let jobs = pick(&store, Stage::CircuitProof, 64, worker).await;
    assert_eq!(jobs.len(), 64);
    complete(jobs).await;
    let read = settled_reads(store, &mut connection).await.1 - before;
    assert!(read <= 64 * 12 + 200, "{read} rows read");
}

async fn migrated(url: &DatabaseUrl) -> JobStore {
    let store = JobStore::connect(url).await.unwrap();
    store.migrate().await.unwrap();
    store.insert_protocol_version(VERSION, "mock", "digest").await.unwrap();
    store
}

/// A store, and a connection that looks at its tables.
async fn fresh() -> (JobStore, PgConnection) {
    let url = empty_database().await;
    let store = migrated(&url).await;
    (store, url.connect().await.unwrap())
}

async fn hot_jobs(connection: &mut PgConnection) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM jobs").fetch_one(connection).await.unwrap()
}

const BATCH: BatchId = BatchId { chain_id: 1, number: 1 };

/// A batch of one circuit and a compression, worked on to its end.
async fn proven(store: &JobStore) -> Vec<LeasedJob> {
    use job_store::batches::add_jobs::{Extension, NewJob};
    use proving_model::{CircuitId, JobKey};
    let by = worker(store).await;
    store.insert_batch(&NewBatch::new(BATCH, VERSION, artifact("input"))).await.unwrap();
    let generator = pick(store, Stage::WitnessGeneration, 1, by).await.remove(0);
    let key = |round, stage| JobKey { round, stage, circuit_id: CircuitId(1), depth: 0, sequence: 0 };
    let circuit = key(AggregationRound::BasicCircuits, Stage::CircuitProof);
    let compression = key(AggregationRound::Scheduler, Stage::Compression);
    let job = |key, input| NewJob {
        key,
        memory_class: MemoryClass::Light,
        expected_cost_ms: 1,
        peak_memory_bytes: 0,
        input,
    };
    let extension = Extension {
        jobs: vec![job(circuit, Some(artifact("circuit"))), job(compression, None)],
        links: vec![(circuit, compression)],
    };
    store.extend_batch(&generator, &extension).await.unwrap();
    store.complete(&generator, None).await.unwrap();
    let mut all = vec![generator];
    for stage in [Stage::CircuitProof, Stage::Compression] {
        let job = pick(store, stage, 1, by).await.remove(0);
        store.complete(&job, Some(&artifact("output"))).await.unwrap();
        all.push(job);
    }
    all
}

#[tokio::test]
async fn a_proven_batch_is_archived_and_later_deleted_and_its_reports_stay_the_same_until_then() {
    let (store, mut connection) = fresh().await;
    let jobs = proven(&store).await;
    let report = |store: JobStore| async move { store.batch_report(BATCH).await.unwrap() };
    let before = report(store.clone()).await;
    assert_eq!((before.batch.status, before.attempts), (BatchStatus::Successful, 3));
    assert_eq!(store.archive_batch(Duration::from_secs(60)).await.unwrap(), None, "too young");
    assert_eq!(store.delete_archived_batch(Duration::ZERO).await.unwrap(), None, "not archived yet");

    // Two monitors at once: one of them moves it.
    let (one, other) = tokio::join!(store.archive_batch(Duration::ZERO), store.archive_batch(Duration::ZERO));
    let moved: Vec<Moved> = [one.unwrap(), other.unwrap()].into_iter().flatten().collect();
    assert_eq!(moved, [Moved { batch: BATCH, jobs: 3 }]);
    assert_eq!(hot_jobs(&mut connection).await, 0);
    let after = report(store.clone()).await;
    assert_eq!((&after.counts, after.attempts), (&before.counts, before.attempts));
    assert_eq!(after.batch.final_proof, before.batch.final_proof);

    // Whoever comes late changes nothing; whoever asks again about what was done hears the same as before.
    let late = AttemptFailure { kind: FailureKind::Fatal, error: "late".into() };
    for job in &jobs {
        assert!(matches!(store.fail(job, &late).await, Err(StoreError::LeaseLost { .. })));
        assert!(matches!(store.release(job, Duration::ZERO).await, Err(StoreError::LeaseLost { .. })));
        store.complete(job, Some(&artifact("output"))).await.unwrap();
    }
    assert_eq!(hot_jobs(&mut connection).await, 0);
    assert_eq!(store.requeue_failed(BATCH, Mode::Apply).await.unwrap().jobs, 0);

    assert_eq!(store.delete_archived_batch(Duration::from_secs(60)).await.unwrap(), None, "too young");
    let deleted = store.delete_archived_batch(Duration::ZERO).await.unwrap();
    assert_eq!(deleted, Some(Moved { batch: BATCH, jobs: 3 }));
    let last = report(store.clone()).await;
    assert_eq!((last.counts.len(), last.attempts), (0, 0));
    assert_eq!(last.batch.final_proof, before.batch.final_proof, "the batch itself stays");
    assert_eq!(store.delete_archived_batch(Duration::ZERO).await.unwrap(), None);
}

#[tokio::test]
async fn what_is_not_proven_is_not_archived_however_old() {
    let (store, mut connection) = fresh().await;
    let by = worker(&store).await;
    for number in 1..=2 {
        let id = BatchId { chain_id: 1, number };
        store.insert_batch(&NewBatch::new(id, VERSION, artifact("input"))).await.unwrap();
    }
    // One fails for good, one is on its way.
    let job = pick(&store, Stage::WitnessGeneration, 1, by).await.remove(0);
    let failure = AttemptFailure { kind: FailureKind::Fatal, error: "for the test".into() };
    store.fail(&job, &failure).await.unwrap();
    assert_eq!(store.archive_batch(Duration::ZERO).await.unwrap(), None);
    assert_eq!(hot_jobs(&mut connection).await, 2);
    assert_eq!(store.requeue_failed(job.batch, Mode::Apply).await.unwrap().jobs, 1, "and can be requeued");
}

/// The server would end the session of one that is left open, and the next operation would find that out.
#[tokio::test]
async fn no_operation_leaves_a_transaction_open() {
    let (store, mut connection) = fresh().await;
    let jobs = proven(&store).await;
    assert_eq!(store.archive_batch(Duration::from_secs(60)).await.unwrap(), None);
    assert!(store.release(&jobs[0], Duration::ZERO).await.is_err());
    store.insert_batch(&NewBatch::new(BATCH, VERSION, artifact("input"))).await.unwrap();
    let begun = Instant::now();
    loop {
        let open: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND state LIKE 'idle in transaction%'",
        )
        .fetch_one(&mut connection)
        .await
        .unwrap();
        if open == 0 {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "{open} transactions are open");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn workers_that_stopped_long_ago_are_forgotten_and_others_are_not() {
    let store = store().await;
    let (gone, alive) = (worker(&store).await, worker(&store).await);
    store.stop_worker(gone).await.unwrap();
    assert_eq!(store.delete_stopped_workers(Duration::from_secs(60)).await.unwrap(), 0, "too young");
    assert_eq!(store.delete_stopped_workers(Duration::ZERO).await.unwrap(), 1);
    assert_eq!(store.workers(true).await.unwrap().iter().map(|w| w.id).collect::<Vec<_>>(), [alive]);
}
