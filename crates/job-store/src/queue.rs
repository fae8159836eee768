//! The bridge to `job-runner`: a picker over the store, and the ends of a job for savers.

use crate::metrics::{ATTEMPT_METRICS, AttemptOutcome, CircuitLabels};
use crate::pick::Room;
use crate::{
    AttemptFailure, FailureKind, LeaseKeeper, LeasedJob, PickFilter, StoreError, WakeListener, WorkerStore,
};
use async_trait::async_trait;
use futures::{
    FutureExt,
    future::{BoxFuture, join_all},
};
use job_runner::{
    Allowance, ExecuteError, Executor, JobMetadata, JobPicker, Lease, MemoryBudget, PickError, Picked,
    Reservation, SaveError,
};
use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;

/// How long a job rests that could not be worked on for a store's sake.
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
pub struct QueuePicker<E, L> {
    context: WorkerContext,
    filter: PickFilter,
    loader: L,
    announced: watch::Receiver<u64>,
    /// What the next job in the queue needs and did not find free, and the place in the row of those who wait for memory.
    needed: Option<(i64, BoxFuture<'static, Allowance>)>,
    /// Whether the store knows what is picked here.
    is_announced: bool,
    /// What was waited for, until the next pick.
    waited_for: Option<Allowance>,
    _executor: std::marker::PhantomData<fn() -> E>,
}

impl<E, L> std::fmt::Debug for QueuePicker<E, L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueuePicker").field("filter", &self.filter).finish_non_exhaustive()
    }
}

impl<E, L> QueuePicker<E, L> {
    /// A picker of these jobs.
    pub fn new(context: WorkerContext, filter: PickFilter, loader: L) -> Self {
        let announced = context.wake.announcements(filter.stage);
        Self {
            context,
            filter,
            loader,
            announced,
            needed: None,
            is_announced: false,
            waited_for: None,
            _executor: std::marker::PhantomData,
        }
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
        if !self.is_announced {
            // For those who ask why a job does not run; a picker that cannot say what it takes cannot take anything either.
            let announced =
                self.context.store.announce_filter(self.context.keeper.worker(), &self.filter).await;
            announced.map_err(|e| PickError::Unavailable(e.to_string()))?;
            self.is_announced = true;
        }
        let asked = Instant::now();
        // What is announced from here on ends the next wait at once: no wake-up falls between pick and wait.
        self.announced.mark_unchanged();
        let leased = self.lease(want).await.map_err(|e| PickError::Unavailable(e.to_string()))?;
        let (context, loader) = (&self.context, &self.loader);
        let loads = leased.into_iter().map(|Admitted { job, reserved, suspect_place }| {
            let deadline = asked + context.job_timeout;
            let lease = Lease::new().with_deadline(deadline).with_reservation(reserved);
            context.keeper.hold_in_place(&job, &lease, asked, suspect_place);
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
        let room = async {
            match &mut self.needed {
                Some((_, room)) => room.await,
                None => std::future::pending().await,
            }
        };
        // The poll covers what is never announced: a rest that ends, and an announcement that was lost.
        tokio::select! {
            biased;
            allowance = room => {
                self.waited_for = Some(allowance);
                self.needed = None;
            }
            _ = tokio::time::timeout(self.context.poll_interval, self.announced.changed()) => {}
        }
    }
}

/// A leased job with its room in this process.
struct Admitted {
    job: LeasedJob,
    reserved: Reservation,
    suspect_place: Option<OwnedSemaphorePermit>,
}

impl<E, L> QueuePicker<E, L> {
    /// Leases up to so many jobs, each with the memory for it. An error after the first is the next pick's to find.
    async fn lease(&mut self, want: usize) -> Result<Vec<Admitted>, StoreError> {
        let WorkerContext { store, keeper, memory, .. } = &self.context;
        let admit = |job: LeasedJob, allowance, suspect_place: Option<_>| {
            let reserved = memory.reserve(allowance, u64::try_from(job.peak_memory_bytes).unwrap_or(0));
            let suspect_place = suspect_place.filter(|_| job.is_suspect);
            Admitted { job, reserved, suspect_place }
        };
        let Some(total) = memory.total() else {
            let jobs = store.pick_into(&self.filter, want, keeper.worker(), Room::UNLIMITED).await?;
            return Ok(jobs.into_iter().map(|job| admit(job, memory.take_free(), None)).collect());
        };
        let mut leased = Vec::new();
        // One by one: what is free depends on what the one before takes.
        while leased.len() < want {
            let allowance = self.waited_for.take().unwrap_or_else(|| memory.take_free());
            let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
            let place = keeper.suspect_place();
            let room =
                Room { free: bytes(allowance.bytes()), total: bytes(total), suspects: place.is_some() };
            let job = match store.pick_into(&self.filter, 1, keeper.worker(), room).await {
                Ok(mut jobs) => jobs.pop(),
                Err(e) if leased.is_empty() => return Err(e),
                Err(_) => None,
            };
            if let Some(job) = job {
                leased.push(admit(job, allowance, place));
                self.needed = None;
                continue;
            }
            drop(allowance);
            let next = if leased.is_empty() && room.free < room.total {
                store.next_peak_memory(&self.filter, room).await?
            } else {
                None
            };
            // It keeps its place in the row while the job is the same.
            let is_known = matches!((&self.needed, next), (Some((known, _)), Some(next)) if *known == next);
            if !is_known {
                let wait = |peak| {
                    let (memory, bytes) = (memory.clone(), u64::try_from(peak).unwrap_or(0));
                    (peak, async move { memory.wait_for(bytes).await }.boxed())
                };
                self.needed = next.map(wait);
            }
            break;
        }
        Ok(leased)
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
        if matches!(result, Ok(()) | Err(SaveError::LeaseLost))
            && let Some(held_for) = self.keeper.forget(job)
        {
            let outcome = if result.is_ok() { outcome } else { AttemptOutcome::LeaseLost };
            ATTEMPT_METRICS[&CircuitLabels::of(&job.key)].attempt_time[&outcome].observe(held_for);
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
