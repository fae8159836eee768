//! What the store is to do, said a second time without SQL: plain maps, no concurrency, no clock.

use job_store::batches::add_jobs::{Extension, NewJob};
use job_store::leases::fail::FailureKind;
use job_store::model::retry_policy::RetryPolicy;
use job_store::model::rows::LeasedJob;
use proving_model::{AggregationRound, BatchId, BatchStatus, JobKey, JobStatus, MemoryClass, Stage};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// A job, by its batch and its place in it.
pub(crate) type Place = (BatchId, JobKey);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Job {
    pub(crate) status: JobStatus,
    pub(crate) class: MemoryClass,
    pub(crate) cost: i64,
    pub(crate) successor: Option<JobKey>,
    pub(crate) predecessors: Vec<JobKey>,
    pub(crate) left: i32,
    pub(crate) attempts: i32,
    pub(crate) failures: i32,
    pub(crate) deaths: i32,
    pub(crate) timeouts: i32,
    pub(crate) regenerations: i32,
    pub(crate) lease: Option<(Uuid, Uuid)>,
    pub(crate) input: Option<String>,
    pub(crate) output: Option<String>,
}

impl Job {
    fn new(new: &NewJob) -> Self {
        let is_ready = new.input.is_some();
        Self {
            status: if is_ready { JobStatus::Queued } else { JobStatus::WaitingForProofs },
            class: new.memory_class,
            cost: new.expected_cost_ms,
            successor: None,
            predecessors: Vec::new(),
            left: i32::from(!is_ready),
            attempts: 0,
            failures: 0,
            deaths: 0,
            timeouts: 0,
            regenerations: 0,
            lease: None,
            input: new.input.as_ref().map(|artifact| artifact.key.clone()),
            output: None,
        }
    }

    fn end(&mut self, status: JobStatus) {
        (self.status, self.lease) = (status, None);
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Batch {
    pub(crate) position: i64,
    pub(crate) priority: i32,
    /// In virtual time, where a batch lasts one unit.
    pub(crate) start: i64,
    pub(crate) is_started: bool,
    pub(crate) status: BatchStatus,
}

impl Batch {
    fn is_unfinished(&self) -> bool {
        matches!(self.status, BatchStatus::Queued | BatchStatus::InProgress | BatchStatus::Failed)
    }
}

/// The lease is gone.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Lost;

/// What `lose_inputs` answers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heal {
    Again(usize),
    Nobody,
    Lost,
}

#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) policy: RetryPolicy,
    pub(crate) jobs: BTreeMap<Place, Job>,
    pub(crate) batches: BTreeMap<BatchId, Batch>,
    /// Where each chain's next batch may start.
    pub(crate) finish: BTreeMap<u32, i64>,
    /// Chains whose batches wait for each other.
    pub(crate) strict: BTreeSet<u32>,
    /// Chains and stages of which nothing is handed out.
    pub(crate) paused: (BTreeSet<u32>, BTreeSet<Stage>),
    /// Whether each lives.
    pub(crate) workers: BTreeMap<Uuid, bool>,
    /// How attempts ended, with their tokens.
    pub(crate) attempts: BTreeMap<(Place, i32), (Uuid, &'static str)>,
}

pub(crate) const GENERATOR: JobKey = JobKey {
    round: AggregationRound::BasicCircuits,
    stage: Stage::WitnessGeneration,
    circuit_id: proving_model::CircuitId(0),
    depth: 0,
    sequence: 0,
};

impl Model {
    pub(crate) fn new(policy: RetryPolicy) -> Self {
        Self {
            policy,
            jobs: BTreeMap::new(),
            batches: BTreeMap::new(),
            finish: BTreeMap::new(),
            strict: BTreeSet::new(),
            paused: Default::default(),
            workers: BTreeMap::new(),
            attempts: BTreeMap::new(),
        }
    }

    pub(crate) fn insert_batch(&mut self, id: BatchId, priority: i32) {
        let position = i64::try_from(self.batches.len()).expect("few") + 1;
        let now = self.batches.values().filter(|batch| batch.is_started).map(|batch| batch.start).max();
        let finish = self.finish.entry(id.chain_id).or_default();
        let start = (*finish).max(now.unwrap_or(0));
        *finish = start + 1;
        let status = BatchStatus::Queued;
        self.batches.insert(id, Batch { position, priority, start, is_started: false, status });
        let generator = NewJob {
            key: GENERATOR,
            memory_class: MemoryClass::Light,
            expected_cost_ms: 0,
            peak_memory_bytes: 0,
            input: None,
        };
        let mut job = Job::new(&generator);
        (job.status, job.left) = (JobStatus::Queued, 0);
        self.jobs.insert((id, GENERATOR), job);
        self.arrange(id.chain_id);
    }

    /// A chain's batches that nobody has started, by number; a strict chain's, one after the other.
    fn arrange(&mut self, chain: u32) {
        let waiting: Vec<BatchId> = self
            .batches
            .iter()
            .filter(|(id, batch)| id.chain_id == chain && batch.status == BatchStatus::Queued)
            .map(|(id, _)| *id)
            .collect();
        let mut starts: Vec<i64> = waiting.iter().map(|id| self.batches[id].start).collect();
        starts.sort_unstable();
        for (id, start) in waiting.into_iter().zip(starts) {
            self.batches.get_mut(&id).expect("found above").start = start;
            let is_held = self.strict.contains(&chain) && self.has_earlier(id);
            let job = self.jobs.get_mut(&(id, GENERATOR)).expect("every batch has one");
            if matches!(job.status, JobStatus::Queued | JobStatus::WaitingForProofs) {
                (job.status, job.left) =
                    if is_held { (JobStatus::WaitingForProofs, 1) } else { (JobStatus::Queued, 0) };
            }
        }
    }

    fn has_earlier(&self, id: BatchId) -> bool {
        let mut others = self.batches.iter();
        others.any(|(other, batch)| {
            other.chain_id == id.chain_id && other.number < id.number && batch.is_unfinished()
        })
    }

    pub(crate) fn set_strict(&mut self, chain: u32, is_strict: bool) {
        if is_strict {
            self.strict.insert(chain)
        } else {
            self.strict.remove(&chain)
        };
        self.arrange(chain);
    }

    /// The places that a pick hands out, in their order.
    pub(crate) fn pick(
        &mut self,
        stage: Stage,
        classes: &[MemoryClass],
        want: usize,
        by: Uuid,
    ) -> Vec<Place> {
        if !self.workers[&by] || self.paused.1.contains(&stage) {
            return Vec::new();
        }
        let rank = |class: MemoryClass| classes.iter().position(|wanted| *wanted == class);
        let mut queued: Vec<_> = self
            .jobs
            .iter()
            .filter(|((batch, key), job)| {
                let is_paused = self.paused.0.contains(&batch.chain_id);
                !is_paused
                    && job.status == JobStatus::Queued
                    && key.stage == stage
                    && rank(job.class).is_some()
            })
            .map(|((batch, key), job)| {
                let Batch { position, priority, start, .. } = self.batches[batch];
                let turn = (std::cmp::Reverse(key.round), std::cmp::Reverse(job.cost));
                let place = (key.circuit_id, key.depth, key.sequence);
                (
                    (rank(job.class), std::cmp::Reverse(priority), start, turn, (position, place)),
                    (*batch, *key),
                )
            })
            .collect();
        queued.sort();
        queued.into_iter().take(want).map(|(_, place)| place).collect()
    }

    /// A job was handed out under this token.
    pub(crate) fn lease(&mut self, place: Place, by: Uuid, token: Uuid) {
        let job = self.jobs.get_mut(&place).expect("picked");
        (job.status, job.lease) = (JobStatus::InProgress, Some((by, token)));
        job.attempts += 1;
        if place.1 == GENERATOR {
            let batch = self.batches.get_mut(&place.0).expect("it has jobs");
            if batch.status == BatchStatus::Queued {
                (batch.status, batch.is_started) = (BatchStatus::InProgress, true);
            }
        }
    }

    /// The job, if this lease holds.
    fn held(&mut self, job: &LeasedJob) -> Result<&mut Job, Lost> {
        let held = self.jobs.get_mut(&(job.batch, job.key)).ok_or(Lost)?;
        if held.lease == Some((job.worker, job.token)) { Ok(held) } else { Err(Lost) }
    }

    fn record(&mut self, job: &LeasedJob, outcome: &'static str) {
        let before = self.attempts.insert(((job.batch, job.key), job.attempt), (job.token, outcome));
        assert_eq!(before, None, "an attempt ended twice");
    }

    fn fail_batch(&mut self, batch: BatchId) {
        let batch = self.batches.get_mut(&batch).expect("it has jobs");
        if matches!(batch.status, BatchStatus::Queued | BatchStatus::InProgress) {
            batch.status = BatchStatus::Failed;
        }
    }

    pub(crate) fn extend(&mut self, generator: &LeasedJob, extension: &Extension) -> Result<(), Lost> {
        self.held(generator)?;
        let batch = generator.batch;
        let mut fresh = Vec::new();
        for new in &extension.jobs {
            match self.jobs.get_mut(&(batch, new.key)) {
                None => {
                    self.jobs.insert((batch, new.key), Job::new(new));
                    fresh.push(new.key);
                }
                Some(job) => {
                    let is_gap = job.status == JobStatus::WaitingForProofs && job.input.is_none();
                    if let (true, Some(input)) = (is_gap, &new.input) {
                        (job.status, job.left) = (JobStatus::Queued, 0);
                        job.input = Some(input.key.clone());
                    }
                }
            }
        }
        for (child, parent) in &extension.links {
            let job = self.jobs.get_mut(&(batch, *child)).expect("inserted before");
            job.successor.get_or_insert(*parent);
        }
        fresh.retain(|key| self.jobs[&(batch, *key)].input.is_none());
        for key in fresh {
            let children: Vec<JobKey> = extension
                .links
                .iter()
                .filter(|(_, parent)| *parent == key)
                .map(|(child, _)| *child)
                .collect();
            let missing =
                children.iter().filter(|child| self.jobs[&(batch, **child)].status != JobStatus::Successful);
            let missing = i32::try_from(missing.count()).expect("few");
            let job = self.jobs.get_mut(&(batch, key)).expect("inserted above");
            (job.predecessors, job.left) = (children, missing);
            job.status = if missing == 0 { JobStatus::Queued } else { JobStatus::WaitingForProofs };
        }
        Ok(())
    }

    pub(crate) fn complete(&mut self, job: &LeasedJob, output: Option<&str>) -> Result<(), Lost> {
        let place = (job.batch, job.key);
        let Ok(held) = self.held(job) else {
            // The same attempt asks again.
            let ended = self.attempts.get(&(place, job.attempt));
            return if ended == Some(&(job.token, "successful")) { Ok(()) } else { Err(Lost) };
        };
        held.end(JobStatus::Successful);
        held.output = output.map(ToOwned::to_owned);
        let successor = held.successor;
        self.record(job, "successful");
        if let Some(successor) = successor {
            let successor = self.jobs.get_mut(&(job.batch, successor)).expect("linked");
            successor.left -= 1;
            if successor.status == JobStatus::WaitingForProofs && successor.left == 0 {
                successor.status = JobStatus::Queued;
            }
        }
        if job.key.stage == Stage::Compression {
            self.batches.get_mut(&job.batch).expect("it has jobs").status = BatchStatus::Successful;
            let chain = job.batch.chain_id;
            let next = self.batches.iter().find(|(id, batch)| id.chain_id == chain && batch.is_unfinished());
            if let Some((id, _)) = next {
                let first = self.jobs.get_mut(&(*id, GENERATOR)).expect("every batch has one");
                if first.status == JobStatus::WaitingForProofs {
                    (first.status, first.left) = (JobStatus::Queued, 0);
                }
            }
        }
        if job.key == GENERATOR {
            let has_gap = self.jobs.iter().any(|((batch, key), other)| {
                *batch == job.batch
                    && key.round == AggregationRound::BasicCircuits
                    && key.stage == Stage::CircuitProof
                    && other.status == JobStatus::WaitingForProofs
                    && other.input.is_none()
            });
            if has_gap {
                self.jobs.get_mut(&place).expect("held").status = JobStatus::Queued;
            }
        }
        Ok(())
    }

    pub(crate) fn fail(&mut self, job: &LeasedJob, kind: FailureKind) -> Result<JobStatus, Lost> {
        let policy = self.policy;
        let held = self.held(job)?;
        match kind {
            FailureKind::TimedOut => held.timeouts += 1,
            FailureKind::Retryable | FailureKind::Fatal => held.failures += 1,
        }
        let is_over = kind == FailureKind::Fatal
            || held.failures >= policy.failures_max
            || held.timeouts >= policy.timeouts_max;
        let status = if is_over { JobStatus::Failed } else { JobStatus::Queued };
        held.end(status);
        self.record(job, if kind == FailureKind::TimedOut { "timed_out" } else { "failed" });
        if is_over {
            self.fail_batch(job.batch);
        }
        Ok(status)
    }

    pub(crate) fn release(&mut self, job: &LeasedJob) -> Result<(), Lost> {
        self.held(job)?.end(JobStatus::Queued);
        self.record(job, "released");
        Ok(())
    }

    pub(crate) fn lose_inputs(&mut self, job: &LeasedJob, keys: &[String]) -> Heal {
        let Ok(held) = self.held(job) else { return Heal::Lost };
        let is_own = held.input.as_ref().is_some_and(|input| keys.contains(input));
        let predecessors = held.predecessors.clone();
        let most = self.policy.regenerations_max;
        let mut again = 0;
        if is_own {
            let generator = self.jobs.get_mut(&(job.batch, GENERATOR)).expect("every batch has one");
            let may =
                matches!(generator.status, JobStatus::Successful | JobStatus::Queued | JobStatus::InProgress);
            if may && generator.regenerations < most {
                if generator.status == JobStatus::Successful {
                    generator.status = JobStatus::Queued;
                }
                generator.regenerations += 1;
                again = 1;
            }
        } else {
            for key in predecessors {
                let producer = self.jobs.get_mut(&(job.batch, key)).expect("linked");
                let is_lost = producer.output.as_ref().is_some_and(|output| keys.contains(output));
                if is_lost && producer.status == JobStatus::Successful && producer.regenerations < most {
                    producer.status = JobStatus::Queued;
                    producer.output = None;
                    producer.regenerations += 1;
                    again += 1;
                }
            }
        }
        if again == 0 {
            return Heal::Nobody;
        }
        let held = self.jobs.get_mut(&(job.batch, job.key)).expect("held");
        held.end(JobStatus::WaitingForProofs);
        held.left = again;
        if is_own {
            held.input = None;
        }
        self.record(job, "input_lost");
        Heal::Again(usize::try_from(again).expect("it counts"))
    }

    /// Puts back what dead workers hold; how many jobs those were.
    pub(crate) fn rescue(&mut self) -> usize {
        let dead: Vec<Place> = self
            .jobs
            .iter()
            .filter(|(_, job)| job.lease.is_some_and(|(worker, _)| !self.workers[&worker]))
            .map(|(place, _)| *place)
            .collect();
        for place in &dead {
            let most = self.policy.worker_deaths_max;
            let job = self.jobs.get_mut(place).expect("found above");
            let (_, token) = job.lease.expect("found above");
            job.deaths += 1;
            let is_over = job.deaths >= most;
            let attempt = job.attempts;
            job.end(if is_over { JobStatus::Failed } else { JobStatus::Queued });
            let before = self.attempts.insert((*place, attempt), (token, "worker_died"));
            assert_eq!(before, None, "an attempt ended twice");
            if is_over {
                self.fail_batch(place.0);
            }
        }
        dead.len()
    }

    /// Only a proven batch of which nothing runs any more is archived; its jobs stay as they are.
    pub(crate) fn archive(&self, batch: BatchId) -> u64 {
        assert_eq!(self.batches[&batch].status, BatchStatus::Successful, "archived too early");
        let jobs: Vec<JobStatus> =
            self.jobs.iter().filter(|((of, _), _)| *of == batch).map(|(_, job)| job.status).collect();
        let is_over = |status: &JobStatus| matches!(status, JobStatus::Successful | JobStatus::Failed);
        assert!(jobs.iter().all(is_over), "archived with jobs that still run: {jobs:?}");
        jobs.len() as u64
    }

    /// An operator gives a batch's failed jobs new budgets; how many those were.
    pub(crate) fn requeue_failed(&mut self, batch: BatchId) -> u64 {
        let mut jobs = 0;
        for ((_, _), job) in self.jobs.iter_mut().filter(|((of, _), _)| *of == batch) {
            if job.status == JobStatus::Failed && job.left == 0 {
                job.status = JobStatus::Queued;
                (job.failures, job.deaths, job.timeouts, job.regenerations) = (0, 0, 0, 0);
                jobs += 1;
            }
        }
        let batch = self.batches.get_mut(&batch).expect("it was inserted");
        if batch.status == BatchStatus::Failed {
            batch.status = BatchStatus::InProgress;
        }
        jobs
    }

    /// An operator has a batch made again from a round on; how many jobs run again, and how many are stopped.
    pub(crate) fn restart(&mut self, batch: BatchId, from: AggregationRound) -> (usize, usize) {
        let is_again = |key: &JobKey, job: &Job| {
            key.round >= from && !(*key == GENERATOR && job.status == JobStatus::WaitingForProofs)
        };
        let of_batch = |(place, job): &(&Place, &Job)| place.0 == batch && is_again(&place.1, job);
        let again: Vec<JobKey> = self.jobs.iter().filter(of_batch).map(|((_, key), _)| *key).collect();
        let (mut over, mut stopped) = (0, 0);
        for key in &again {
            let job = self.jobs.get_mut(&(batch, *key)).expect("found above");
            match job.status {
                JobStatus::Successful | JobStatus::Failed => over += 1,
                JobStatus::InProgress => stopped += 1,
                _ => {}
            }
            if let Some((_, token)) = job.lease.take() {
                self.attempts.insert(((batch, *key), job.attempts), (token, "cancelled"));
            }
            (job.failures, job.deaths, job.timeouts, job.regenerations) = (0, 0, 0, 0);
            (job.input, job.output, job.status) = (None, None, JobStatus::WaitingForProofs);
        }
        for key in &again {
            let is_missing = |other: &&JobKey| self.jobs[&(batch, **other)].status != JobStatus::Successful;
            let missing = self.jobs[&(batch, *key)].predecessors.iter().filter(is_missing).count();
            let job = self.jobs.get_mut(&(batch, *key)).expect("found above");
            job.left = match key {
                key if *key == GENERATOR => 0,
                key if key.round == AggregationRound::BasicCircuits => 1,
                _ => i32::try_from(missing).expect("few"),
            };
        }
        for key in &again {
            let job = self.jobs.get_mut(&(batch, *key)).expect("found above");
            job.status = if job.left == 0 { JobStatus::Queued } else { JobStatus::WaitingForProofs };
        }
        let has_failed =
            self.jobs.iter().any(|((of, _), job)| *of == batch && job.status == JobStatus::Failed);
        let row = self.batches.get_mut(&batch).expect("it was inserted");
        match row.status {
            BatchStatus::Failed if has_failed => {}
            BatchStatus::Failed | BatchStatus::Successful => row.status = BatchStatus::InProgress,
            _ => {}
        }
        self.arrange(batch.chain_id);
        (over, stopped)
    }

    /// The invariants of the design, over the whole state.
    pub(crate) fn check(&self) {
        for ((batch, key), job) in &self.jobs {
            let waits =
                job.predecessors.iter().filter(|p| self.jobs[&(*batch, **p)].status != JobStatus::Successful);
            let waits = i32::try_from(waits.count()).expect("few");
            let is_gap = job.input.is_none() && job.predecessors.is_empty() && *key != GENERATOR;
            let is_held = *key == GENERATOR && job.status == JobStatus::WaitingForProofs;
            assert!(!is_held || self.has_earlier(*batch), "{batch} is held back for nothing");
            let left = if is_gap || is_held { 1 } else { waits };
            assert_eq!(job.left, left, "the count of {key} is not exact: {job:?}");
            assert_eq!(job.lease.is_some(), job.status == JobStatus::InProgress, "{key}: {job:?}");
            assert!(job.output.is_none() || job.status == JobStatus::Successful, "{key}: {job:?}");
            let of_job = |outcome: &str| {
                let ended = self
                    .attempts
                    .iter()
                    .filter(|((place, _), (_, how))| *place == (*batch, *key) && *how == outcome);
                i32::try_from(ended.count()).expect("few")
            };
            // Requeueing by an operator sets budgets back, so they count what came since.
            assert!(job.failures <= of_job("failed"), "{key} was charged for nothing");
            assert!(job.deaths <= of_job("worker_died") && job.timeouts <= of_job("timed_out"), "{key}");
            let ended = self.attempts.keys().filter(|(place, _)| *place == (*batch, *key)).count();
            let running = usize::from(job.lease.is_some());
            assert_eq!(
                usize::try_from(job.attempts).expect("it counts"),
                ended + running,
                "attempts of {key}"
            );
        }
    }
}
