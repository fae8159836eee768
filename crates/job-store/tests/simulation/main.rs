//! The store under random operations and faults, step by step against a model of what it is to do.
//!
//! A seed makes a list of operations: batches come, workers pick, extend, complete, fail, hand back, lose inputs, die, come
//! back, and go on writing with leases that are long gone; answers get lost and are asked for again; duties run twice. After
//! each step every row of the store is compared with the model, and the model with the invariants. In the end everything
//! that lives works on until nothing can, and every batch must be proven.
//!
//! `SIMULATION_SEEDS=FIRST-LAST` runs those seeds; a seed that fails is named, and replays.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod fleet;
mod model;

use fastrand::Rng;
use job_store::batches::add_jobs::{Extension, NewJob};
use job_store::batches::chains::ChainSettings;
use job_store::batches::insert::{InsertedBatch, NewBatch};
use job_store::leases::fail::{AttemptFailure, FailureKind};
use job_store::leases::pick::PickFilter;
use job_store::leases::workers::NewWorker;
use job_store::model::retry_policy::RetryPolicy;
use job_store::model::rows::LeasedJob;
use job_store::operator::mode::Mode;
use job_store::operator::pause::Pausable;
use job_store::reports::why::Why;
use job_store::{JobStore, StoreError};
use model::{GENERATOR, Heal, Lost, Model, Place};
use proving_model::{
    AggregationRound, BatchId, BatchStatus, CircuitId, HeadOfChain, JobKey, JobStatus, MemoryClass, Stage,
};
use sqlx::{PgConnection, Row};
use std::{collections::BTreeMap, time::Duration};
use test_support::{VERSION, artifact, empty_database, new_worker};
use uuid::Uuid;

/// Steps of a seed before everything is let run out.
const STEPS: usize = 150;
const BATCHES_MAX: usize = 5;
/// Long: only the simulation ends leases.
const LEASE: Duration = Duration::from_secs(3_600);
const POLICY: RetryPolicy = RetryPolicy {
    failures_max: 3,
    worker_deaths_max: 4,
    timeouts_max: 2,
    regenerations_max: 4,
    backoff_first: Duration::ZERO,
    backoff_longest: Duration::ZERO,
};

/// A job that somebody has, or believes to have.
#[derive(Clone)]
struct Held {
    job: LeasedJob,
    /// Generators: extensions sent so far.
    extended: usize,
    /// The answer to its end was lost, or its worker does not know better: it will write again.
    is_over: bool,
}

struct Simulation {
    rng: Rng,
    store: JobStore,
    connection: PgConnection,
    model: Model,
    /// The workers, numbered as they began.
    numbers: BTreeMap<Uuid, i32>,
    held: Vec<Held>,
    /// Basic circuits of each batch.
    sizes: BTreeMap<BatchId, i32>,
}

fn key(round: AggregationRound, stage: Stage, circuit: i16, sequence: i32) -> JobKey {
    JobKey { round, stage, circuit_id: CircuitId(circuit), depth: 0, sequence }
}

/// What a generator sends for a batch of so many circuits, piece by piece: circuits in ones, each leaf when its two
/// children are there, and the top in the end.
fn extensions(job: &LeasedJob, circuits: i32) -> Vec<Extension> {
    use AggregationRound::{BasicCircuits, LeafAggregation, RecursionTip, Scheduler};
    let mut all = Vec::new();
    let mut leaves = Vec::new();
    let plain = |key: JobKey, cost: i64| NewJob {
        key,
        memory_class: MemoryClass::Light,
        expected_cost_ms: cost,
        peak_memory_bytes: 0,
        input: None,
    };
    for first in (0..circuits).step_by(2) {
        let mut group = Vec::new();
        for sequence in first..circuits.min(first + 2) {
            let basic = key(BasicCircuits, Stage::CircuitProof, 1, sequence);
            let circuit = NewJob {
                key: basic,
                memory_class: if sequence % 3 == 0 { MemoryClass::Heavy } else { MemoryClass::Light },
                expected_cost_ms: i64::from(sequence % 2),
                peak_memory_bytes: 0,
                // An attempt's artifacts have names of their own.
                input: Some(artifact(&format!("circuit {sequence} {}", job.token))),
            };
            all.push(Extension { jobs: vec![circuit], links: Vec::new() });
            group.push(basic);
        }
        let generation = key(LeafAggregation, Stage::WitnessGeneration, 1, first / 2);
        let proof = key(LeafAggregation, Stage::CircuitProof, 1, first / 2);
        let mut links: Vec<(JobKey, JobKey)> = group.into_iter().map(|child| (child, generation)).collect();
        links.push((generation, proof));
        all.push(Extension { jobs: vec![plain(generation, 0), plain(proof, 7)], links });
        leaves.push(proof);
    }
    let (tip, compression) =
        (key(RecursionTip, Stage::CircuitProof, 0, 0), key(Scheduler, Stage::Compression, 0, 0));
    let mut links: Vec<(JobKey, JobKey)> = leaves.into_iter().map(|leaf| (leaf, tip)).collect();
    links.push((tip, compression));
    all.push(Extension { jobs: vec![plain(tip, 9), plain(compression, 0)], links });
    all
}

fn filter(stage: Stage, classes: &[MemoryClass]) -> PickFilter {
    let rounds = AggregationRound::ALL.to_vec();
    PickFilter { stage, rounds, memory_classes: classes.to_vec(), version: VERSION }
}

/// The store's answer in the model's words.
fn lost_or<T>(result: Result<T, StoreError>) -> Result<T, Lost> {
    match result {
        Ok(value) => Ok(value),
        Err(StoreError::LeaseLost { .. }) => Err(Lost),
        Err(e) => panic!("{e}"),
    }
}

/// The model's answer in the store's words.
fn lost_or_error<T>(result: Result<T, Lost>, job: &LeasedJob) -> Result<T, StoreError> {
    result.map_err(|Lost| StoreError::LeaseLost { job_id: job.id })
}

impl Simulation {
    async fn step(&mut self) {
        match self.rng.u32(0..100) {
            0..4 => self.insert_batch().await,
            4..8 => self.start_worker().await,
            8..11 => self.end_worker().await,
            11..14 => self.revive_worker().await,
            14..18 => self.rescue().await,
            18..20 => self.requeue_failed().await,
            20..21 => self.set_chain().await,
            21..23 => self.archive().await,
            23..25 => self.pause().await,
            25..26 => self.restart().await,
            26..48 => self.pick().await,
            _ => self.write().await,
        }
        self.compare().await;
    }

    async fn insert_batch(&mut self) {
        // Not in the order of their numbers.
        let id = BatchId { chain_id: self.rng.u32(0..2), number: self.rng.u32(0..9) };
        if self.model.batches.len() >= BATCHES_MAX || self.model.batches.contains_key(&id) {
            return;
        }
        let priority = i32::from(self.rng.u32(0..4) == 0);
        let batch = NewBatch { priority, ..NewBatch::new(id, VERSION, artifact("input")) };
        assert_eq!(self.store.insert_batch(&batch).await.unwrap(), InsertedBatch::New);
        // The answer was lost, and it is sent again.
        if self.rng.bool() {
            assert_eq!(self.store.insert_batch(&batch).await.unwrap(), InsertedBatch::AlreadyThere);
        }
        self.model.insert_batch(id, priority);
        self.sizes.insert(id, self.rng.i32(1..6));
    }

    async fn start_worker(&mut self) {
        if self.model.workers.len() < 4 {
            let me = NewWorker { component: "simulated".into(), ..new_worker() };
            let id = self.store.register_worker(&me, LEASE).await.unwrap();
            let number = i32::try_from(self.numbers.len()).unwrap() + 1;
            self.numbers.insert(id, number);
            self.model.workers.insert(id, true);
        }
    }

    fn any_worker(&mut self) -> Option<Uuid> {
        let all: Vec<Uuid> = self
            .numbers
            .iter()
            .map(|(id, number)| (*number, *id))
            .collect::<BTreeMap<_, _>>()
            .into_values()
            .collect();
        self.rng.choice(all)
    }

    /// Its process dies, it freezes, or it is cut off: to the store they are the same. It may not know.
    async fn end_worker(&mut self) {
        if let Some(worker) = self.any_worker() {
            let was_alive = self.model.workers.insert(worker, false).unwrap();
            assert_eq!(self.store.give_up_worker(worker).await.unwrap(), was_alive);
        }
    }

    /// A heartbeat arrives after all.
    async fn revive_worker(&mut self) {
        if let Some(worker) = self.any_worker() {
            sqlx::query(
                "UPDATE workers SET expires_at = now() + interval '1 hour', stopped_at = NULL WHERE id = $1",
            )
            .bind(worker)
            .execute(&mut self.connection)
            .await
            .unwrap();
            self.model.workers.insert(worker, true);
        }
    }

    async fn rescue(&mut self) {
        // Two monitors at once; each job is rescued by one.
        let (one, other) =
            tokio::join!(self.store.rescue_expired(Duration::MAX), self.store.rescue_expired(Duration::MAX));
        let rescued = one.unwrap().len() + other.unwrap().len();
        assert_eq!(rescued, self.model.rescue(), "rescued");
    }

    async fn requeue_failed(&mut self) {
        let all: Vec<BatchId> = self.model.batches.keys().copied().collect();
        if let Some(batch) = self.rng.choice(all) {
            let jobs = self.store.requeue_failed(batch, Mode::Apply).await.unwrap().jobs;
            assert_eq!(jobs, self.model.requeue_failed(batch), "requeued");
        }
    }

    /// Two monitors at once. Where a job's row is changes nothing.
    async fn archive(&mut self) {
        let archive = || self.store.archive_batch(Duration::ZERO);
        let (one, other) = tokio::join!(archive(), archive());
        for moved in [one.unwrap(), other.unwrap()].into_iter().flatten() {
            assert_eq!(moved.jobs, self.model.archive(moved.batch), "archived");
        }
    }

    /// A chain or a stage, or the end of that.
    async fn pause(&mut self) {
        let is_paused = self.rng.u32(0..3) == 0;
        if self.rng.bool() {
            let chain = self.rng.u32(0..2);
            let change = self.store.set_paused(Pausable::Chain(chain), is_paused, Mode::Apply).await.unwrap();
            let chains = &mut self.model.paused.0;
            let changed = if is_paused { chains.insert(chain) } else { chains.remove(&chain) };
            assert_eq!(change.was_so_already, !changed, "paused");
        } else {
            let stage = self.rng.choice(Stage::ALL).copied().unwrap();
            let change = self.store.set_paused(Pausable::Stage(stage), is_paused, Mode::Apply).await.unwrap();
            let stages = &mut self.model.paused.1;
            let changed = if is_paused { stages.insert(stage) } else { stages.remove(&stage) };
            assert_eq!(change.was_so_already, !changed, "paused");
        }
    }

    async fn restart(&mut self) {
        let all: Vec<BatchId> = self.model.batches.keys().copied().collect();
        let Some(batch) = self.rng.choice(all) else { return };
        let from = self.rng.choice(AggregationRound::ALL).unwrap();
        let would = self.store.restart_batch(batch, from, Mode::DryRun).await.unwrap();
        self.compare().await;
        let restarted = self.store.restart_batch(batch, from, Mode::Apply).await.unwrap();
        assert_eq!(would, restarted, "it does what it said");
        let expected = self.model.restart(batch, from);
        assert_eq!((restarted.jobs_again, restarted.jobs_stopped), expected, "restarted");
    }

    async fn set_chain(&mut self) {
        let (chain, is_strict) = (self.rng.u32(0..2), self.rng.bool());
        let order = if is_strict { HeadOfChain::Strict } else { HeadOfChain::Preferred };
        let settings = ChainSettings { head_of_chain: Some(order), share: None };
        self.store.set_chain(chain, settings).await.unwrap();
        self.model.set_strict(chain, is_strict);
    }

    async fn pick(&mut self) {
        let Some(worker) = self.any_worker() else { return };
        let stage = self.rng.choice(Stage::ALL).copied().unwrap();
        let classes: &[MemoryClass] =
            if self.rng.bool() { &[MemoryClass::Heavy, MemoryClass::Light] } else { &[MemoryClass::Light] };
        let want = self.rng.usize(1..4);
        let expected = self.model.pick(stage, classes, want, worker);
        let picked = self.store.pick(&filter(stage, classes), want, worker).await.unwrap();
        let places: Vec<Place> = picked.iter().map(|job| (job.batch, job.key)).collect();
        assert_eq!(places, expected, "picked");
        for job in picked {
            self.model.lease((job.batch, job.key), worker, job.token);
            let leased = &self.model.jobs[&(job.batch, job.key)];
            assert_eq!(
                (job.attempt, job.input.as_ref().map(|i| &i.key)),
                (leased.attempts, leased.input.as_ref())
            );
            // A claim whose answer was lost: nobody knows that it is theirs.
            if self.rng.u32(0..20) > 0 {
                self.held.push(Held { job, extended: 0, is_over: false });
            }
        }
    }

    /// Somebody who has a job, or believes so, writes about it.
    async fn write(&mut self) {
        if self.held.is_empty() {
            return self.pick().await;
        }
        let at = self.rng.usize(0..self.held.len());
        let Held { job, extended, .. } = self.held[at].clone();
        if job.key == GENERATOR {
            let pieces = extensions(&job, self.sizes[&job.batch]);
            if let Some(piece) = pieces.get(extended) {
                if self.rng.u32(0..10) > 0 {
                    let result = lost_or(self.store.extend_batch(&job, piece).await);
                    assert_eq!(result, self.model.extend(&job, piece), "extended");
                    // A lost answer has it sent once more.
                    if self.rng.u32(0..5) > 0 {
                        self.held[at].extended += 1;
                    }
                    return;
                }
            } else if self.rng.u32(0..10) > 0 {
                return self.complete(at).await;
            }
            return self.give_back(at).await;
        }
        if self.rng.u32(0..10) < 7 { self.complete(at).await } else { self.give_back(at).await }
    }

    async fn complete(&mut self, at: usize) {
        let job = self.held[at].job.clone();
        let output = (job.key != GENERATOR).then(|| artifact(&format!("{} by {}", job.key, job.token)));
        let expected = self.model.complete(&job, output.as_ref().map(|output| output.key.as_str()));
        let result = lost_or(self.store.complete(&job, output.as_ref()).await);
        assert_eq!(result, expected, "completed");
        self.over(at);
    }

    /// Every other end of an attempt.
    async fn give_back(&mut self, at: usize) {
        let job = self.held[at].job.clone();
        let kinds =
            [FailureKind::Retryable, FailureKind::Retryable, FailureKind::TimedOut, FailureKind::Fatal];
        match self.rng.u32(0..10) {
            0..4 => {
                let result = lost_or(self.store.release(&job, Duration::ZERO).await);
                assert_eq!(result, self.model.release(&job), "released");
            }
            4..7 => {
                let kind = self.rng.choice(kinds).unwrap();
                let failure = AttemptFailure { kind, error: "simulated".into() };
                let result = lost_or(self.store.fail(&job, &failure).await);
                assert_eq!(result, self.model.fail(&job, kind), "failed");
            }
            _ => {
                // An input is missing or corrupt: its own, or some of its predecessors' outputs, or one that nobody made.
                let row = &self.model.jobs[&(job.batch, job.key)];
                let mut keys: Vec<String> = row.input.iter().cloned().collect();
                let outputs =
                    row.predecessors.iter().filter_map(|p| self.model.jobs[&(job.batch, *p)].output.clone());
                keys.extend(outputs.filter(|_| self.rng.bool()));
                keys.push("nobody's".into());
                let healed = match self.store.lose_inputs(&job, &keys, "simulated").await {
                    Ok(again) => Heal::Again(again),
                    Err(StoreError::LeaseLost { .. }) => Heal::Lost,
                    Err(StoreError::Invalid(_)) => Heal::Nobody,
                    Err(e) => panic!("{e}"),
                };
                assert_eq!(healed, self.model.lose_inputs(&job, &keys), "healed");
            }
        }
        self.over(at);
    }

    /// Most know that they are done; some write again later.
    fn over(&mut self, at: usize) {
        let was_over = std::mem::replace(&mut self.held[at].is_over, true);
        if was_over || self.rng.u32(0..4) > 0 {
            self.held.swap_remove(at);
        }
    }

    /// Every row against the model, and the model against the invariants.
    async fn compare(&mut self) {
        self.model.check();
        let rows = sqlx::query(
            "SELECT chain_id, batch_number, aggregation_round, stage, circuit_id, depth, sequence_number, status,
                    memory_class, expected_cost_ms, dependencies_left, attempts, failures, worker_deaths, timeouts,
                    regenerations, worker_id, lease_token, input_key, output_key,
                    ARRAY(SELECT p.sequence_number::int4 FROM UNNEST(j.predecessor_ids) WITH ORDINALITY u (id, place)
                          JOIN all_prover_jobs p ON p.id = u.id ORDER BY u.place) AS predecessors,
                    (SELECT s.stage || s.aggregation_round || s.sequence_number FROM all_prover_jobs s WHERE s.id = j.successor_id)
                        AS successor
             FROM all_prover_jobs j",
        )
        .fetch_all(&mut self.connection)
        .await
        .unwrap();
        assert_eq!(rows.len(), self.model.jobs.len(), "rows");
        for row in rows {
            let number = |column: &str| u32::try_from(row.get::<i64, _>(column)).unwrap();
            let batch = BatchId { chain_id: number("chain_id"), number: number("batch_number") };
            let key = JobKey {
                round: AggregationRound::from_number(row.get("aggregation_round")).unwrap(),
                stage: row.get::<&str, _>("stage").parse().unwrap(),
                circuit_id: CircuitId(row.get("circuit_id")),
                depth: row.get("depth"),
                sequence: row.get("sequence_number"),
            };
            let job = &self.model.jobs[&(batch, key)];
            let successor = job.successor.map(|s| format!("{}{}{}", s.stage, s.round.number(), s.sequence));
            let predecessors: Vec<i32> = job.predecessors.iter().map(|p| p.sequence).collect();
            let counts =
                ["dependencies_left", "attempts", "failures", "worker_deaths", "timeouts", "regenerations"];
            let found = (
                row.get::<String, _>("status"),
                counts.map(|column| row.get::<i32, _>(column)),
                row.get::<Option<Uuid>, _>("worker_id").zip(row.get::<Option<Uuid>, _>("lease_token")),
                row.get::<Option<String>, _>("input_key"),
                row.get::<Option<String>, _>("output_key"),
                row.get::<Option<String>, _>("successor"),
                row.get::<Vec<i32>, _>("predecessors"),
            );
            let expected = (
                job.status.as_str().to_owned(),
                [job.left, job.attempts, job.failures, job.deaths, job.timeouts, job.regenerations],
                job.lease,
                job.input.clone(),
                job.output.clone(),
                successor,
                predecessors,
            );
            assert_eq!(found, expected, "{key} of {batch}");
        }
        let batches: Vec<(i64, i64, String)> =
            sqlx::query_as("SELECT chain_id, number, status FROM batches ORDER BY chain_id, number")
                .fetch_all(&mut self.connection)
                .await
                .unwrap();
        let expected: Vec<(i64, i64, String)> = self
            .model
            .batches
            .iter()
            .map(|(id, batch)| {
                (i64::from(id.chain_id), i64::from(id.number), batch.status.as_str().to_owned())
            })
            .collect();
        assert_eq!(batches, expected, "batches");
        let mut attempts: Vec<(Uuid, i32, String)> =
            sqlx::query_as("SELECT lease_token, attempt, outcome FROM attempts WHERE outcome IS NOT NULL")
                .fetch_all(&mut self.connection)
                .await
                .unwrap();
        let mut expected: Vec<(Uuid, i32, String)> = self
            .model
            .attempts
            .iter()
            .map(|((_, n), (token, how))| (*token, *n, (*how).to_owned()))
            .collect();
        attempts.sort();
        expected.sort();
        assert_eq!(attempts, expected, "attempts");
    }

    /// Faults end; everything that lives works on until nothing can.
    async fn run_out(&mut self) {
        self.held.clear();
        let chains = std::mem::take(&mut self.model.paused.0).into_iter().map(Pausable::Chain);
        let stages = std::mem::take(&mut self.model.paused.1).into_iter().map(Pausable::Stage);
        for what in chains.chain(stages) {
            assert!(!self.store.set_paused(what, false, Mode::Apply).await.unwrap().was_so_already);
        }
        for worker in self.model.workers.keys().copied().collect::<Vec<_>>() {
            self.model.workers.insert(worker, false);
            self.store.give_up_worker(worker).await.unwrap();
        }
        self.rescue().await;
        let me = NewWorker { component: "last".into(), ..new_worker() };
        let last = self.store.register_worker(&me, LEASE).await.unwrap();
        self.model.workers.insert(last, true);
        for batch in self.model.batches.keys().copied().collect::<Vec<_>>() {
            let jobs = self.store.requeue_failed(batch, Mode::Apply).await.unwrap().jobs;
            assert_eq!(jobs, self.model.requeue_failed(batch));
        }
        let classes = [MemoryClass::Heavy, MemoryClass::Light];
        for stage in Stage::ALL {
            self.store.announce_filter(last, &filter(*stage, &classes)).await.unwrap();
        }
        let mut is_explained = false;
        let mut is_idle = false;
        while !is_idle {
            is_idle = true;
            for stage in Stage::ALL {
                // Once in each simulation: each job costs a few queries.
                let next = if is_explained { None } else { Some(self.next_by_explanation(*stage).await) };
                let expected = self.model.pick(*stage, &classes, 9, last);
                let picked = self.store.pick(&filter(*stage, &classes), 9, last).await.unwrap();
                if let Some(next) = next {
                    let ids: Vec<i64> = picked.iter().map(|job| job.id).collect();
                    assert_eq!(ids, next[..next.len().min(9)], "what is picked is what is said to be next");
                }
                assert_eq!(picked.iter().map(|job| (job.batch, job.key)).collect::<Vec<_>>(), expected);
                for job in picked {
                    is_idle = false;
                    self.model.lease((job.batch, job.key), last, job.token);
                    if job.key == GENERATOR {
                        for piece in extensions(&job, self.sizes[&job.batch]) {
                            let result = lost_or(self.store.extend_batch(&job, &piece).await);
                            assert_eq!(result, self.model.extend(&job, &piece));
                        }
                    }
                    self.held.push(Held { job, extended: usize::MAX, is_over: true });
                }
                // All that one process completes at once shares transactions.
                let all = std::mem::take(&mut self.held);
                let store = &self.store;
                let completions = all.iter().map(|held| async move {
                    let job = &held.job;
                    let output =
                        (job.key != GENERATOR).then(|| artifact(&format!("{} by {}", job.key, job.token)));
                    (job, store.complete(job, output.as_ref()).await, output)
                });
                for (job, result, output) in futures::future::join_all(completions).await {
                    let expected =
                        self.model.complete(job, output.as_ref().map(|output| output.key.as_str()));
                    assert_eq!(lost_or(result), expected);
                }
                self.compare().await;
            }
            is_explained = true;
        }
        for (id, batch) in &self.model.batches {
            assert_eq!(batch.status, BatchStatus::Successful, "{id} is stuck");
        }
        for ((batch, key), job) in &self.model.jobs {
            assert_eq!(job.status, JobStatus::Successful, "{key} of {batch} was left behind");
        }
    }
}

impl Simulation {
    /// What a worker of this stage would be given, in order, by what is said of each job.
    async fn next_by_explanation(&mut self, stage: Stage) -> Vec<i64> {
        let rows: Vec<(i64, bool)> = sqlx::query_as(
            "SELECT id, memory_class = 'light' FROM prover_jobs WHERE stage = $1 AND status <> 'successful'",
        )
        .bind(stage.as_str())
        .fetch_all(&mut self.connection)
        .await
        .unwrap();
        let mut next = Vec::new();
        for (id, is_light) in rows {
            if let Why::Queued { place, .. } = self.store.why(id).await.unwrap().why {
                next.push((is_light, place.expect("the queue is short"), id));
            }
        }
        next.sort_unstable();
        next.into_iter().map(|(_, _, id)| id).collect()
    }
}

fn seeds(usual: &str) -> std::ops::RangeInclusive<u64> {
    let given = std::env::var("SIMULATION_SEEDS").unwrap_or_else(|_| usual.to_owned());
    let (first, last) = given.split_once('-').unwrap_or((&given, &given));
    first.parse().expect("SIMULATION_SEEDS=FIRST-LAST")..=last.parse().expect("SIMULATION_SEEDS=FIRST-LAST")
}

/// Names the seed when its simulation fails.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            #[allow(clippy::print_stdout, reason = "the test's own output")]
            {
                println!(
                    "the seed is {}: SIMULATION_SEEDS={} cargo test -p job-store --test simulation",
                    self.0, self.0
                );
            }
        }
    }
}

#[tokio::test]
async fn the_store_does_what_the_model_does_whatever_happens() {
    let url = empty_database().await;
    let store = JobStore::connect(&url).await.unwrap().with_retry_policy(POLICY);
    store.migrate().await.unwrap();
    store.insert_protocol_version(VERSION, "mock", "digest").await.unwrap();
    for seed in seeds("1-50") {
        let _named = Named(seed);
        let mut connection = url.connect().await.unwrap();
        sqlx::raw_sql("TRUNCATE paused_stages, jobs, jobs_archive, job_attempts, worker_filters, workers, batches, chains")
            .execute(&mut connection)
            .await
            .unwrap();
        let mut simulation = Simulation {
            rng: Rng::with_seed(seed),
            store: store.clone(),
            connection,
            model: Model::new(POLICY),
            numbers: BTreeMap::new(),
            held: Vec::new(),
            sizes: BTreeMap::new(),
        };
        simulation.start_worker().await;
        simulation.insert_batch().await;
        for _ in 0..STEPS {
            simulation.step().await;
        }
        simulation.run_out().await;
    }
}

/// Each seed on a thread of its own runtime; what a seed does is the same whenever it is run.
#[test]
fn a_fleet_under_faults_proves_every_batch_whatever_happens() {
    let seeds = seeds("1-1000");
    let next = std::sync::atomic::AtomicU64::new(*seeds.start());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if !seeds.contains(&seed) {
                        return;
                    }
                    let _named = Named(seed);
                    let trace = fleet::run(seed);
                    if seed % 100 == 1 {
                        assert_eq!(fleet::run(seed), trace, "a seed replays");
                    }
                }
            });
        }
    });
}
