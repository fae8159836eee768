//! What the runners of a process share, and the ends of a job for savers.

use crate::database::listen::WakeListener;
use crate::database::metrics::{ATTEMPT_METRICS, AttemptOutcome, CircuitLabels};
use crate::leases::fail::{AttemptFailure, FailureKind};
use crate::leases::keeper::LeaseKeeper;
use crate::model::error::StoreError;
use crate::model::rows::LeasedJob;
use crate::runner::worker_store::WorkerStore;
use job_runner::{ExecuteError, MemoryBudget, SaveError};
use proving_model::{AggregationRound, CircuitId};
use std::{collections::HashMap, sync::Arc, time::Duration};

/// How long a job rests that could not be worked on for a store's sake.
const UNAVAILABLE_REST: Duration = Duration::from_secs(2);

/// What the runners of a process share: the store, the leases (and with them who they are), the wake-ups.
#[derive(Debug, Clone)]
pub struct WorkerContext {
    /// The store.
    pub store: Arc<dyn WorkerStore>,
    /// Keeps leases alive.
    pub keeper: LeaseKeeper,
    /// Hears of new work.
    pub wake: WakeListener,
    /// What its jobs may take of memory at the same time; shared by the runners of a process.
    pub memory: MemoryBudget,
    /// How long to wait for a wake-up before looking anyway.
    pub poll_interval: Duration,
    /// How long an attempt may take, from its pick; charged to the job's budget of timeouts.
    pub job_timeout: Duration,
    /// Names of circuits. Where they are given, the log has a line for each attempt's end.
    pub circuit_names: Option<CircuitNames>,
}

/// What people call the circuits of a proof system.
pub type CircuitNames = Arc<HashMap<(AggregationRound, CircuitId), &'static str>>;

/// Why a job's input was not loaded.
#[derive(Debug)]
pub enum LoadError {
    /// Artifacts are missing or corrupt: whoever made them must make them again.
    Lost {
        /// Their keys.
        keys: Vec<String>,
        /// What was found.
        reason: String,
    },
    /// The object store or the database is away: the job is handed back and tried later.
    Unavailable(String),
    /// The lease is gone.
    LeaseLost,
}

impl From<StoreError> for LoadError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::LeaseLost { .. } => Self::LeaseLost,
            other => Self::Unavailable(other.to_string()),
        }
    }
}

/// Why a job's end was not recorded; what a saver returns.
pub type FinishError = SaveError;

fn save_error(error: StoreError) -> SaveError {
    match error {
        StoreError::LeaseLost { .. } => SaveError::LeaseLost,
        error if error.is_transient() => SaveError::Unavailable(error.to_string()),
        error => SaveError::Refused(error.to_string()),
    }
}

/// Seconds to the millisecond.
fn milliseconds(seconds: f64) -> f64 {
    (seconds * 1_000.0).round() / 1_000.0
}

impl WorkerContext {
    /// Completes a job, for savers.
    ///
    /// # Errors
    /// As a saver's.
    pub async fn complete(
        &self,
        job: &LeasedJob,
        output: Option<&proving_model::ArtifactRef>,
    ) -> Result<(), SaveError> {
        let peak = self.keeper.peak_memory_bytes(job);
        let result = self.store.complete(job, output, peak).await;
        self.settle(job, AttemptOutcome::Successful, result)
    }

    /// Records a failed attempt, for savers. A cancelled one is handed back.
    ///
    /// # Errors
    /// As a saver's.
    pub async fn fail(&self, job: &LeasedJob, error: &ExecuteError) -> Result<(), SaveError> {
        let (kind, text) = match error {
            ExecuteError::Cancelled => {
                let result = self.store.release(job, Duration::ZERO, None).await;
                return self.settle(job, AttemptOutcome::Released, result);
            }
            ExecuteError::Unavailable(reason) => {
                tracing::warn!("the attempt was cut short: {reason}");
                let result = self.store.release(job, UNAVAILABLE_REST, Some(reason)).await;
                return self.settle(job, AttemptOutcome::Released, result);
            }
            ExecuteError::Retryable(text) => (FailureKind::Retryable, text.clone()),
            ExecuteError::Fatal(text) => (FailureKind::Fatal, text.clone()),
            late @ ExecuteError::TimedOut(_) => (FailureKind::TimedOut, late.to_string()),
        };
        tracing::warn!("the attempt failed: {text}");
        let result = self.store.fail(job, &AttemptFailure { kind, error: text }).await.map(drop);
        let outcome = match kind {
            FailureKind::TimedOut => AttemptOutcome::TimedOut,
            FailureKind::Retryable | FailureKind::Fatal => AttemptOutcome::Failed,
        };
        self.settle(job, outcome, result)
    }

    /// Hands a job back, for savers; a failure to do so leaves it to the lease's expiry.
    pub async fn release(&self, job: &LeasedJob) {
        self.keeper.forget(job);
        if let Err(e) = self.store.release(job, Duration::ZERO, None).await {
            tracing::warn!("the job could not be handed back, its lease will expire: {e}");
        }
    }

    fn settle(
        &self,
        job: &LeasedJob,
        outcome: AttemptOutcome,
        result: Result<(), StoreError>,
    ) -> Result<(), SaveError> {
        let result = result.map_err(save_error);
        let peak = self.keeper.peak_memory_bytes(job);
        if matches!(result, Ok(()) | Err(SaveError::LeaseLost))
            && let Some(held_for) = self.keeper.forget(job)
        {
            let outcome = if result.is_ok() { outcome } else { AttemptOutcome::LeaseLost };
            self.say_end(job, outcome, held_for, peak);
            ATTEMPT_METRICS[&CircuitLabels::of(&job.key)].attempt_time[&outcome].observe(held_for);
        }
        result
    }

    /// The line of an attempt's end, by which operators follow a fleet. The job's own names are in its span.
    fn say_end(&self, job: &LeasedJob, outcome: AttemptOutcome, took: Duration, peak: Option<u64>) {
        let Some(names) = &self.circuit_names else { return };
        tracing::info!(
            outcome = outcome.as_str(),
            circuit = names.get(&(job.key.round, job.key.circuit_id)).copied(),
            took_seconds = milliseconds(took.as_secs_f64()),
            waited_seconds = milliseconds(job.waited_seconds),
            peak_memory_mib = peak.map(|bytes| bytes >> 20),
            "the attempt ended"
        );
    }

    pub(crate) async fn give_up_loading(&self, job: &LeasedJob, error: LoadError) {
        self.keeper.forget(job);
        let result = match error {
            LoadError::LeaseLost => Ok(()),
            LoadError::Lost { keys, reason } => {
                tracing::warn!(job = %job.key, batch = %job.batch, "input lost, its producer runs again: {reason}");
                match self.store.lose_inputs(job, &keys, &reason).await {
                    Err(StoreError::Invalid(reason)) => {
                        // What is read may be damaged on its way and not where it lies: seen a few times, it is lost.
                        let failure = AttemptFailure { kind: FailureKind::Retryable, error: reason };
                        self.store.fail(job, &failure).await.map(drop)
                    }
                    result => result.map(drop),
                }
            }
            LoadError::Unavailable(reason) => {
                tracing::warn!(job = %job.key, batch = %job.batch, "the input cannot be loaded now: {reason}");
                // Not the job's fault, hence no charge; the rest keeps a store that is away from being hammered.
                self.store.release(job, UNAVAILABLE_REST, Some(&reason)).await
            }
        };
        if let Err(e) = result {
            tracing::warn!("the job could not be put back, its lease will expire: {e}");
        }
    }
}
