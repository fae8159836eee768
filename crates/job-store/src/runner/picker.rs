//! A picker over the store.

use crate::leases::pick::{PickFilter, Room};
use crate::model::error::StoreError;
use crate::model::rows::LeasedJob;
use crate::runner::context::{LoadError, WorkerContext};
use async_trait::async_trait;
use futures::{
    FutureExt,
    future::{BoxFuture, join_all},
};
use job_runner::{Allowance, Executor, JobMetadata, JobPicker, Lease, PickError, Picked, Reservation};
use std::panic::AssertUnwindSafe;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;

impl JobMetadata for LeasedJob {
    fn span(&self) -> tracing::Span {
        tracing::info_span!("job", id = self.id, batch = %self.batch, job = %self.key, attempt = self.attempt)
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
    /// The registration of the worker for which the store knows what is picked here.
    announced_for: Option<u64>,
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
            announced_for: None,
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
        let registration = self.context.keeper.registrations();
        if self.announced_for != Some(registration) {
            // For those who ask why a job does not run; a picker that cannot say what it takes cannot take anything either.
            let announced =
                self.context.store.announce_filter(self.context.keeper.worker(), &self.filter).await;
            announced.map_err(|e| PickError::Unavailable(e.to_string()))?;
            self.announced_for = Some(registration);
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
