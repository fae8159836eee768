//! The store's promises, against a real PostgreSQL.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use job_runner::Lease;
use job_store::batches::add_jobs::{Extension, NewJob};
use job_store::batches::chains::ChainSettings;
use job_store::batches::insert::{Existing, InsertedBatch, NewBatch};
use job_store::duties::death_watch::DeathWatch;
use job_store::leases::fail::{AttemptFailure, FailureKind};
use job_store::leases::keeper::LeaseKeeper;
use job_store::leases::pick::PickFilter;
use job_store::leases::workers::NewWorker;
use job_store::model::retry_policy::RetryPolicy;
use job_store::model::rows::LeasedJob;
use job_store::operator::mode::Mode;
use job_store::operator::pause::Pausable;
use job_store::operator::set_batch::BatchSettings;
use job_store::{JobStore, StoreError};
use proving_model::{
    AggregationRound, ArtifactRef, BatchId, BatchStatus, CircuitId, Deadline, HeadOfChain, JobKey, JobStatus,
    MemoryClass, ProtocolVersion, Stage,
};
use sqlx::PgConnection;
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};
use test_support::{VERSION, artifact, new_worker, store, store_and_url};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

const BATCH: BatchId = BatchId { chain_id: 1, number: 5 };
const LEASE: Duration = Duration::from_secs(60);

async fn worker(store: &JobStore) -> Uuid {
    store.register_worker(&new_worker(), LEASE).await.unwrap()
}

fn filter(stage: Stage, memory_classes: &[MemoryClass]) -> PickFilter {
    PickFilter {
        stage,
        rounds: AggregationRound::ALL.to_vec(),
        memory_classes: memory_classes.to_vec(),
        version: VERSION,
    }
}

async fn pick(store: &JobStore, stage: Stage, want: usize) -> Vec<LeasedJob> {
    let by = worker(store).await;
    store.pick(&filter(stage, &[MemoryClass::Heavy, MemoryClass::Light]), want, by).await.unwrap()
}

async fn insert(store: &JobStore) -> InsertedBatch {
    let batch = NewBatch::new(BATCH, VERSION, artifact("input"));
    store.insert_batch(&batch).await.unwrap()
}

fn key(round: AggregationRound, stage: Stage, sequence: i32) -> JobKey {
    JobKey { round, stage, circuit_id: CircuitId(1), depth: 0, sequence }
}

fn basic(sequence: i32) -> JobKey {
    key(AggregationRound::BasicCircuits, Stage::CircuitProof, sequence)
}

fn leaf() -> JobKey {
    key(AggregationRound::LeafAggregation, Stage::WitnessGeneration, 0)
}

/// Basic circuits, and a leaf over them.
fn extension(circuits: i32) -> Extension {
    let mut extension = Extension::default();
    for i in 0..circuits {
        extension.jobs.push(NewJob {
            key: basic(i),
            memory_class: if i % 2 == 0 { MemoryClass::Light } else { MemoryClass::Heavy },
            expected_cost_ms: i64::from(i),
            peak_memory_bytes: 0,
            input: Some(artifact(&format!("circuit {i}"))),
        });
        extension.links.push((basic(i), leaf()));
    }
    let leaf = NewJob {
        key: leaf(),
        memory_class: MemoryClass::Light,
        expected_cost_ms: 0,
        peak_memory_bytes: 0,
        input: None,
    };
    extension.jobs.push(leaf);
    extension
}

/// A batch whose generator has inserted its circuits; returns the generator's job.
async fn extended(store: &JobStore, circuits: i32) -> LeasedJob {
    insert(store).await;
    let generator = pick(store, Stage::WitnessGeneration, 1).await.remove(0);
    store.extend_batch(&generator, &extension(circuits)).await.unwrap();
    generator
}

#[tokio::test]
async fn a_batch_is_inserted_once_and_another_input_is_a_conflict() {
    let store = store().await;
    assert_eq!(insert(&store).await, InsertedBatch::New);
    assert_eq!(insert(&store).await, InsertedBatch::AlreadyThere);
    let mut other = artifact("input");
    other.checksum = [8; 32];
    let batch = NewBatch::new(BATCH, VERSION, other);
    assert!(matches!(store.insert_batch(&batch).await, Err(StoreError::Conflict(_))));
    assert_eq!(pick(&store, Stage::WitnessGeneration, 9).await.len(), 1);
    assert!(pick(&store, Stage::WitnessGeneration, 9).await.is_empty(), "leased twice");
}

/// How many positions were given out.
async fn positions(connection: &mut PgConnection) -> i64 {
    let sql = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM batches_position_seq";
    sqlx::query_scalar(sql).fetch_one(connection).await.unwrap()
}

#[tokio::test]
async fn an_insertion_that_changes_nothing_uses_up_no_position() {
    let (store, url) = store_and_url().await;
    let mut connection = url.connect().await.unwrap();
    for _ in 0..3 {
        insert(&store).await;
    }
    let id = BatchId { chain_id: 9, number: 9 };
    let new = || NewBatch::new(id, VERSION, artifact("input"));
    let other_input = NewBatch::new(BATCH, VERSION, ArtifactRef { checksum: [8; 32], ..artifact("input") });
    let unknown = ProtocolVersion { minor: 9, patch: 9 };
    for refused in [other_input, NewBatch { version: unknown, ..new() }] {
        let error = store.insert_batch(&refused).await.unwrap_err();
        assert!(!error.is_transient(), "{error}");
    }
    assert_eq!(positions(&mut connection).await, 1);
    assert!(store.batch(id).await.unwrap().is_none());
}

#[tokio::test]
async fn a_database_without_a_position_left_refuses_batches_for_good() {
    let (store, url) = store_and_url().await;
    let mut connection = url.connect().await.unwrap();
    let last = (1_i64 << 26) - 1;
    let restart = format!("ALTER TABLE batches ALTER position RESTART WITH {last}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(restart)).execute(&mut connection).await.unwrap();
    insert(&store).await;
    let job = pick(&store, Stage::WitnessGeneration, 1).await.remove(0);
    assert!(job.id > 0 && job.batch == BATCH, "{job:?}");
    assert!(store.vitals().await.unwrap().positions_used >= 1.0);
    let next = NewBatch::new(BatchId { chain_id: 9, number: 9 }, VERSION, artifact("input"));
    for _ in 0..2 {
        let error = store.insert_batch(&next).await.unwrap_err();
        assert!(!error.is_transient() && error.to_string().contains("another database"), "{error}");
    }
    // Whoever goes past the sequence meets the CHECK.
    let beyond = "INSERT INTO batches (chain_id, number, position, protocol_minor, protocol_patch, input_key,
                                       input_checksum, input_size_bytes, start_tag) OVERRIDING SYSTEM VALUE
                  SELECT chain_id, number + 1, position + 1, protocol_minor, protocol_patch, input_key,
                         input_checksum, input_size_bytes, start_tag FROM batches";
    let error = sqlx::raw_sql(beyond).execute(&mut connection).await.unwrap_err().to_string();
    assert!(error.contains("position_fits_a_jobs_id"), "{error}");
}

#[tokio::test]
async fn any_error_text_can_be_booked() {
    let (store, url) = store_and_url().await;
    let mut connection = url.connect().await.unwrap();
    let generator = extended(&store, 9).await;
    store.complete(&generator, None).await.unwrap();
    let hostile = [
        "a NUL: \0 and \x1b[31m colours".to_owned(),
        String::from_utf8_lossy(b"broken \xff\xfe UTF-8").into_owned(),
        "x".repeat(10 << 20),
        "\0".repeat(10 << 20),
    ];
    let quarantined = pick(&store, Stage::CircuitProof, 1).await.remove(0);
    store.quarantine_job(quarantined.id, &hostile[0], Mode::Apply).await.unwrap();
    for text in &hostile {
        let job = pick(&store, Stage::CircuitProof, 1).await.remove(0);
        store.release_because(&job, Duration::ZERO, Some(text)).await.unwrap();
    }
    for (kind, text) in [(FailureKind::Retryable, 2), (FailureKind::TimedOut, 1), (FailureKind::Fatal, 3)] {
        let job = pick(&store, Stage::CircuitProof, 1).await.remove(0);
        store.fail(&job, &AttemptFailure { kind, error: hostile[text].clone() }).await.unwrap();
    }
    let job = pick(&store, Stage::CircuitProof, 1).await.remove(0);
    let lost = [job.input.clone().unwrap().key];
    store.lose_inputs(&job, &lost, &hostile[3]).await.unwrap();
    let longest: i64 = sqlx::query_scalar(
        "SELECT max(octet_length(error))::int8 FROM (
             SELECT error FROM jobs UNION ALL SELECT error FROM batches UNION ALL SELECT error FROM job_attempts) t",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    assert!((1..=64 << 10).contains(&longest), "{longest}");
    let named = NewWorker { host: "bad\0host".to_owned(), component: "x".repeat(1 << 20), ..new_worker() };
    store.register_worker(&named, LEASE).await.unwrap();
}

/// Rows that nothing of the program writes hide no others.
#[tokio::test]
async fn a_row_that_makes_no_sense_is_skipped_counted_and_harms_no_other() {
    let (store, url) = store_and_url().await;
    let mut connection = url.connect().await.unwrap();
    extended(&store, 6).await;
    let (died, failed) = {
        let mut jobs = pick(&store, Stage::CircuitProof, 2).await;
        (jobs.remove(0), jobs.remove(0))
    };
    let failure = AttemptFailure { kind: FailureKind::Retryable, error: "it broke".to_owned() };
    store.fail(&failed, &failure).await.unwrap();
    // Copies of a good row with an id whose stage is none, and with the position of no batch; an attempt of no job.
    let no_stage = (1_i64 << 37) | (15 << 33);
    let copy = |id: i64, status: &str| {
        format!(
            "INSERT INTO jobs SELECT (jsonb_populate_record(j, jsonb_build_object(
                 'id', {id}, 'status', '{status}', 'worker_id', {worker}, 'lease_token', {token}))).*
             FROM jobs j WHERE id = {from};",
            worker =
                if status == "in_progress" { format!("'{}'::uuid", died.worker) } else { "NULL".to_owned() },
            token = if status == "in_progress" { "gen_random_uuid()" } else { "NULL" },
            from = died.id,
        )
    };
    let sql = format!(
        "{} {} {}
         INSERT INTO job_attempts (job_id, attempt, worker_id, lease_token, started_at, finished_at, outcome, error)
         SELECT id, 1, gen_random_uuid(), gen_random_uuid(), now(), now(), 'failed', 'unreadable'
         FROM UNNEST('{{-1,{no_stage}}}'::int8[]) AS id;
         UPDATE workers SET expires_at = now() - interval '1 s' WHERE id = '{}'",
        copy(no_stage, "queued"),
        copy(died.id + (1 << 40), "queued"),
        copy(died.id + (1 << 40) + 1, "in_progress"),
        died.worker
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();

    let overview = store.overview().await.unwrap();
    let troubles: Vec<&str> = overview.troubles.iter().filter_map(|t| t.error.as_deref()).collect();
    assert_eq!(troubles, ["it broke"], "the attempts of no job are skipped, and the others are there");
    store.batch_report(BATCH).await.unwrap();
    store.vitals().await.unwrap();
    let demand = store.demand().await.unwrap();
    let of_proofs = demand.iter().filter(|kind| kind.stage == "circuit_proof");
    assert_eq!(of_proofs.map(|kind| kind.queued + kind.in_progress + kind.failed).sum::<i64>(), 6);
    let rescued = store.rescue_expired(Duration::MAX).await.unwrap();
    assert_eq!(rescued.iter().map(|r| r.job_id).collect::<Vec<_>>(), [died.id], "the good one is rescued");
    let mut picked = Vec::new();
    while let Some(job) = pick(&store, Stage::CircuitProof, 1).await.pop() {
        picked.push(job.id);
    }
    assert!(picked.contains(&died.id) && picked.len() == 5, "{picked:?}");
    let given_up: Vec<(i64, String)> =
        sqlx::query_as("SELECT id, error FROM jobs WHERE status = 'failed' ORDER BY id")
            .fetch_all(&mut connection)
            .await
            .unwrap();
    assert_eq!(given_up.len(), 2, "no picker looks for what has no stage: {given_up:?}");
    assert!(given_up.iter().all(|(_, error)| error.contains("cannot be read")), "{given_up:?}");
    let why = store.why(no_stage).await.unwrap_err();
    assert!(matches!(why, StoreError::Schema(_)), "{why}");
}

#[tokio::test]
async fn the_last_proof_unlocks_the_leaf_and_predecessors_come_in_order() {
    let store = store().await;
    extended(&store, 4).await;
    let mut jobs = pick(&store, Stage::CircuitProof, 9).await;
    assert_eq!(jobs.len(), 4);
    jobs.reverse();
    for job in &jobs {
        assert!(pick(&store, Stage::WitnessGeneration, 1).await.is_empty(), "unlocked too early");
        store.complete(job, Some(&artifact(&format!("proof {}", job.key.sequence)))).await.unwrap();
    }
    let leaf = pick(&store, Stage::WitnessGeneration, 9).await.remove(0);
    assert_eq!(leaf.key, self::leaf());
    let proofs: Vec<String> =
        store.predecessors(&leaf).await.unwrap().into_iter().map(|p| p.output.key).collect();
    assert_eq!(proofs, ["proof 0", "proof 1", "proof 2", "proof 3"]);
}

#[tokio::test]
async fn a_child_that_completes_before_it_is_linked_is_counted_once() {
    let store = store().await;
    insert(&store).await;
    let generator = pick(&store, Stage::WitnessGeneration, 1).await.remove(0);
    let mut first = extension(3);
    let (group, links) = (first.jobs.pop().unwrap(), std::mem::take(&mut first.links));
    store.extend_batch(&generator, &first).await.unwrap();
    let jobs = pick(&store, Stage::CircuitProof, 2).await;
    for job in &jobs {
        store.complete(job, Some(&artifact("proof"))).await.unwrap();
    }
    store.extend_batch(&generator, &Extension { jobs: vec![group], links }).await.unwrap();
    assert!(pick(&store, Stage::WitnessGeneration, 1).await.is_empty(), "one proof is missing");
    let last = pick(&store, Stage::CircuitProof, 2).await.remove(0);
    store.complete(&last, Some(&artifact("proof"))).await.unwrap();
    assert_eq!(pick(&store, Stage::WitnessGeneration, 1).await.len(), 1);
}

#[tokio::test]
async fn a_second_attempt_of_the_generator_adds_nothing_twice() {
    let store = store().await;
    let generator = extended(&store, 3).await;
    store.release(&generator, Duration::ZERO).await.unwrap();
    let again = pick(&store, Stage::WitnessGeneration, 1).await.remove(0);
    assert_eq!((again.id, again.attempt), (generator.id, 2));
    store.extend_batch(&again, &extension(3)).await.unwrap();
    assert_eq!(pick(&store, Stage::CircuitProof, 99).await.len(), 3);
}

#[tokio::test]
async fn every_write_without_the_lease_is_refused_and_changes_nothing() {
    let store = store().await;
    let generator = extended(&store, 1).await;
    let job = pick(&store, Stage::CircuitProof, 1).await.remove(0);
    for stale in
        [LeasedJob { token: Uuid::new_v4(), ..job.clone() }, LeasedJob { id: 999_999, ..job.clone() }]
    {
        let failure = AttemptFailure { kind: FailureKind::Fatal, error: "x".into() };
        let results = [
            store.complete(&stale, Some(&artifact("forged"))).await,
            store.fail(&stale, &failure).await.map(drop),
            store.release(&stale, Duration::ZERO).await,
            store.lose_inputs(&stale, &["circuit 0".into()], "x").await.map(drop),
        ];
        for result in results {
            assert!(matches!(result, Err(StoreError::LeaseLost { .. })), "{result:?}");
        }
    }
    let stale = LeasedJob { token: Uuid::new_v4(), ..generator };
    let result = store.extend_batch(&stale, &extension(9)).await;
    assert!(matches!(result, Err(StoreError::LeaseLost { .. })));
    assert!(pick(&store, Stage::CircuitProof, 9).await.is_empty(), "the refused extension added jobs");
    store.complete(&job, Some(&artifact("proof"))).await.unwrap();
    // Who lost the answer asks again and hears the same; nothing happens twice.
    store.complete(&job, Some(&artifact("proof"))).await.unwrap();
    assert_eq!(store.batch_report(BATCH).await.unwrap().attempts, 2, "the generator's and the proof's");
    let other = LeasedJob { token: Uuid::new_v4(), ..job };
    let result = store.complete(&other, Some(&artifact("proof"))).await;
    assert!(matches!(result, Err(StoreError::LeaseLost { .. })), "completed by two");
}

#[tokio::test]
async fn an_expired_lease_is_rescued_fenced_and_charged_as_a_death() {
    let policy = RetryPolicy { worker_deaths_max: 2, ..RetryPolicy::default() };
    let store = store().await.with_retry_policy(policy);
    insert(&store).await;
    for deaths in 1..=2 {
        let by = store.register_worker(&new_worker(), Duration::from_millis(300)).await.unwrap();
        let all = filter(Stage::WitnessGeneration, &[MemoryClass::Light]);
        let job = store.pick(&all, 1, by).await.unwrap().remove(0);
        assert!(store.rescue_expired(Duration::MAX).await.unwrap().is_empty(), "rescued before its time");
        tokio::time::sleep(Duration::from_millis(400)).await;
        let rescued = store.rescue_expired(Duration::MAX).await.unwrap();
        assert_eq!((rescued.len(), rescued[0].worker_deaths), (1, deaths));
        let late = store.complete(&job, None).await;
        assert!(matches!(late, Err(StoreError::LeaseLost { .. })), "a dead worker's write took effect");
        let expected = if deaths < 2 { JobStatus::Queued } else { JobStatus::Failed };
        assert_eq!(rescued[0].status, expected);
    }
    let report = store.batch_report(BATCH).await.unwrap();
    assert_eq!((report.batch.status, report.worker_deaths), (BatchStatus::Failed, 2));
    assert!(report.batch.error.unwrap().contains("quarantined"));
    assert_eq!(store.requeue_failed(BATCH, Mode::Apply).await.unwrap().jobs, 1);
    assert_eq!(pick(&store, Stage::WitnessGeneration, 1).await.len(), 1);
}

/// A job held by a worker whose keeper lives.
async fn kept_job(store: &JobStore, interval: Duration, lease: Duration) -> (LeaseKeeper, Lease, LeasedJob) {
    let keeper = LeaseKeeper::start(store, &new_worker(), interval, lease).await.unwrap();
    let asked = Instant::now();
    let all = filter(Stage::WitnessGeneration, &[MemoryClass::Light]);
    let job = store.pick(&all, 1, keeper.worker()).await.unwrap().remove(0);
    let lease = Lease::new();
    keeper.hold(&job, &lease, asked);
    (keeper.clone(), lease, job)
}

/// Watches until the test is done.
fn watch(store: &JobStore) -> (mpsc::UnboundedReceiver<i64>, DropGuard) {
    let (told, rescued) = mpsc::unbounded_channel();
    let (watch, end) = (DeathWatch::new(store), CancellationToken::new());
    let shutdown = end.clone();
    tokio::spawn(async move {
        let tell = |jobs: &[job_store::duties::rescue::Rescued]| {
            for job in jobs {
                let _ = told.send(job.job_id);
            }
        };
        watch.run(tell, &shutdown).await;
    });
    (rescued, end.drop_guard())
}

#[tokio::test]
async fn the_end_of_a_workers_connection_is_its_death_and_seen_at_once() {
    let store = store().await;
    insert(&store).await;
    let (keeper, lease, job) = kept_job(&store, Duration::from_secs(1_000), Duration::from_secs(3_000)).await;
    let (mut rescued, _watching) = watch(&store);
    // Until it is watched: long before the lease could expire.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(rescued.try_recv().is_err(), "rescued while its worker lives");
    assert!(!lease.is_lost());
    drop(keeper);
    let found = tokio::time::timeout(Duration::from_secs(10), rescued.recv()).await;
    assert_eq!(found.expect("long before the lease expires"), Some(job.id));
    let late = store.complete(&job, None).await;
    assert!(matches!(late, Err(StoreError::LeaseLost { .. })), "a dead worker's write took effect");
}

#[tokio::test]
async fn a_worker_whose_backend_was_never_seen_is_not_given_up() {
    let store = store().await;
    insert(&store).await;
    // Registered, and without a connection of its own, as after the server's restart.
    let by = worker(&store).await;
    let all = filter(Stage::WitnessGeneration, &[MemoryClass::Light]);
    let job = store.pick(&all, 1, by).await.unwrap().remove(0);
    let (mut rescued, _watching) = watch(&store);
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(rescued.try_recv().is_err(), "given up for dead without a sign");
    store.complete(&job, None).await.unwrap();
}

#[tokio::test]
async fn a_worker_that_was_given_up_gets_no_jobs_until_its_next_heartbeat_and_hears_of_its_loss() {
    let store = store().await;
    insert(&store).await;
    let (keeper, lease, job) = kept_job(&store, Duration::from_millis(700), Duration::from_secs(10)).await;
    // Somebody says so; the server says that its connection is there.
    assert!(!store.give_up_worker(keeper.worker()).await.unwrap(), "a worker that lives was given up");
    store.stop_worker(keeper.worker()).await.unwrap();
    assert_eq!(store.rescue_expired(Duration::MAX).await.unwrap().len(), 1);
    let all = filter(Stage::WitnessGeneration, &[MemoryClass::Light]);
    assert!(store.pick(&all, 1, keeper.worker()).await.unwrap().is_empty(), "picked by the dead");
    tokio::time::timeout(Duration::from_secs(10), lease.lost()).await.expect("the next heartbeat tells");
    assert!(matches!(store.complete(&job, None).await, Err(StoreError::LeaseLost { .. })));
    assert_eq!(store.pick(&all, 1, keeper.worker()).await.unwrap().len(), 1, "it lives again");
}

#[tokio::test]
async fn completions_that_share_a_transaction_are_fenced_one_by_one() {
    let store = store().await;
    extended(&store, 40).await;
    let jobs = pick(&store, Stage::CircuitProof, 99).await;
    assert_eq!(jobs.len(), 40);
    // Half of them with a token that is not theirs, all at once; and each of the good ones twice.
    let completions = jobs.iter().flat_map(|job| {
        let is_stale = job.key.sequence % 2 == 0;
        let token = if is_stale { Uuid::new_v4() } else { job.token };
        let job = LeasedJob { token, ..job.clone() };
        let store = store.clone();
        std::iter::repeat_n((is_stale, job), 2).map(move |(is_stale, job)| {
            let store = store.clone();
            async move { (is_stale, store.complete(&job, Some(&artifact("proof"))).await) }
        })
    });
    for (is_stale, result) in futures::future::join_all(completions).await {
        match result {
            Ok(()) => assert!(!is_stale, "completed without the lease"),
            Err(StoreError::LeaseLost { .. }) => assert!(is_stale, "refused with the lease"),
            Err(e) => panic!("{e}"),
        }
    }
    let report = store.batch_report(BATCH).await.unwrap();
    let successful: i64 = report.counts.iter().filter(|c| c.status == "successful").map(|c| c.count).sum();
    assert_eq!(successful, 20);
    assert!(pick(&store, Stage::WitnessGeneration, 1).await.is_empty(), "twenty proofs are missing");
}

#[tokio::test]
async fn failures_are_charged_exactly_and_a_release_is_free() {
    let policy = RetryPolicy { failures_max: 2, backoff_first: Duration::ZERO, ..RetryPolicy::default() };
    let store = store().await.with_retry_policy(policy);
    insert(&store).await;
    let failure = AttemptFailure { kind: FailureKind::Retryable, error: "no memory".into() };
    for _ in 0..5 {
        let job = pick(&store, Stage::WitnessGeneration, 1).await.remove(0);
        store.release(&job, Duration::ZERO).await.unwrap();
    }
    let job = pick(&store, Stage::WitnessGeneration, 1).await.remove(0);
    assert_eq!(store.fail(&job, &failure).await.unwrap(), JobStatus::Queued);
    let job = pick(&store, Stage::WitnessGeneration, 1).await.remove(0);
    assert_eq!((job.attempt, store.fail(&job, &failure).await.unwrap()), (7, JobStatus::Failed));
    let report = store.batch_report(BATCH).await.unwrap();
    assert_eq!((report.attempts, report.failed_attempts), (7, 2));
    assert!(report.batch.error.unwrap().contains("no memory"));
}

#[tokio::test]
async fn a_failed_job_rests_before_it_is_picked_again() {
    let store = store().await;
    insert(&store).await;
    let job = pick(&store, Stage::WitnessGeneration, 1).await.remove(0);
    let failure = AttemptFailure { kind: FailureKind::Retryable, error: "x".into() };
    store.fail(&job, &failure).await.unwrap();
    assert!(pick(&store, Stage::WitnessGeneration, 1).await.is_empty());
}

#[tokio::test]
async fn a_light_runner_never_takes_a_heavy_job_and_a_heavy_one_prefers_it() {
    let store = store().await;
    extended(&store, 4).await;
    let by = worker(&store).await;
    let light = filter(Stage::CircuitProof, &[MemoryClass::Light]);
    let heavy = filter(Stage::CircuitProof, &[MemoryClass::Heavy, MemoryClass::Light]);
    let taken = store.pick(&heavy, 3, by).await.unwrap();
    let sequences: Vec<i32> = taken.iter().map(|job| job.key.sequence).collect();
    assert_eq!(sequences, [3, 1, 2], "heavy first, each class the longest first");
    let taken = store.pick(&light, 9, by).await.unwrap();
    assert!(taken.iter().all(|job| job.memory_class == MemoryClass::Light) && taken.len() == 1);
}

#[tokio::test]
async fn lost_proofs_and_lost_circuits_are_made_again() {
    let store = store().await;
    let generator = extended(&store, 2).await;
    store.complete(&generator, None).await.unwrap();
    // The first circuit's artifact is lost: the generator runs again and gives it back.
    let jobs = pick(&store, Stage::CircuitProof, 2).await;
    let lost = jobs.iter().find(|job| job.key.sequence == 0).unwrap();
    let other = jobs.iter().find(|job| job.key.sequence == 1).unwrap();
    assert_eq!(store.lose_inputs(lost, &["circuit 0".into()], "flipped").await.unwrap(), 1);
    store.complete(other, Some(&artifact("proof 1"))).await.unwrap();
    assert!(pick(&store, Stage::CircuitProof, 9).await.is_empty());
    let generator = pick(&store, Stage::WitnessGeneration, 9).await.remove(0);
    store.extend_batch(&generator, &extension(2)).await.unwrap();
    store.complete(&generator, None).await.unwrap();
    let again = pick(&store, Stage::CircuitProof, 9).await.remove(0);
    store.complete(&again, Some(&artifact("proof 0"))).await.unwrap();
    // The leaf finds one proof missing: that one alone is proven again.
    let leaf = pick(&store, Stage::WitnessGeneration, 9).await.remove(0);
    assert_eq!(store.lose_inputs(&leaf, &["proof 1".into()], "gone").await.unwrap(), 1);
    assert!(pick(&store, Stage::WitnessGeneration, 9).await.is_empty());
    let again = pick(&store, Stage::CircuitProof, 9).await;
    assert_eq!((again.len(), again[0].key.sequence), (1, 1));
    store.complete(&again[0], Some(&artifact("proof 1 again"))).await.unwrap();
    let leaf = pick(&store, Stage::WitnessGeneration, 9).await.remove(0);
    assert_eq!(store.predecessors(&leaf).await.unwrap()[1].output.key, "proof 1 again");
    let nobody = store.lose_inputs(&leaf, &["proof of nobody".into()], "gone").await;
    assert!(matches!(nobody, Err(StoreError::Invalid(_))));
}

#[tokio::test]
async fn another_schema_and_other_keys_are_refused_with_what_to_do() {
    let url = test_support::empty_database().await;
    let store = JobStore::connect(&url).await.unwrap();
    let error = store.check_schema().await.unwrap_err().to_string();
    assert!(error.contains("prover database migrate"), "{error}");
    store.migrate().await.unwrap();
    store.check_schema().await.unwrap();
    let unknown = store.check_protocol_version(VERSION, "mock", "digest").await.unwrap_err();
    assert!(matches!(unknown, StoreError::Invalid(_)), "{unknown}");
    store.insert_protocol_version(VERSION, "mock", "digest").await.unwrap();
    let other = store.insert_protocol_version(VERSION, "mock", "another").await.unwrap_err();
    assert!(matches!(other, StoreError::Conflict(_)), "{other}");
}

/// Inserts a batch.
async fn insert_of(store: &JobStore, chain_id: u32, number: u32) {
    let id = BatchId { chain_id, number };
    store.insert_batch(&NewBatch::new(id, VERSION, artifact("input"))).await.unwrap();
}

/// The batches that are started next, as (chain, number).
async fn starts(store: &JobStore, want: usize) -> Vec<(u32, u32)> {
    pick(store, Stage::WitnessGeneration, want)
        .await
        .iter()
        .map(|job| (job.batch.chain_id, job.batch.number))
        .collect()
}

#[tokio::test]
async fn a_chain_that_queues_much_leaves_others_their_turn() {
    let store = store().await;
    for number in 0..4 {
        insert_of(&store, 1, number).await;
    }
    for number in 0..2 {
        insert_of(&store, 2, number).await;
    }
    assert_eq!(starts(&store, 3).await, [(1, 0), (2, 0), (1, 1)]);
    // Who comes late starts with those of now, and has saved nothing up.
    for number in 0..3 {
        insert_of(&store, 3, number).await;
    }
    assert_eq!(starts(&store, 9).await, [(2, 1), (3, 0), (1, 2), (3, 1), (1, 3), (3, 2)]);
}

#[tokio::test]
async fn a_chain_with_twice_the_share_gets_twice_the_turns() {
    let store = store().await;
    let twice = ChainSettings { share: Some(2), ..ChainSettings::default() };
    store.set_chain(2, twice).await.unwrap();
    for number in 0..4 {
        insert_of(&store, 1, number).await;
        insert_of(&store, 2, number).await;
    }
    let chains: Vec<u32> = starts(&store, 8).await.into_iter().map(|(chain, _)| chain).collect();
    assert_eq!(chains, [1, 2, 2, 1, 2, 2, 1, 1]);
    for share in [0, 1_001] {
        let settings = ChainSettings { share: Some(share), ..ChainSettings::default() };
        assert!(matches!(store.set_chain(2, settings).await, Err(StoreError::Invalid(_))));
    }
}

#[tokio::test]
async fn within_a_chain_the_earlier_batch_comes_first_though_it_was_inserted_later() {
    let store = store().await;
    for number in [7, 3, 5] {
        insert_of(&store, 1, number).await;
    }
    assert_eq!(starts(&store, 1).await, [(1, 3)]);
    insert_of(&store, 1, 2).await;
    assert_eq!(starts(&store, 9).await, [(1, 2), (1, 5), (1, 7)]);
}

#[tokio::test]
async fn a_strict_chain_waits_for_each_proof_and_for_a_failed_batch_until_it_is_requeued() {
    let store = store().await;
    let order = |head_of_chain| ChainSettings { head_of_chain: Some(head_of_chain), share: None };
    store.set_chain(1, order(HeadOfChain::Strict)).await.unwrap();
    for number in 1..=3 {
        insert_of(&store, 1, number).await;
    }
    insert_of(&store, 2, 9).await;
    let generators = pick(&store, Stage::WitnessGeneration, 9).await;
    assert_eq!(generators.len(), 2, "one of each chain");
    let first = generators.iter().find(|job| job.batch.chain_id == 1).unwrap();
    // It fails for good, and holds the chain.
    let failure = AttemptFailure { kind: FailureKind::Fatal, error: "x".into() };
    store.fail(first, &failure).await.unwrap();
    assert!(starts(&store, 9).await.is_empty());
    store.requeue_failed(first.batch, Mode::Apply).await.unwrap();
    let first = pick(&store, Stage::WitnessGeneration, 9).await.remove(0);
    // Its proof releases the next, and that one alone.
    let compression = key(AggregationRound::Scheduler, Stage::Compression, 0);
    let compression = JobKey { circuit_id: CircuitId(0), ..compression };
    let job = |key, input| NewJob {
        key,
        memory_class: MemoryClass::Light,
        expected_cost_ms: 0,
        peak_memory_bytes: 0,
        input,
    };
    let extension = Extension {
        jobs: vec![job(basic(0), Some(artifact("circuit"))), job(compression, None)],
        links: vec![(basic(0), compression)],
    };
    store.extend_batch(&first, &extension).await.unwrap();
    store.complete(&first, None).await.unwrap();
    let proof = pick(&store, Stage::CircuitProof, 1).await.remove(0);
    store.complete(&proof, Some(&artifact("proof"))).await.unwrap();
    assert!(starts(&store, 9).await.is_empty());
    let last = pick(&store, Stage::Compression, 1).await.remove(0);
    store.complete(&last, Some(&artifact("final proof"))).await.unwrap();
    assert_eq!(starts(&store, 9).await, [(1, 2)]);
    // No longer strict, it waits for nothing.
    store.set_chain(1, order(HeadOfChain::Preferred)).await.unwrap();
    assert_eq!(starts(&store, 9).await, [(1, 3)]);
}

#[tokio::test]
async fn priority_goes_before_deadline_and_deadline_before_arrival() {
    let store = store().await;
    let batches = [
        (1, 0, None),
        (2, 0, Some("2031-01-01T00:00:00Z")),
        (3, 0, Some("2030-01-01T00:00:00Z")),
        (4, 1, None),
    ];
    for (chain_id, priority, deadline) in batches {
        let id = BatchId { chain_id, number: 0 };
        let deadline = deadline.map(|deadline: &str| deadline.parse().unwrap());
        let batch = NewBatch { priority, deadline, ..NewBatch::new(id, VERSION, artifact("input")) };
        store.insert_batch(&batch).await.unwrap();
    }
    let chains: Vec<u32> = starts(&store, 9).await.into_iter().map(|(chain, _)| chain).collect();
    assert_eq!(chains, [4, 3, 2, 1]);
}

#[tokio::test]
async fn a_batch_that_is_set_and_its_jobs_take_their_turn_by_the_new_settings() {
    let (store, url) = store_and_url().await;
    extended(&store, 3).await;
    let id = BatchId { chain_id: 7, number: 1 };
    store.insert_batch(&NewBatch::new(id, VERSION, artifact("input"))).await.unwrap();
    let deadline: Deadline = "2031-01-01T00:00:00Z".parse().unwrap();
    let sooner = BatchSettings { priority: Some(-5), deadline: Some(Some(deadline)) };
    let dry = store.set_batch(BATCH, sooner, Mode::DryRun).await.unwrap();
    assert_eq!(store.batch(BATCH).await.unwrap().unwrap().priority, 0, "a dry run changed it");
    let set = store.set_batch(BATCH, sooner, Mode::Apply).await.unwrap();
    assert_eq!((set.priority, set.deadline.as_deref()), (-5, Some("2031-01-01T00:00:00Z")));
    assert_eq!(set, dry);
    let found = store.batch(BATCH).await.unwrap().unwrap();
    assert_eq!((found.priority, found.deadline.as_deref()), (-5, Some("2031-01-01T00:00:00Z")));
    let rows =
        "SELECT DISTINCT priority, deadline = '2031-01-01T00:00:00Z' FROM prover_jobs WHERE chain_id = 1";
    let rows: Vec<(i32, bool)> =
        sqlx::query_as(rows).fetch_all(&mut url.connect().await.unwrap()).await.unwrap();
    assert_eq!(rows, [(-5, true)]);
    // The deadline alone; the priority stays.
    let set = store
        .set_batch(BATCH, BatchSettings { deadline: Some(None), ..BatchSettings::default() }, Mode::Apply)
        .await
        .unwrap();
    assert_eq!((set.priority, set.deadline), (-5, None));
    let again = NewBatch::new(id, VERSION, artifact("input"));
    assert_eq!(store.insert_batch(&again).await.unwrap(), InsertedBatch::AlreadyThere);
    let other = NewBatch { priority: 3, ..again.clone() };
    assert_eq!(store.insert_batch(&other).await.unwrap(), InsertedBatch::OtherSettings);
    let other = NewBatch { deadline: Some(deadline), ..again };
    assert_eq!(store.insert_batch(&other).await.unwrap(), InsertedBatch::OtherSettings);
    store
        .set_batch(
            id,
            BatchSettings { deadline: Some(Some(deadline)), ..BatchSettings::default() },
            Mode::Apply,
        )
        .await
        .unwrap();
    assert_eq!(store.insert_batch(&other).await.unwrap(), InsertedBatch::AlreadyThere, "the same moment");
    store
        .set_batch(id, BatchSettings { deadline: Some(None), ..BatchSettings::default() }, Mode::Apply)
        .await
        .unwrap();
    assert_eq!(store.batch(id).await.unwrap().unwrap().priority, 0);
    store.cancel_batch(id, Mode::Apply).await.unwrap();
    assert!(matches!(store.set_batch(id, sooner, Mode::Apply).await, Err(StoreError::Invalid(_))));
}

/// Whoever changes a whole batch waits for a generator that is adding jobs to it, and sees them.
#[tokio::test]
async fn a_change_of_a_whole_batch_sees_the_jobs_that_a_generator_is_adding() {
    for replaces in [false, true] {
        let (store, url) = store_and_url().await;
        extended(&store, 2).await;
        let mut connection = url.connect().await.unwrap();
        if replaces {
            sqlx::query("UPDATE batches SET status = 'failed'").execute(&mut connection).await.unwrap();
        }
        // As `add_jobs` does, with a lock on the generator's row, which is the first.
        let adding = "BEGIN;
            SELECT FROM jobs WHERE id = (SELECT min(id) FROM jobs) FOR SHARE;
            INSERT INTO jobs SELECT (jsonb_populate_record(j, jsonb_build_object('id', j.id + 1))).*
            FROM jobs j WHERE id = (SELECT max(id) FROM jobs)";
        sqlx::raw_sql(adding).execute(&mut connection).await.unwrap();
        let changing = tokio::spawn({
            let store = store.clone();
            async move {
                if replaces {
                    let other = NewBatch::new(BATCH, VERSION, artifact("other"));
                    store.insert_or_replace(&other, Existing::Replace).await.map(drop)
                } else {
                    let urgent = BatchSettings { priority: Some(77), ..BatchSettings::default() };
                    store.set_batch(BATCH, urgent, Mode::Apply).await.map(drop)
                }
            }
        });
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!changing.is_finished(), "it waits for the generator");
        sqlx::raw_sql("COMMIT").execute(&mut connection).await.unwrap();
        changing.await.unwrap().unwrap();
        let (of_no_batch, of_old_priority): (i64, i64) = sqlx::query_as(
            "SELECT count(*) FILTER (WHERE b.position IS NULL), count(*) FILTER (WHERE j.priority <> 77)
             FROM jobs j LEFT JOIN batches b ON b.position = j.id >> 37",
        )
        .fetch_one(&mut connection)
        .await
        .unwrap();
        assert_eq!((of_no_batch, of_old_priority), (0, i64::from(replaces)), "{replaces}");
    }
}

#[tokio::test]
async fn a_batch_that_failed_or_was_cancelled_makes_place_for_another_input_and_no_other_does() {
    let (store, url) = store_and_url().await;
    extended(&store, 3).await;
    let other = NewBatch::new(BATCH, VERSION, ArtifactRef { checksum: [8; 32], ..artifact("other") });
    for existing in [Existing::Keep, Existing::Replace] {
        let refused = store.insert_or_replace(&other, existing).await.unwrap_err().to_string();
        assert!(refused.contains("in_progress; nothing was changed. `prover_cli cancel` it"), "{refused}");
    }
    let held = pick(&store, Stage::CircuitProof, 1).await.remove(0);
    store.cancel_batch(BATCH, Mode::Apply).await.unwrap();
    let refused = store.insert_batch(&other).await.unwrap_err().to_string();
    assert!(refused.contains("cancelled; nothing was changed. `insert-batch --replace`"), "{refused}");
    assert_eq!(store.insert_or_replace(&other, Existing::Replace).await.unwrap(), InsertedBatch::Replaced);
    let found = store.batch(BATCH).await.unwrap().unwrap();
    assert_eq!((found.status, found.input.checksum), (BatchStatus::Queued, [8; 32]));
    // Nothing of the old one is left, and whoever works on it has lost it.
    assert!(matches!(
        store.complete(&held, Some(&artifact("proof"))).await,
        Err(StoreError::LeaseLost { .. })
    ));
    let left: i64 =
        sqlx::query_scalar("SELECT count(*) FROM all_prover_jobs WHERE chain_id IS NULL OR chain_id = 1")
            .fetch_one(&mut url.connect().await.unwrap())
            .await
            .unwrap();
    assert_eq!(left, 1, "the new one's generator");
    assert_eq!(pick(&store, Stage::WitnessGeneration, 9).await.len(), 1);
    // A failed one too, with the same input.
    sqlx::query("UPDATE batches SET status = 'failed'")
        .execute(&mut url.connect().await.unwrap())
        .await
        .unwrap();
    assert_eq!(store.insert_or_replace(&other, Existing::Replace).await.unwrap(), InsertedBatch::Replaced);
    assert_eq!(store.batch(BATCH).await.unwrap().unwrap().status, BatchStatus::Queued);
}

#[tokio::test]
async fn a_worker_takes_jobs_of_its_own_version_alone() {
    let store = store().await;
    let (theirs, near) = (ProtocolVersion { minor: 29, patch: 13 }, ProtocolVersion { minor: 13, patch: 29 });
    for version in [theirs, near] {
        store.insert_protocol_version(version, "mock", "digest").await.unwrap();
    }
    let id = BatchId { chain_id: 1, number: 1 };
    store.insert_batch(&NewBatch::new(id, theirs, artifact("input"))).await.unwrap();
    let by = worker(&store).await;
    let of = |version| PickFilter { version, ..filter(Stage::WitnessGeneration, &[MemoryClass::Light]) };
    assert!(store.pick(&of(near), 9, by).await.unwrap().is_empty());
    assert!(store.pick(&of(VERSION), 9, by).await.unwrap().is_empty());
    assert_eq!(store.pick(&of(theirs), 9, by).await.unwrap().len(), 1);
}

/// The view for reports takes a job's id and queue apart as the store puts them together; the row itself says nothing twice.
#[tokio::test]
async fn the_view_of_jobs_says_what_was_inserted() {
    let (store, url) = store_and_url().await;
    insert(&store).await;
    let generator = pick(&store, Stage::WitnessGeneration, 1).await.remove(0);
    let mut expected = BTreeSet::from([(
        "witness_generation".to_owned(),
        0_i16,
        0_i16,
        0_i16,
        0_i32,
        "light".to_owned(),
        0_i64,
    )]);
    let mut extension = Extension::default();
    for stage in Stage::ALL {
        for round in AggregationRound::ALL {
            if *stage == Stage::Compression && round != AggregationRound::Scheduler {
                continue;
            }
            for (circuit, depth, sequence, class, cost) in
                [(1, 0, 3, MemoryClass::Light, 0), (255, 31, 1_048_575, MemoryClass::Heavy, 86_400_000)]
            {
                let key = JobKey { round, stage: *stage, circuit_id: CircuitId(circuit), depth, sequence };
                extension.jobs.push(NewJob {
                    key,
                    memory_class: class,
                    expected_cost_ms: cost,
                    peak_memory_bytes: 0,
                    input: Some(artifact("circuit")),
                });
                let words = (stage.as_str().to_owned(), class.as_str().to_owned());
                expected.insert((words.0, round.number(), circuit, depth, sequence, words.1, cost));
            }
        }
    }
    store.extend_batch(&generator, &extension).await.unwrap();
    let mut connection = url.connect().await.unwrap();
    // A paused chain's jobs stand in other queues.
    for is_paused in [false, true] {
        store.set_paused(Pausable::Chain(BATCH.chain_id), is_paused, Mode::Apply).await.unwrap();
        for view in ["prover_jobs", "all_prover_jobs"] {
            let sql = format!(
                "SELECT stage, aggregation_round, circuit_id, depth, sequence_number, memory_class, expected_cost_ms
                 FROM {view} WHERE chain_id = {} AND batch_number = {} AND protocol_minor = {}",
                BATCH.chain_id, BATCH.number, VERSION.minor
            );
            let found = sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_all(&mut connection).await.unwrap();
            assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected, "{view}");
        }
    }
}

/// Statements over many rows add to counters and subtract moments. What another hand wrote must not have them fail for all.
#[tokio::test]
async fn a_row_at_its_bounds_stops_nobody() {
    let (store, url) = store_and_url().await;
    extended(&store, 6).await;
    let mut connection = url.connect().await.unwrap();
    let refused = [
        "UPDATE jobs SET attempts = 2147483647",
        "UPDATE jobs SET queued_at = '-infinity'",
        "UPDATE workers SET heartbeat_at = 'infinity'",
        // No two moments are further apart than an interval can say.
        "UPDATE workers SET started_at = '4713-01-02 BC'",
        "UPDATE batches SET finished_at = '294276-12-31'",
        "UPDATE batches SET created_at = '-infinity'",
        "UPDATE batches SET start_tag = 9223372036854775807",
        "INSERT INTO deleted_batches VALUES (99999999999, 1)",
        "UPDATE jobs SET started_at = NULL WHERE status = 'in_progress'",
    ];
    for sql in refused {
        assert!(sqlx::raw_sql(sql).execute(&mut connection).await.is_err(), "{sql}");
    }
    let at_bounds =
        "UPDATE jobs SET attempts = 1000000000, worker_deaths = 4, failures = 2 WHERE status = 'queued';
                     UPDATE batches SET start_tag = 4611686018427387904, started_at = now()";
    sqlx::raw_sql(at_bounds).execute(&mut connection).await.unwrap();
    let mut jobs = pick(&store, Stage::CircuitProof, 3).await;
    assert_eq!(jobs.len(), 3, "they are picked");
    // An attempt of this number is in the log already.
    let logged = "INSERT INTO job_attempts SELECT id, attempts, worker_id, lease_token, now(), now(), 'released' FROM jobs
                  WHERE status = 'in_progress'";
    sqlx::raw_sql(logged).execute(&mut connection).await.unwrap();
    store.release(&jobs.remove(0), Duration::ZERO).await.unwrap();
    let failure = AttemptFailure { kind: FailureKind::Fatal, error: "it broke".to_owned() };
    store.fail(&jobs.remove(0), &failure).await.unwrap();
    let dead = jobs.remove(0);
    let expired = "UPDATE workers SET expires_at = now() - interval '1 s' WHERE id = $1";
    sqlx::query(expired).bind(dead.worker).execute(&mut connection).await.unwrap();
    assert_eq!(store.rescue_expired(Duration::MAX).await.unwrap().len(), 1);
    // Batches of all chains go on from the last virtual time there is.
    let other = NewBatch::new(BatchId { chain_id: 9, number: 1 }, VERSION, artifact("input"));
    assert_eq!(store.insert_batch(&other).await.unwrap(), InsertedBatch::New);
    store.overview().await.unwrap();
    store.demand().await.unwrap();
}

/// A successor whose count says less than it misses: its predecessors complete all the same, and so do their neighbours.
#[tokio::test]
async fn a_count_that_another_hand_lowered_keeps_no_completion_back() {
    let (store, url) = store_and_url().await;
    extended(&store, 6).await;
    let mut connection = url.connect().await.unwrap();
    sqlx::raw_sql("UPDATE jobs SET dependencies_left = 1 WHERE status = 'waiting_for_proofs'")
        .execute(&mut connection)
        .await
        .unwrap();
    let jobs = pick(&store, Stage::CircuitProof, 6).await;
    assert_eq!(jobs.len(), 6);
    for job in &jobs {
        store.complete(job, Some(&artifact("proof"))).await.unwrap();
    }
}

/// Completions share transactions. One that the schema refuses is refused at once, and alone.
#[tokio::test]
async fn a_completion_that_is_refused_takes_no_other_with_it() {
    let (store, url) = store_and_url().await;
    extended(&store, 6).await;
    let jobs = pick(&store, Stage::CircuitProof, 6).await;
    let mut connection = url.connect().await.unwrap();
    let refuse = format!(
        "ALTER TABLE jobs ADD CONSTRAINT refused CHECK (id <> {} OR status <> 'successful')",
        jobs[3].id
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(refuse)).execute(&mut connection).await.unwrap();
    // What comes while the first wait for this lock comes together.
    sqlx::raw_sql("BEGIN; LOCK TABLE jobs").execute(&mut connection).await.unwrap();
    let proof = artifact("proof");
    let all = futures::future::join_all(jobs.iter().map(|job| store.complete(job, Some(&proof))));
    let unlock = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        sqlx::raw_sql("COMMIT").execute(&mut connection).await.unwrap();
    };
    let (ended, ()) = tokio::join!(all, unlock);
    for (at, result) in ended.into_iter().enumerate() {
        match result {
            Ok(()) => assert_ne!(at, 3),
            Err(e) => assert!(at == 3 && !e.is_transient(), "{at}: {e}"),
        }
    }
}
