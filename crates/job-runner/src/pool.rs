//! The worker pool: threads of its own, that take jobs from one queue.
//!
//! A thread and not a blocking task a job: under load a worker goes from one job to the next without sleeping, where waking
//! another thread for each job costs more than a short job itself.
//!
//! A thread cannot be stopped. One whose job passed its deadline, or outlasted the drain, loses its [`Seat`] to the supervisor,
//! who answers for the job and seats another thread; whatever the old one still makes goes nowhere, and it ends with its job.

use crate::job::JobContext;
use crate::metrics::JobOutcome;
use crate::queue::Queue;
use crate::shared::Shared;
use crate::{ExecuteError, Executor, JobMetadata, JobSaver, Lease, Outcome, Picked};
use std::{
    any::Any,
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, mpsc},
    time::Instant,
};

/// A job between picker and worker. Its slot is free again when its execution ends (or its result is saved, where the
/// runner holds slots for so long), so `workers + prefetch` bounds the inputs in memory.
pub(crate) struct Queued<E: Executor> {
    pub(crate) job: Picked<E>,
    pub(crate) slot: OwnedSemaphorePermit,
    pub(crate) since: Instant,
}

/// What leaves the pool, for the saver's task.
pub(crate) enum Left<E: Executor> {
    /// It was worked on.
    Finished(Finished<E>),
    /// It is to be handed back.
    Unfinished(Arc<E::Metadata>),
}

pub(crate) struct Finished<E: Executor> {
    pub(crate) metadata: Arc<E::Metadata>,
    pub(crate) lease: Lease,
    pub(crate) outcome: Outcome<E::Output>,
    pub(crate) span: tracing::Span,
    /// Held until the result is saved.
    pub(crate) _slot: Option<OwnedSemaphorePermit>,
}

/// The job that a worker has in hand.
struct Current<E: Executor> {
    metadata: Arc<E::Metadata>,
    lease: Lease,
    slot: OwnedSemaphorePermit,
    span: tracing::Span,
    abandoned: Arc<AtomicBool>,
    begun: Instant,
}

/// How long the executions of a simulation take.
pub(crate) type Pace<E> = Arc<dyn Fn(&<E as Executor>::Metadata) -> Duration + Send + Sync>;

/// What a worker does with a job from the queue.
enum Taken<E: Executor> {
    /// It executes it.
    Up(TakenUp<E>),
    /// It hands it back.
    Back(Left<E>),
    /// Its lease is gone, and so is the job.
    Gone,
}

/// A job that a worker is about to execute.
struct TakenUp<E: Executor> {
    input: E::Input,
    metadata: Arc<E::Metadata>,
    lease: Lease,
    abandoned: Arc<AtomicBool>,
    span: tracing::Span,
    begun: Instant,
}

impl<E: Executor> TakenUp<E> {
    fn execute<S>(self, executor: &E, shared: &Shared<S>) -> Result<E::Output, ExecuteError> {
        let workers = &shared.metrics.busy_workers;
        workers.inc_by(1);
        let result = execute(executor, self.input, &self.metadata, &self.lease, &self.abandoned);
        let spent = cpu_time_since_last_asked();
        workers.dec_by(1);
        let nanoseconds = u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX);
        shared.execute_cpu_nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
        shared.metrics.execute_cpu_time.inc_by(spent.as_secs_f64());
        result
    }
}

/// A worker's place in the pool: its way to the saver, and its job. Whoever takes the job out answers for it.
struct Seat<E: Executor> {
    results: mpsc::Sender<Left<E>>,
    current: Option<Current<E>>,
}

/// Empty once the worker has gone, or the supervisor has taken its place from it.
type Chair<E> = Arc<Mutex<Option<Seat<E>>>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The workers of one runner.
pub(crate) struct Pool<E: Executor, S> {
    shared: Arc<Shared<S>>,
    executor: Arc<E>,
    /// Of a simulation, whose workers are tasks.
    pace: Option<Pace<E>>,
    jobs: Arc<Queue<Queued<E>>>,
    chairs: Mutex<Vec<Chair<E>>>,
    /// When the supervisor looks next, in microseconds since `begun`; a job with an earlier deadline wakes it.
    next_look: AtomicU64,
    look: Notify,
    begun: Instant,
}

impl<E, S> Pool<E, S>
where
    E: Executor,
    S: JobSaver<Executor = E>,
{
    /// Starts the workers. The results end when the last worker has gone.
    pub(crate) fn start(
        shared: &Arc<Shared<S>>,
        executor: E,
        pace: Option<Pace<E>>,
        workers: usize,
        jobs: Arc<Queue<Queued<E>>>,
        results: &mpsc::Sender<Left<E>>,
    ) -> Arc<Self> {
        let pool = Arc::new(Self {
            shared: shared.clone(),
            executor: Arc::new(executor),
            pace,
            jobs,
            chairs: Mutex::default(),
            next_look: AtomicU64::new(u64::MAX),
            look: Notify::new(),
            begun: Instant::now(),
        });
        for _ in 0..workers {
            pool.seat(results.clone());
        }
        pool
    }

    /// How many workers there are.
    pub(crate) fn workers(&self) -> usize {
        lock(&self.chairs).len()
    }

    /// Starts a worker.
    fn seat(self: &Arc<Self>, results: mpsc::Sender<Left<E>>) {
        let chair: Chair<E> = Arc::new(Mutex::new(Some(Seat { results, current: None })));
        // Also after a panic that is not a job's: the results end with the last seat.
        let (pool, leave) = (self.clone(), Leave(chair.clone()));
        if let Some(pace) = self.pace.clone() {
            tokio::spawn(async move { pool.work_as_task(&leave.0, pace).await });
            lock(&self.chairs).push(chair);
            return;
        }
        // What an executor asks of the runtime, it asks of the one that the runner lives in.
        let runtime = tokio::runtime::Handle::current();
        let thread = std::thread::Builder::new().name(self.shared.name.clone());
        let started = thread.spawn(move || {
            let _context = runtime.enter();
            while let Some(queued) = pool.jobs.take() {
                let left = match pool.take_up(queued, &leave.0) {
                    None => return,
                    Some(Taken::Gone) => continue,
                    Some(Taken::Back(left)) => left,
                    Some(Taken::Up(job)) => {
                        let (span, begun) = (job.span.clone(), job.begun);
                        let result = span.in_scope(|| job.execute(&*pool.executor, &pool.shared));
                        let Some(left) = pool.put_down(&leave.0, begun, result) else { return };
                        left
                    }
                };
                let Some(results) = lock(&leave.0).as_ref().map(|seat| seat.results.clone()) else { return };
                let _ = results.blocking_send(left);
            }
        });
        match started {
            Ok(_) => lock(&self.chairs).push(chair),
            Err(e) => tracing::error!(runner = self.shared.name, "cannot start a worker thread: {e}"),
        }
    }

    /// A worker without a thread, for a runtime whose clock a test holds: each execution takes as long as it is told to, by that
    /// clock, and happens at once in the end.
    async fn work_as_task(&self, chair: &Chair<E>, pace: Pace<E>) {
        loop {
            let Some(queued) = self.jobs.try_take() else {
                if self.jobs.is_over() {
                    return;
                }
                self.shared.queued.notified().await;
                continue;
            };
            let left = match self.take_up(queued, chair) {
                None => return,
                Some(Taken::Gone) => continue,
                Some(Taken::Back(left)) => left,
                Some(Taken::Up(job)) => {
                    tokio::time::sleep(pace(&job.metadata)).await;
                    let (span, begun) = (job.span.clone(), job.begun);
                    let result = span.in_scope(|| job.execute(&*self.executor, &self.shared));
                    let Some(left) = self.put_down(chair, begun, result) else { return };
                    left
                }
            };
            let Some(results) = lock(chair).as_ref().map(|seat| seat.results.clone()) else { return };
            let _ = results.send(left).await;
        }
    }

    /// Takes a job up. `None` when the worker has lost its seat.
    fn take_up(&self, queued: Queued<E>, chair: &Chair<E>) -> Option<Taken<E>> {
        let Queued { job, slot, since } = queued;
        let Picked { input, metadata, lease, .. } = job;
        let shared = &self.shared;
        shared.metrics.queue_time.observe(since.elapsed());
        let metadata = Arc::new(metadata);
        if lease.is_lost() {
            shared.count(JobOutcome::LeaseLost);
            return Some(Taken::Gone);
        }
        if shared.stop.is_cancelled() {
            return Some(Taken::Back(Left::Unfinished(metadata)));
        }
        let abandoned = Arc::new(AtomicBool::new(false));
        let span = metadata.span();
        let begun = Instant::now();
        lock(chair).as_mut()?.current = Some(Current {
            metadata: metadata.clone(),
            lease: lease.clone(),
            slot,
            span: span.clone(),
            abandoned: abandoned.clone(),
            begun,
        });
        self.note_deadline(&lease);
        Some(Taken::Up(TakenUp { input, metadata, lease, abandoned, span, begun }))
    }

    /// What came of a job. `None` when the worker has lost its seat, and another has answered for the job.
    fn put_down(
        &self,
        chair: &Chair<E>,
        begun: Instant,
        result: Result<E::Output, ExecuteError>,
    ) -> Option<Left<E>> {
        let current = lock(chair).as_mut()?.current.take()?;
        self.shared.metrics.execute_time.observe(begun.elapsed());
        let outcome = match result {
            Ok(output) => Outcome::Success(Some(output)),
            Err(error) => Outcome::Failure(error),
        };
        Some(Left::Finished(current.finish(&self.shared, outcome)))
    }

    /// Wakes the supervisor where it would look too late.
    fn note_deadline(&self, lease: &Lease) {
        if let Some(deadline) = lease.deadline() {
            let at = self.microseconds(deadline);
            if self.next_look.fetch_min(at, Ordering::AcqRel) > at {
                self.look.notify_one();
            }
        }
    }

    fn microseconds(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.begun).as_micros()).unwrap_or(u64::MAX)
    }

    /// Ends what passes its deadline. On the shutdown signal, hands back what is queued; once the runner gives up, all that
    /// still runs, and returns.
    pub(crate) async fn supervise(self: &Arc<Self>) {
        let stop = async {
            self.shared.stop.cancelled().await;
            // At once, and not when a worker has time for it: workers may be busy for long, or hang.
            self.hand_back_queued().await;
            self.shared.give_up.cancelled().await;
            // A pick that was on its way when the signal came may have queued since.
            self.hand_back_queued().await;
        };
        tokio::select! {
            biased;
            () = stop => {}
            () = self.keep_deadlines() => {}
        }
        let seats: Vec<Seat<E>> =
            lock(&self.chairs).drain(..).filter_map(|chair| lock(&chair).take()).collect();
        for Seat { results, current } in seats {
            if let Some(current) = current {
                current.abandoned.store(true, Ordering::Release);
                let _ = results.send(Left::Unfinished(current.metadata)).await;
            }
        }
    }

    async fn hand_back_queued(&self) {
        while let Some(queued) = self.jobs.try_take() {
            let results =
                lock(&self.chairs).iter().find_map(|chair| Some(lock(chair).as_ref()?.results.clone()));
            let Some(results) = results else { return };
            let _ = results.send(Left::Unfinished(Arc::new(queued.job.metadata))).await;
        }
    }

    async fn keep_deadlines(self: &Arc<Self>) {
        loop {
            // Forgotten before the look, so that a job that begins meanwhile sets it again.
            self.next_look.store(u64::MAX, Ordering::Release);
            self.end_late().await;
            let next = self.next_look.load(Ordering::Acquire);
            let far = async {
                match self.begun.checked_add(Duration::from_micros(next)) {
                    Some(at) if next < u64::MAX => tokio::time::sleep_until(at).await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = far => {}
                () = self.look.notified() => {}
            }
        }
    }

    /// Ends every job whose deadline has passed, and notes the next deadline.
    async fn end_late(self: &Arc<Self>) {
        let now = Instant::now();
        let mut late = Vec::new();
        lock(&self.chairs).retain(|chair| {
            let mut seat = lock(chair);
            let deadline = seat.as_ref().and_then(|seat| seat.current.as_ref()?.lease.deadline());
            match deadline {
                Some(deadline) if deadline <= now => {
                    late.extend(seat.take());
                    false
                }
                Some(deadline) => {
                    self.next_look.fetch_min(self.microseconds(deadline), Ordering::AcqRel);
                    true
                }
                None => seat.is_some(),
            }
        });
        for Seat { results, current } in late {
            self.seat(results.clone());
            if let Some(current) = current {
                current.abandoned.store(true, Ordering::Release);
                let took = current.begun.elapsed();
                self.shared.metrics.execute_time.observe(took);
                let outcome = Outcome::Failure(ExecuteError::TimedOut(took));
                let _ = results.send(Left::Finished(current.finish(&self.shared, outcome))).await;
            }
        }
    }
}

impl<E: Executor> Current<E> {
    fn finish<S>(self, shared: &Shared<S>, outcome: Outcome<E::Output>) -> Finished<E> {
        let Self { metadata, lease, slot, span, .. } = self;
        let _slot = shared.holds_slots_until_saved.then_some(slot);
        Finished { metadata, lease, outcome, span, _slot }
    }
}

/// Empties a worker's chair when its thread ends.
struct Leave<E: Executor>(Chair<E>);

impl<E: Executor> Drop for Leave<E> {
    fn drop(&mut self) {
        lock(&self.0).take();
    }
}

/// CPU time of this thread since it last asked, or since it began. Between two jobs a thread only takes the next: what that costs
/// is less than to ask for the time twice a job.
fn cpu_time_since_last_asked() -> Duration {
    thread_local!(static LAST: Cell<Duration> = const { Cell::new(Duration::ZERO) });
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let time = Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0));
    time.saturating_sub(LAST.replace(time))
}

/// Runs the executor; a panic becomes the job's failure.
fn execute<E: Executor>(
    executor: &E,
    input: E::Input,
    metadata: &E::Metadata,
    lease: &Lease,
    abandoned: &AtomicBool,
) -> Result<E::Output, ExecuteError> {
    let context = JobContext::new(metadata, lease, abandoned);
    catch_unwind(AssertUnwindSafe(|| executor.execute(input, &context)))
        .unwrap_or_else(|panic| Err(ExecuteError::Retryable(format!("panicked: {}", panic_message(&*panic)))))
}

pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("with a value that is not text")
}
