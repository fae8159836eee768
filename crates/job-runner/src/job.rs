//! The three traits, and what passes between them.

use crate::Reservation;
use async_trait::async_trait;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};
use thiserror::Error;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The right to finish one attempt of one job. Clones share one state.
///
/// Whoever keeps the lease alive (a heartbeat, usually) calls [`Lease::lose`] when it no longer can; the job hears of it
/// through its [`JobContext`], and its result is dropped.
#[derive(Debug, Clone, Default)]
pub struct Lease {
    lost: CancellationToken,
    deadline: Option<Instant>,
    /// Progress in thousandths, so that it fits an atomic.
    progress: Arc<AtomicU32>,
    /// Ends with the last clone: also an execution that nobody waits for any more keeps its memory.
    reservation: Option<Arc<Reservation>>,
}

impl Lease {
    /// A lease that holds until it is lost.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same lease with a time after which the runner gives the attempt up: its context is cancelled, and it fails with
    /// [`ExecuteError::TimedOut`]. An executor that never asks runs on beside the next, and its result goes nowhere.
    #[must_use]
    pub fn with_deadline(mut self, deadline: impl Into<Instant>) -> Self {
        self.deadline = Some(deadline.into());
        self
    }

    /// The same lease, with the memory that is kept for its job.
    #[must_use]
    pub fn with_reservation(mut self, reservation: Reservation) -> Self {
        self.reservation = Some(Arc::new(reservation));
        self
    }

    /// The most memory that the job was seen to take, in bytes; `None` where that was not measured.
    #[must_use]
    pub fn peak_memory_bytes(&self) -> Option<u64> {
        self.reservation.as_ref().map(|reservation| reservation.peak()).filter(|peak| *peak > 0)
    }

    /// Gives the lease up: another may hold it now.
    pub fn lose(&self) {
        self.lost.cancel();
    }

    /// Whether the lease was lost.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }

    /// Returns once the lease is lost.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// How far the job says that it is, from 0 to 1.
    #[must_use]
    pub fn progress(&self) -> f32 {
        self.progress.load(Ordering::Relaxed) as f32 / 1000.0
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    fn report_progress(&self, fraction: f32) {
        self.progress.store((fraction.clamp(0.0, 1.0) * 1000.0) as u32, Ordering::Relaxed);
    }
}

/// What identifies a job to its saver and in logs.
pub trait JobMetadata: Send + Sync + 'static {
    /// The span that covers the job's way through the runner; give it the job's ids.
    fn span(&self) -> tracing::Span {
        tracing::Span::none()
    }
}

impl JobMetadata for () {}
impl JobMetadata for u64 {}

/// A job that was picked: its input is loaded and its lease is held.
#[derive(Debug)]
pub struct Picked<E: Executor + ?Sized> {
    /// What the executor works on.
    pub input: E::Input,
    /// What the saver needs to know.
    pub metadata: E::Metadata,
    /// The right to finish it.
    pub lease: Lease,
    /// How long loading the input took.
    pub load_time: Duration,
}

impl<E: Executor + ?Sized> Picked<E> {
    /// A picked job whose lease never ends.
    pub fn new(input: E::Input, metadata: E::Metadata) -> Self {
        Self { input, metadata, lease: Lease::new(), load_time: Duration::ZERO }
    }

    /// The same job under this lease.
    #[must_use]
    pub fn with_lease(mut self, lease: Lease) -> Self {
        self.lease = lease;
        self
    }
}

/// What a running job sees of the world.
#[derive(Debug)]
pub struct JobContext<'a, M> {
    metadata: &'a M,
    lease: &'a Lease,
    /// The runner no longer waits for this execution.
    abandoned: &'a AtomicBool,
}

impl<'a, M> JobContext<'a, M> {
    pub(crate) fn new(metadata: &'a M, lease: &'a Lease, abandoned: &'a AtomicBool) -> Self {
        Self { metadata, lease, abandoned }
    }

    /// The job's metadata.
    #[must_use]
    pub fn metadata(&self) -> &M {
        self.metadata
    }

    /// Whether to stop: nobody wants the result. Long executors ask between their steps.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.lease.is_lost() || self.abandoned.load(Ordering::Acquire)
    }

    /// Tells how much is done, from 0 to 1; shown to operators.
    pub fn report_progress(&self, fraction: f32) {
        self.lease.report_progress(fraction);
    }

    /// When the runner gives the attempt up, where that was said.
    #[must_use]
    pub fn deadline(&self) -> Option<std::time::Instant> {
        self.lease.deadline.map(Instant::into_std)
    }
}

/// Why a job has no output. The variant decides what becomes of the job; the text is for people.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ExecuteError {
    /// Another attempt may succeed.
    #[error("{0}")]
    Retryable(String),
    /// No attempt will ever succeed.
    #[error("{0}")]
    Fatal(String),
    /// Something around the job is away, a store for example: nothing is said about the job, which is handed back and costs
    /// nobody anything.
    #[error("{0}")]
    Unavailable(String),
    /// The job was told to stop.
    #[error("cancelled")]
    Cancelled,
    /// The attempt passed its lease's deadline. Made by the runner alone; another attempt may be in time.
    #[error("it ran for {0:?} and passed its deadline")]
    TimedOut(Duration),
}

/// How an attempt ended, as the saver gets it.
#[derive(Debug)]
pub enum Outcome<T> {
    /// The output. `None` after a saver took it ([`Outcome::take_output`]).
    Success(Option<T>),
    /// The attempt failed; a panic is a retryable failure with the panic's message.
    Failure(ExecuteError),
}

impl<T> Outcome<T> {
    /// Takes the output, for savers that hand it on instead of copying it. A second call finds nothing.
    pub fn take_output(&mut self) -> Option<T> {
        match self {
            Self::Success(output) => output.take(),
            Self::Failure(_) => None,
        }
    }
}

/// Why nothing was picked.
#[derive(Debug, Error)]
pub enum PickError {
    /// The queue cannot be reached now; the runner tries again, with backoff.
    #[error("{0}")]
    Unavailable(String),
    /// The picker panicked. Made by the runner alone, which calls the picker again, with backoff.
    #[error("{0}")]
    Panicked(String),
    /// No job will ever come again; the runner finishes what it has and ends.
    #[error("the source of jobs is closed")]
    Closed,
}

/// Why a result was not saved.
#[derive(Debug, Error)]
pub enum SaveError {
    /// The store cannot be reached now; the runner tries again while the lease lives.
    #[error("{0}")]
    Unavailable(String),
    /// The lease is no longer ours; the result is dropped.
    #[error("the lease was lost")]
    LeaseLost,
    /// The result can never be saved; the job is released.
    #[error("{0}")]
    Refused(String),
}

/// Takes jobs out of a queue.
#[async_trait]
pub trait JobPicker: Send + 'static {
    /// Whose jobs these are.
    type Executor: Executor;

    /// Up to `want` jobs, with their inputs loaded; none when the queue has none. Not cancelled half way.
    async fn pick(&mut self, want: usize) -> Result<Vec<Picked<Self::Executor>>, PickError>;

    /// Returns when the queue may have work, or after a while: never returning loses a wake-up for good.
    /// May be cancelled at any await.
    async fn wait(&mut self);

    /// Called once when the runner stops; returns jobs that were taken and not yet given out.
    async fn close(&mut self) -> Vec<Picked<Self::Executor>> {
        Vec::new()
    }
}

/// Does the work.
pub trait Executor: Send + Sync + 'static {
    /// What it works on.
    type Input: Send + 'static;
    /// What it makes.
    type Output: Send + 'static;
    /// What goes along with the job.
    type Metadata: JobMetadata;

    /// Works on one job. Blocks: it runs on a thread of its own. Idempotent: a job may run more than once.
    ///
    /// # Errors
    /// See [`ExecuteError`]; a panic counts as [`ExecuteError::Retryable`].
    fn execute(
        &self,
        input: Self::Input,
        ctx: &JobContext<'_, Self::Metadata>,
    ) -> Result<Self::Output, ExecuteError>;
}

/// Puts results back.
#[async_trait]
pub trait JobSaver: Send + Sync + 'static {
    /// Whose results these are.
    type Executor: Executor;

    /// Saves how an attempt ended. Called again with the same outcome after [`SaveError::Unavailable`].
    async fn save(
        &self,
        metadata: &<Self::Executor as Executor>::Metadata,
        lease: &Lease,
        outcome: &mut Outcome<<Self::Executor as Executor>::Output>,
    ) -> Result<(), SaveError>;

    /// Hands a job back that was not worked on, or not to its end, at no cost in attempts.
    async fn release(&self, metadata: &<Self::Executor as Executor>::Metadata);
}
