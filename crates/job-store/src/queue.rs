//! The bridge to `job-runner`: a picker over the store, and the ends of a job for savers.

use crate::{
    AttemptFailure, FailureKind, JobStore, LeaseKeeper, LeasedJob, PickFilter, StoreError, WakeListener,
};
use async_trait::async_trait;
use futures::{FutureExt, future::join_all};
use job_runner::{ExecuteError, Executor, JobMetadata, JobPicker, PickError, Picked, SaveError};
use std::{
    panic::AssertUnwindSafe,
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// How long a job rests whose input could not be read for the object store's sake.
const UNAVAILABLE_REST: Duration = Duration::from_secs(2);

impl JobMetadata for LeasedJob {
    fn span(&self) -> tracing::Span {
        tracing::info_span!("job", id = self.id, batch = %self.batch, job = %self.key, attempt = self.attempt)
    }
}

/// What the runners of a process share: the store, the leases (and with them who they are), the wake-ups.
#[derive(Debug, Clone)]
pub struct WorkerContext {
    /// The store.
    pub store: JobStore,
    /// Keeps leases alive.
    pub keeper: LeaseKeeper,
    /// Hears of new work.
    pub wake: WakeListener,
    /// How long to wait for a wake-up before looking anyway.
    pub poll_interval: Duration,
    /// How long an attempt may take, from its pick; charged to the job's budget of timeouts.
    pub job_timeout: Duration,
}

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

/// Loads a job's input from wherever it lies.
#[async_trait]
pub trait Loader: Send + Sync + 'static {
    /// What it loads.
    type Input: Send + 'static;

    /// Loads the input of one job.
    async fn load(&self, job: &LeasedJob) -> Result<Self::Input, LoadError>;
}

/// Picks jobs of a filter from the store and loads their inputs.
#[derive(Debug)]
pub struct QueuePicker<E, L> {
    context: WorkerContext,
    filter: PickFilter,
    loader: L,
    announced: watch::Receiver<u64>,
    _executor: std::marker::PhantomData<fn() -> E>,
}

impl<E, L> QueuePicker<E, L> {
    /// A picker of these jobs.
    pub fn new(context: WorkerContext, filter: PickFilter, loader: L) -> Self {
        let announced = context.wake.announcements(filter.stage);
        Self { context, filter, loader, announced, _executor: std::marker::PhantomData }
    }
}

#[async_trait]
impl<E, L> JobPicker for QueuePicker<E, L>
where
    E: Executor<Metadata = LeasedJob, Input = L::Input>,
    L: Loader,
{
    type Executor = E;

    async fn pick(&mut self, want: usize) -> Result<Vec<Picked<E>>, PickError> {
        let asked = Instant::now();
        // What is announced from here on ends the next wait at once: no wake-up falls between pick and wait.
        self.announced.mark_unchanged();
        let context = &self.context;
        let jobs = context
            .store
            .pick(&self.filter, want, context.keeper.worker())
            .await
            .map_err(|e| PickError::Unavailable(e.to_string()))?;
        let loader = &self.loader;
        let loads = jobs.into_iter().map(|job| {
            let lease = context.keeper.hold(&job, asked).with_deadline(asked + context.job_timeout);
            async move {
                let begun = Instant::now();
                // A loader's panic is that load's failure, and no other's.
                let loaded = AssertUnwindSafe(loader.load(&job)).catch_unwind().await;
                let loaded = loaded
                    .unwrap_or_else(|_| Err(LoadError::Unavailable("loading the input panicked".to_owned())));
                match loaded {
                    Ok(input) => {
                        let mut picked = Picked::new(input, job).with_lease(lease);
                        picked.load_time = begun.elapsed();
                        Some(picked)
                    }
                    Err(error) => {
                        context.give_up_loading(&job, error).await;
                        None
                    }
                }
            }
        });
        Ok(join_all(loads).await.into_iter().flatten().collect())
    }

    async fn wait(&mut self) {
        // The poll covers what is never announced: a rest that ends, and an announcement that was lost.
        let _ = tokio::time::timeout(self.context.poll_interval, self.announced.changed()).await;
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
        let result = self.store.complete(job, output).await;
        self.settle(job, result)
    }

    /// Records a failed attempt, for savers. A cancelled one is handed back.
    ///
    /// # Errors
    /// As a saver's.
    pub async fn fail(&self, job: &LeasedJob, error: &ExecuteError) -> Result<(), SaveError> {
        let (kind, text) = match error {
            ExecuteError::Cancelled => {
                let result = self.store.release(job, Duration::ZERO).await;
                return self.settle(job, result);
            }
            ExecuteError::Retryable(text) => (FailureKind::Retryable, text.clone()),
            ExecuteError::Fatal(text) => (FailureKind::Fatal, text.clone()),
            late @ ExecuteError::TimedOut(_) => (FailureKind::TimedOut, late.to_string()),
        };
        tracing::warn!("the attempt failed: {text}");
        let result = self.store.fail(job, &AttemptFailure { kind, error: text }).await.map(drop);
        self.settle(job, result)
    }

    /// Hands a job back, for savers; a failure to do so leaves it to the lease's expiry.
    pub async fn release(&self, job: &LeasedJob) {
        self.keeper.forget(job);
        if let Err(e) = self.store.release(job, Duration::ZERO).await {
            tracing::warn!("the job could not be handed back, its lease will expire: {e}");
        }
    }

    fn settle(&self, job: &LeasedJob, result: Result<(), StoreError>) -> Result<(), SaveError> {
        let result = result.map_err(save_error);
        if matches!(result, Ok(()) | Err(SaveError::LeaseLost)) {
            self.keeper.forget(job);
        }
        result
    }

    async fn give_up_loading(&self, job: &LeasedJob, error: LoadError) {
        self.keeper.forget(job);
        let result = match error {
            LoadError::LeaseLost => Ok(()),
            LoadError::Lost { keys, reason } => {
                tracing::warn!(job = %job.key, batch = %job.batch, "input lost, its producer runs again: {reason}");
                match self.store.lose_inputs(job, &keys, &reason).await {
                    Err(StoreError::Invalid(reason)) => {
                        let failure = AttemptFailure { kind: FailureKind::Fatal, error: reason };
                        self.store.fail(job, &failure).await.map(drop)
                    }
                    result => result.map(drop),
                }
            }
            LoadError::Unavailable(reason) => {
                tracing::warn!(job = %job.key, batch = %job.batch, "the input cannot be loaded now: {reason}");
                // Not the job's fault, hence no charge; the rest keeps a store that is away from being hammered.
                self.store.release(job, UNAVAILABLE_REST).await
            }
        };
        if let Err(e) = result {
            tracing::warn!("the job could not be put back, its lease will expire: {e}");
        }
    }
}
