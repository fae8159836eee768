//! The runner: the picker's task, a pool of threads, and the saver's task, with a bounded channel before and after the
//! threads.

use crate::metrics::{JobOutcome, RUNNER_METRICS, RunnerLabels};
use crate::pool::{Finished, Left, Pace, Pool, Queued, panic_message};
use crate::queue::{QueueSender, queue};
use crate::shared::Shared;
use crate::shutdown::Shutdown;
use crate::{ExecuteError, Executor, JobContext, JobPicker, JobSaver, Outcome, PickError, Picked, SaveError};
use futures::{FutureExt, future::join_all};
use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc},
    task::{JoinError, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

/// First and longest pause after an error of picker or saver; each pause is a random part of a doubling interval, so
/// that a fleet does not come back in step.
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
const BACKOFF_LONGEST: Duration = Duration::from_secs(5);

/// Results that a task saves beside each other: so many futures `join_all` polls without an allocation for each.
const SAVES_TOGETHER: usize = 30;

/// What a runner did, returned when it ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunnerReport {
    /// The runner's name.
    pub name: String,
    /// Results saved as successes.
    pub successful: u64,
    /// Results saved as failures.
    pub failed: u64,
    /// Jobs handed back.
    pub released: u64,
    /// Results dropped for a lost lease.
    pub lease_lost: u64,
    /// Whether the drain timeout ended before all running jobs did.
    pub drain_timed_out: bool,
    /// CPU time of the executing threads; what an executor hands to other threads is not in it.
    pub execute_cpu_time: Duration,
}

/// What builder and runner agree on.
#[derive(Debug, Clone)]
struct Settings {
    name: String,
    workers: usize,
    prefetch: usize,
    saves: Option<usize>,
    drain_timeout: Duration,
    shutdown: Shutdown,
    holds_slots_until_saved: bool,
}

/// Settings of a runner; see [`JobRunner::builder`].
#[derive(Debug)]
pub struct JobRunnerBuilder<P, E, S> {
    settings: Settings,
    picker: P,
    executor: E,
    saver: S,
}

/// Picker → worker pool → saver. See the crate's documentation.
pub struct JobRunner<P: JobPicker, S> {
    settings: Settings,
    picker: P,
    executor: P::Executor,
    saver: Arc<S>,
    pace: Option<Pace<P::Executor>>,
}

impl JobRunner<Unset, Unset> {
    /// Starts the settings of a runner; its name labels its metrics.
    #[must_use]
    pub fn builder(name: impl Into<String>) -> JobRunnerBuilder<Unset, Unset, Unset> {
        let settings = Settings {
            name: name.into(),
            workers: 1,
            prefetch: 1,
            saves: None,
            drain_timeout: Duration::from_secs(60),
            shutdown: Shutdown::default(),
            holds_slots_until_saved: false,
        };
        JobRunnerBuilder { settings, picker: Unset, executor: Unset, saver: Unset }
    }
}

/// A part that the builder does not have yet.
#[derive(Debug, Clone, Copy)]
pub struct Unset;

/// Only for the builder's type; never picks.
#[async_trait::async_trait]
impl JobPicker for Unset {
    type Executor = Unset;
    async fn pick(&mut self, _: usize) -> Result<Vec<Picked<Unset>>, PickError> {
        Err(PickError::Closed)
    }
    async fn wait(&mut self) {}
}

impl Executor for Unset {
    type Input = ();
    type Output = ();
    type Metadata = ();
    fn execute(&self, (): (), _: &JobContext<'_, ()>) -> Result<(), ExecuteError> {
        Err(ExecuteError::Cancelled)
    }
}

impl<P, E, S> JobRunnerBuilder<P, E, S> {
    /// Where jobs come from.
    #[must_use]
    pub fn picker<Q: JobPicker>(self, picker: Q) -> JobRunnerBuilder<Q, E, S> {
        JobRunnerBuilder { settings: self.settings, picker, executor: self.executor, saver: self.saver }
    }

    /// What does the work.
    #[must_use]
    pub fn executor<F: Executor>(self, executor: F) -> JobRunnerBuilder<P, F, S> {
        JobRunnerBuilder { settings: self.settings, picker: self.picker, executor, saver: self.saver }
    }

    /// Where results go.
    #[must_use]
    pub fn saver<T: JobSaver>(self, saver: T) -> JobRunnerBuilder<P, E, T> {
        JobRunnerBuilder { settings: self.settings, picker: self.picker, executor: self.executor, saver }
    }

    /// Jobs executed at the same time; 1 unless set.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.settings.workers = workers.max(1);
        self
    }

    /// Jobs held ready beside those executing; 1 unless set. With 0 a worker waits while its next input is fetched. Of more
    /// than 2, at least half are picked at a time.
    #[must_use]
    pub fn prefetch(mut self, prefetch: usize) -> Self {
        self.settings.prefetch = prefetch;
        self
    }

    /// Results being saved at the same time; as many as there are workers unless set. Each keeps its output in memory. Many
    /// are of use where jobs take milliseconds and a save waits for a disk that it shares with other saves.
    #[must_use]
    pub fn saves(mut self, saves: usize) -> Self {
        self.settings.saves = Some(saves.max(1));
        self
    }

    /// Counts a job among the `workers + prefetch` until its result is saved, not only until its execution ends. For savers
    /// that feed the next runner of a chain: what that one does not take yet keeps this one from picking more. For others
    /// it would only keep workers waiting for the store.
    #[must_use]
    pub fn hold_slots_until_saved(mut self) -> Self {
        self.settings.holds_slots_until_saved = true;
        self
    }

    /// How long running jobs may take to finish once the drain begins; a minute unless set.
    #[must_use]
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.settings.drain_timeout = timeout;
        self
    }

    /// The signal to stop: a [`Shutdown`], or a token that begins the drain.
    #[must_use]
    pub fn shutdown(mut self, shutdown: impl Into<Shutdown>) -> Self {
        self.settings.shutdown = shutdown.into();
        self
    }
}

impl<P, S> JobRunnerBuilder<P, P::Executor, S>
where
    P: JobPicker,
    S: JobSaver<Executor = P::Executor>,
{
    /// The runner.
    #[must_use]
    pub fn build(self) -> JobRunner<P, S> {
        let Self { settings, picker, executor, saver } = self;
        JobRunner { settings, picker, executor, saver: Arc::new(saver), pace: None }
    }
}

impl<P, S> JobRunner<P, S>
where
    P: JobPicker,
    S: JobSaver<Executor = P::Executor>,
{
    /// For a runtime whose clock a test holds: executions are no threads' work, and each takes as long as `pace` says, by that clock.
    /// Everything else is as ever.
    #[must_use]
    pub fn simulated(
        mut self,
        pace: impl Fn(&<P::Executor as Executor>::Metadata) -> Duration + Send + Sync + 'static,
    ) -> Self {
        self.pace = Some(Arc::new(pace));
        self
    }

    /// Runs until the shutdown signal, or until the picker is closed; then drains and reports.
    ///
    /// Not cancelled half way: dropping the future leaves leases to expire.
    pub async fn run(self) -> RunnerReport {
        let Self { settings, picker, executor, saver, pace } = self;
        let Settings { name, workers, prefetch, saves, drain_timeout, shutdown, holds_slots_until_saved } =
            settings;
        let shared = Arc::new(Shared {
            metrics: &RUNNER_METRICS[&RunnerLabels { runner: name.clone() }],
            name,
            holds_slots_until_saved,
            saver,
            counts: Default::default(),
            execute_cpu_nanoseconds: AtomicU64::new(0),
            stop: shutdown.picking_ends().clone(),
            give_up: CancellationToken::new(),
            queued: Notify::new(),
        });
        let saves = saves.unwrap_or(workers);
        let slots = Arc::new(Semaphore::new(workers + prefetch));
        // Half of what is held ready is picked at a time: the other half keeps the workers busy meanwhile, and a queue is asked
        // for many jobs once and not for one many times.
        let least = u32::try_from(prefetch.div_ceil(2)).unwrap_or(u32::MAX).max(1);
        let (queue_sender, queue) = queue();
        // A worker that waits here is the back-pressure that bounds the results in memory.
        let (result_sender, results) = mpsc::channel(saves);
        let pool = Pool::start(&shared, executor, pace, workers, queue, &result_sender);
        drop(result_sender);
        if pool.workers() == 0 {
            shutdown.drain();
        }
        let supervising = tokio::spawn({
            let pool = pool.clone();
            async move { pool.supervise().await }
        });
        let saving = tokio::spawn(save_all(shared.clone(), results, saves));
        let picking = tokio::spawn(pick_all(shared.clone(), picker, slots, least, queue_sender));
        drop(pool);

        let drained = async {
            // The order is the way of the jobs: no more picks, then idle workers, then saved results.
            for (what, task) in [("picker", picking), ("saver", saving)] {
                if let Err(error) = task.await {
                    tracing::error!(runner = shared.name, "the {what}'s task ended by a panic: {error}");
                    // A runner that does half of its work must not look as if it did all.
                    shutdown.drain();
                }
            }
        };
        let deadline = async {
            shutdown.drain_begins().cancelled().await;
            tokio::time::sleep(drain_timeout).await;
        };
        tokio::pin!(drained);
        let drain_timed_out = tokio::select! {
            biased;
            () = &mut drained => false,
            () = deadline => {
                shared.give_up.cancel();
                // Workers answer at once now: they release what they hold and leave the thread to end by itself.
                drained.await;
                true
            }
        };
        supervising.abort();
        let count = |outcome: JobOutcome| shared.counts[outcome as usize].load(Ordering::Relaxed);
        RunnerReport {
            name: shared.name.clone(),
            execute_cpu_time: Duration::from_nanos(shared.execute_cpu_nanoseconds.load(Ordering::Relaxed)),
            successful: count(JobOutcome::Successful),
            failed: count(JobOutcome::Failed),
            released: count(JobOutcome::Released),
            lease_lost: count(JobOutcome::LeaseLost),
            drain_timed_out,
        }
    }
}

fn backoff(errors: u32) -> Duration {
    let longest = BACKOFF_FIRST.saturating_mul(1 << errors.min(10)).min(BACKOFF_LONGEST);
    longest.mul_f64(0.5 + fastrand::f64() / 2.0)
}

/// What the picker does, where a panic of its own becomes an error: the task would end with it, and nothing would ever be picked
/// again, while the process lives and its heartbeat goes on.
async fn surviving<T>(what: &str, doing: impl Future<Output = T>) -> Result<T, PickError> {
    AssertUnwindSafe(doing).catch_unwind().await.map_err(|panic| {
        PickError::Panicked(format!("the picker panicked while {what}: {}", panic_message(&*panic)))
    })
}

/// Says why nothing was picked, and pauses. False when it was told to stop meanwhile.
async fn rest<S>(shared: &Shared<S>, error: &PickError, errors: &mut u32) -> bool {
    let pause = backoff(*errors);
    *errors = errors.saturating_add(1);
    shared.metrics.pick_errors.inc();
    match error {
        PickError::Panicked(_) => {
            tracing::error!(runner = shared.name, errors, "it starts anew in {pause:?}: {error}");
        }
        _ => tracing::warn!(runner = shared.name, errors, "cannot pick, next try in {pause:?}: {error}"),
    }
    tokio::select! {
        biased;
        () = tokio::time::sleep(pause) => true,
        () = shared.stop.cancelled() => false,
    }
}

/// The picker's task: one pick for as many jobs as there are free slots, once there are enough of them.
async fn pick_all<P, S>(
    shared: Arc<Shared<S>>,
    mut picker: P,
    slots: Arc<Semaphore>,
    least: u32,
    queue: QueueSender<Queued<P::Executor>>,
) where
    P: JobPicker,
    S: JobSaver<Executor = P::Executor>,
{
    let mut errors = 0;
    while !shared.stop.is_cancelled() {
        let first = tokio::select! {
            // The slots of what is handed back at the signal are no reason to pick once more.
            biased;
            () = shared.stop.cancelled() => break,
            slots = slots.clone().acquire_many_owned(least) => slots,
        };
        let Ok(mut first) = first else { break };
        let mut free = Vec::new();
        while let Some(slot) = first.split(1) {
            free.push(slot);
        }
        while let Ok(slot) = slots.clone().try_acquire_owned() {
            free.push(slot);
        }
        let begun = Instant::now();
        match surviving("picking", picker.pick(free.len())).await.flatten() {
            Ok(jobs) => {
                debug_assert!(jobs.len() <= free.len(), "a picker took more jobs than it was asked for");
                if jobs.is_empty() {
                    drop(free);
                    let begun = Instant::now();
                    let waited = tokio::select! {
                        biased;
                        waited = surviving("waiting for jobs", picker.wait()) => waited,
                        () = shared.stop.cancelled() => break,
                    };
                    shared.metrics.wait_time.observe(begun.elapsed());
                    match waited {
                        Ok(()) => errors = 0,
                        // Without a pause a wait that always panics would be a loop that never rests.
                        Err(error) => {
                            if !rest(&shared, &error, &mut errors).await {
                                break;
                            }
                        }
                    }
                    continue;
                }
                errors = 0;
                shared.metrics.pick_time.observe(begun.elapsed());
                for job in jobs {
                    shared.metrics.load_time.observe(job.load_time);
                    shared.metrics.in_flight.inc_by(1);
                    let Some(slot) = free.pop() else {
                        release(&shared, &job.metadata).await;
                        continue;
                    };
                    if shared.stop.is_cancelled() {
                        // The workers may be gone, or hang.
                        release(&shared, &job.metadata).await;
                        continue;
                    }
                    queue.send(Queued { job, slot, since: Instant::now() });
                    shared.queued.notify_one();
                }
            }
            Err(PickError::Closed) => break,
            Err(error) => {
                drop(free);
                if !rest(&shared, &error, &mut errors).await {
                    break;
                }
            }
        }
    }
    drop(queue);
    shared.queued.notify_waiters();
    let left = surviving("closing", picker.close()).await;
    if let Err(error) = &left {
        tracing::error!(runner = shared.name, "{error}");
    }
    for job in left.unwrap_or_default() {
        shared.metrics.in_flight.inc_by(1);
        release(&shared, &job.metadata).await;
    }
}

async fn release<S: JobSaver>(shared: &Shared<S>, metadata: &<S::Executor as Executor>::Metadata) {
    shared.saver.release(metadata).await;
    shared.count(JobOutcome::Released);
}

/// The saver's task: saves up to so many results at once.
async fn save_all<E, S>(shared: Arc<Shared<S>>, mut results: mpsc::Receiver<Left<E>>, most: usize)
where
    E: Executor,
    S: JobSaver<Executor = E>,
{
    let places = Arc::new(Semaphore::new(most));
    let mut saves = JoinSet::new();
    while let Some(first) = results.recv().await {
        let Ok(place) = places.clone().acquire_owned().await else { break };
        // What has piled up shares a task: where jobs are short, a task for each costs as much as its save.
        let mut together = vec![put_back(shared.clone(), first, place)];
        while together.len() < SAVES_TOGETHER
            && let Ok(place) = places.clone().try_acquire_owned()
            && let Ok(next) = results.try_recv()
        {
            together.push(put_back(shared.clone(), next, place));
        }
        while let Some(ended) = saves.try_join_next() {
            say_panic(&shared, ended);
        }
        saves.spawn(join_all(together));
    }
    while let Some(ended) = saves.join_next().await {
        say_panic(&shared, ended);
    }
}

/// A release that panicked leaves its job to its lease's end; other saves go on.
fn say_panic<S>(shared: &Shared<S>, ended: Result<Vec<()>, JoinError>) {
    if let Err(error) = ended {
        shared.metrics.save_errors.inc();
        tracing::error!(runner = shared.name, "the saver panicked; its jobs keep their leases: {error}");
    }
}

/// Saves a result, or hands back what was not worked on.
async fn put_back<E, S>(shared: Arc<Shared<S>>, left: Left<E>, _place: OwnedSemaphorePermit)
where
    E: Executor,
    S: JobSaver<Executor = E>,
{
    match left {
        Left::Finished(finished) => {
            let (span, metadata) = (finished.span.clone(), finished.metadata.clone());
            let saved =
                AssertUnwindSafe(save(shared.clone(), finished)).catch_unwind().instrument(span).await;
            if let Err(panic) = saved {
                // Other results are saved beside it, and its lease would live as long as this process.
                shared.metrics.save_errors.inc();
                let reason = panic_message(&*panic);
                tracing::error!(runner = shared.name, "the saver panicked, the job is released: {reason}");
                release(&shared, &metadata).await;
            }
        }
        Left::Unfinished(metadata) => release(&shared, &metadata).await,
    }
}

/// Saves one result, again and again while its lease lives.
async fn save<E, S>(shared: Arc<Shared<S>>, finished: Finished<E>)
where
    E: Executor,
    S: JobSaver<Executor = E>,
{
    // Its slot, where it has one still, is free when this ends.
    let Finished { metadata, lease, mut outcome, _slot, .. } = finished;
    let begun = Instant::now();
    let is_success = matches!(outcome, Outcome::Success(_));
    let mut errors = 0;
    loop {
        if lease.is_lost() {
            shared.count(JobOutcome::LeaseLost);
            break;
        }
        match shared.saver.save(&metadata, &lease, &mut outcome).await {
            Ok(()) => {
                shared.count(if is_success { JobOutcome::Successful } else { JobOutcome::Failed });
                break;
            }
            Err(SaveError::LeaseLost) => {
                lease.lose();
                shared.count(JobOutcome::LeaseLost);
                break;
            }
            Err(SaveError::Refused(reason)) => {
                tracing::error!(
                    runner = shared.name,
                    "the result cannot be saved, the job is released: {reason}"
                );
                release(&shared, &metadata).await;
                break;
            }
            Err(SaveError::Unavailable(reason)) => {
                let pause = backoff(errors);
                errors += 1;
                shared.metrics.save_errors.inc();
                tracing::warn!(runner = shared.name, errors, "cannot save, next try in {pause:?}: {reason}");
                tokio::select! {
                    biased;
                    () = tokio::time::sleep(pause) => {}
                    () = lease.lost() => {}
                    () = shared.give_up.cancelled() => {
                        release(&shared, &metadata).await;
                        break;
                    }
                }
            }
        }
    }
    shared.metrics.save_time.observe(begun.elapsed());
}
