//! Each promise of the runner, with a queue in memory. Tests wait on signals; none waits for time to pass, except where
//! a timeout is the subject, and then the clock is tokio's paused one or the timeout is short.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use async_trait::async_trait;
use job_runner::*;
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What an execution does.
#[derive(Clone)]
enum Act {
    Succeed,
    Fail(ExecuteError),
    Panic,
    /// Waits for its turn to be told, then succeeds.
    Block(Arc<Gate>),
    /// Polls the context until it is cancelled.
    UntilCancelled(Arc<Gate>),
}

/// A door between a test and a blocking execution.
#[derive(Default)]
struct Gate {
    entered: Notify,
    open: Mutex<Option<mpsc::Receiver<()>>>,
}

impl Gate {
    fn new() -> (Arc<Self>, mpsc::Sender<()>) {
        let (sender, receiver) = mpsc::channel();
        (Arc::new(Self { entered: Notify::new(), open: Mutex::new(Some(receiver)) }), sender)
    }
}

struct Actor;

impl Executor for Actor {
    type Input = Act;
    type Output = u64;
    type Metadata = u64;

    fn execute(&self, input: Act, ctx: &JobContext<'_, u64>) -> Result<u64, ExecuteError> {
        match input {
            Act::Succeed => Ok(*ctx.metadata()),
            Act::Fail(error) => Err(error),
            Act::Panic => panic!("job {} panics", ctx.metadata()),
            Act::Block(gate) => {
                let receiver = gate.open.lock().unwrap().take().unwrap();
                gate.entered.notify_one();
                ctx.report_progress(0.5);
                let _ = receiver.recv();
                Ok(*ctx.metadata())
            }
            Act::UntilCancelled(gate) => {
                gate.entered.notify_one();
                while !ctx.is_cancelled() {
                    std::thread::yield_now();
                }
                Err(ExecuteError::Cancelled)
            }
        }
    }
}

/// A queue that counts what is asked of it.
#[derive(Default)]
struct Queue {
    jobs: Mutex<VecDeque<Picked<Actor>>>,
    closed: std::sync::atomic::AtomicBool,
    woken: Notify,
    largest_want: AtomicUsize,
    picked: AtomicUsize,
    errors_left: AtomicUsize,
    waits: AtomicUsize,
}

impl Queue {
    fn with(acts: impl IntoIterator<Item = Act>) -> Arc<Self> {
        let queue = Arc::new(Self::default());
        for (i, act) in acts.into_iter().enumerate() {
            queue.jobs.lock().unwrap().push_back(Picked::new(act, i as u64));
        }
        queue
    }

    fn closing(acts: impl IntoIterator<Item = Act>) -> Arc<Self> {
        let queue = Self::with(acts);
        queue.closed.store(true, Ordering::Relaxed);
        queue
    }

    fn push(&self, job: Picked<Actor>) {
        self.jobs.lock().unwrap().push_back(job);
        self.woken.notify_one();
    }
}

struct QueuePicker(Arc<Queue>);

#[async_trait]
impl JobPicker for QueuePicker {
    type Executor = Actor;

    async fn pick(&mut self, want: usize) -> Result<Vec<Picked<Actor>>, PickError> {
        let queue = &self.0;
        queue.largest_want.fetch_max(want, Ordering::Relaxed);
        if queue.errors_left.load(Ordering::Relaxed) > 0 {
            queue.errors_left.fetch_sub(1, Ordering::Relaxed);
            return Err(PickError::Unavailable("the queue is away".to_owned()));
        }
        let mut jobs = queue.jobs.lock().unwrap();
        if jobs.is_empty() && queue.closed.load(Ordering::Relaxed) {
            return Err(PickError::Closed);
        }
        let take = want.min(jobs.len());
        queue.picked.fetch_add(take, Ordering::Relaxed);
        Ok(jobs.drain(..take).collect())
    }

    async fn wait(&mut self) {
        self.0.waits.fetch_add(1, Ordering::Relaxed);
        self.0.woken.notified().await;
    }
}

/// Remembers what was saved and released, and fails as often as it is told to.
#[derive(Default)]
struct Shelf {
    saved: Mutex<Vec<(u64, Result<u64, String>)>>,
    released: Mutex<Vec<u64>>,
    changed: Notify,
    errors_left: AtomicUsize,
    lose_on_error: std::sync::atomic::AtomicBool,
}

#[derive(Clone)]
struct ShelfSaver(Arc<Shelf>);

#[async_trait]
impl JobSaver for ShelfSaver {
    type Executor = Actor;

    async fn save(&self, id: &u64, lease: &Lease, outcome: &mut Outcome<u64>) -> Result<(), SaveError> {
        let shelf = &self.0;
        if shelf.errors_left.load(Ordering::Relaxed) > 0 {
            shelf.errors_left.fetch_sub(1, Ordering::Relaxed);
            if shelf.lose_on_error.load(Ordering::Relaxed) {
                lease.lose();
            }
            return Err(SaveError::Unavailable("the store is away".to_owned()));
        }
        let result = match outcome {
            Outcome::Success(output) => Ok(output.take().expect("saved twice")),
            Outcome::Failure(error) => Err(error.to_string()),
        };
        shelf.saved.lock().unwrap().push((*id, result));
        shelf.changed.notify_one();
        Ok(())
    }

    async fn release(&self, id: &u64) {
        self.0.released.lock().unwrap().push(*id);
        self.0.changed.notify_one();
    }
}

fn runner(queue: &Arc<Queue>, shelf: &Arc<Shelf>) -> JobRunnerBuilder<QueuePicker, Actor, ShelfSaver> {
    JobRunner::builder("test")
        .picker(QueuePicker(queue.clone()))
        .executor(Actor)
        .saver(ShelfSaver(shelf.clone()))
}

fn saved_ids(shelf: &Shelf) -> Vec<u64> {
    let mut ids: Vec<u64> = shelf.saved.lock().unwrap().iter().map(|(id, _)| *id).collect();
    ids.sort_unstable();
    ids
}

/// Successful, failed, released, lost.
fn ends(report: &RunnerReport) -> (u64, u64, u64, u64) {
    (report.successful, report.failed, report.released, report.lease_lost)
}

#[tokio::test]
async fn every_job_is_executed_and_saved_once() {
    let (queue, shelf) = (Queue::closing(vec![Act::Succeed; 500]), Arc::new(Shelf::default()));
    let report = runner(&queue, &shelf).workers(7).prefetch(3).build().run().await;
    assert_eq!(saved_ids(&shelf), (0..500).collect::<Vec<_>>());
    assert_eq!(ends(&report), (500, 0, 0, 0));
    assert!(queue.largest_want.load(Ordering::Relaxed) <= 10);
}

#[tokio::test]
async fn a_panic_and_each_kind_of_failure_are_that_jobs_alone() {
    let acts = [
        Act::Succeed,
        Act::Panic,
        Act::Fail(ExecuteError::Fatal("broken".to_owned())),
        Act::Fail(ExecuteError::Retryable("busy".to_owned())),
        Act::Succeed,
    ];
    let (queue, shelf) = (Queue::closing(acts), Arc::new(Shelf::default()));
    let report = runner(&queue, &shelf).build().run().await;
    let saved = shelf.saved.lock().unwrap();
    let of = |id: u64| saved.iter().find(|(saved, _)| *saved == id).unwrap().1.clone();
    assert_eq!((of(0), of(4)), (Ok(0), Ok(4)));
    assert_eq!(of(1), Err("panicked: job 1 panics".to_owned()));
    assert_eq!((of(2), of(3)), (Err("broken".to_owned()), Err("busy".to_owned())));
    assert_eq!((report.successful, report.failed), (2, 3));
}

#[tokio::test(start_paused = true)]
async fn errors_of_picker_and_saver_are_retried() {
    let (queue, shelf) = (Queue::closing(vec![Act::Succeed; 3]), Arc::new(Shelf::default()));
    queue.errors_left.store(12, Ordering::Relaxed);
    shelf.errors_left.store(12, Ordering::Relaxed);
    let report = runner(&queue, &shelf).build().run().await;
    assert_eq!(report.successful, 3);
    assert_eq!(saved_ids(&shelf), [0, 1, 2]);
}

#[tokio::test]
async fn nothing_is_picked_without_a_free_slot() {
    let (gate, open) = Gate::new();
    let acts = std::iter::once(Act::Block(gate.clone())).chain(vec![Act::Succeed; 10]);
    let (queue, shelf) = (Queue::closing(acts), Arc::new(Shelf::default()));
    let running = tokio::spawn(runner(&queue, &shelf).workers(1).prefetch(2).build().run());
    gate.entered.notified().await;
    // One executing and two prefetched: the other eight stay in the queue, however long the first takes.
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    assert_eq!(queue.picked.load(Ordering::Relaxed), 3);
    open.send(()).unwrap();
    assert_eq!(running.await.unwrap().successful, 11);
}

#[tokio::test]
async fn fetching_and_saving_go_on_while_a_job_executes() {
    let (gate, open) = Gate::new();
    let acts = [Act::Succeed, Act::Block(gate.clone()), Act::Succeed];
    let (queue, shelf) = (Queue::closing(acts), Arc::new(Shelf::default()));
    let running = tokio::spawn(runner(&queue, &shelf).workers(1).prefetch(1).build().run());
    gate.entered.notified().await;
    // While the second executes, the first gets saved and the third gets picked.
    while saved_ids(&shelf).is_empty() {
        shelf.changed.notified().await;
    }
    while queue.picked.load(Ordering::Relaxed) < 3 {
        tokio::task::yield_now().await;
    }
    assert_eq!(saved_ids(&shelf), [0]);
    open.send(()).unwrap();
    assert_eq!(running.await.unwrap().successful, 3);
}

#[tokio::test]
async fn a_new_job_is_taken_up_when_the_picker_wakes() {
    let (queue, shelf) = (Queue::with([]), Arc::new(Shelf::default()));
    let stop = CancellationToken::new();
    let running = tokio::spawn(runner(&queue, &shelf).shutdown(stop.clone()).build().run());
    for id in 0..5 {
        queue.push(Picked::new(Act::Succeed, id));
        shelf.changed.notified().await;
    }
    assert!(queue.waits.load(Ordering::Relaxed) <= 11, "the runner polls instead of waiting");
    stop.cancel();
    assert_eq!(running.await.unwrap().successful, 5);
}

#[tokio::test]
async fn shutdown_hands_prefetched_jobs_back_and_lets_running_ones_finish() {
    let (gate, open) = Gate::new();
    let acts = std::iter::once(Act::Block(gate.clone())).chain(vec![Act::Succeed; 4]);
    let (queue, shelf) = (Queue::with(acts), Arc::new(Shelf::default()));
    let stop = CancellationToken::new();
    let running =
        tokio::spawn(runner(&queue, &shelf).workers(1).prefetch(2).shutdown(stop.clone()).build().run());
    gate.entered.notified().await;
    while queue.picked.load(Ordering::Relaxed) < 3 {
        tokio::task::yield_now().await;
    }
    stop.cancel();
    open.send(()).unwrap();
    let report = running.await.unwrap();
    assert_eq!(ends(&report), (1, 0, 2, 0));
    assert_eq!(*shelf.released.lock().unwrap(), [1, 2]);
    assert_eq!(queue.jobs.lock().unwrap().len(), 2, "picked after the shutdown signal");
}

#[tokio::test]
async fn what_outlasts_the_drain_timeout_is_released() {
    let (gate, _open) = Gate::new();
    let (queue, shelf) = (Queue::with([Act::UntilCancelled(gate.clone())]), Arc::new(Shelf::default()));
    let stop = CancellationToken::new();
    let running = tokio::spawn(
        runner(&queue, &shelf).shutdown(stop.clone()).drain_timeout(Duration::from_millis(20)).build().run(),
    );
    gate.entered.notified().await;
    stop.cancel();
    let report = running.await.unwrap();
    assert_eq!(ends(&report), (0, 0, 1, 0));
    assert!(report.drain_timed_out);
    assert!(saved_ids(&shelf).is_empty());
}

#[tokio::test]
async fn a_lost_lease_cancels_the_job_and_drops_its_result() {
    let (gate, _open) = Gate::new();
    let (queue, shelf) = (Queue::with([]), Arc::new(Shelf::default()));
    let lease = Lease::new();
    queue.push(Picked::new(Act::UntilCancelled(gate.clone()), 1).with_lease(lease.clone()));
    queue.push(Picked::new(Act::Succeed, 2));
    queue.closed.store(true, Ordering::Relaxed);
    let running = tokio::spawn(runner(&queue, &shelf).build().run());
    gate.entered.notified().await;
    lease.lose();
    let report = running.await.unwrap();
    assert_eq!((report.lease_lost, report.successful), (1, 1));
    assert_eq!(saved_ids(&shelf), [2]);
    assert!(shelf.released.lock().unwrap().is_empty(), "a lost job is not ours to release");
}

#[tokio::test(start_paused = true)]
async fn a_saver_is_not_tried_again_once_the_lease_is_lost() {
    let (queue, shelf) = (Queue::closing([Act::Succeed]), Arc::new(Shelf::default()));
    shelf.errors_left.store(1, Ordering::Relaxed);
    shelf.lose_on_error.store(true, Ordering::Relaxed);
    let report = runner(&queue, &shelf).build().run().await;
    assert_eq!((report.lease_lost, report.successful), (1, 0));
    assert!(saved_ids(&shelf).is_empty());
}

#[tokio::test]
async fn an_attempt_that_passes_its_deadline_fails_and_hears_of_it() {
    let (gate, _) = Gate::new();
    let (queue, shelf) = (Queue::with([]), Arc::new(Shelf::default()));
    let soon = std::time::Instant::now() + Duration::from_millis(20);
    let lease = Lease::new().with_deadline(soon);
    queue.push(Picked::new(Act::UntilCancelled(gate), 1).with_lease(lease));
    queue.push(Picked::new(Act::Succeed, 2));
    queue.closed.store(true, Ordering::Relaxed);
    let report = runner(&queue, &shelf).workers(1).build().run().await;
    assert_eq!(ends(&report), (1, 1, 0, 0));
    let saved = shelf.saved.lock().unwrap();
    let (_, outcome) = saved.iter().find(|(id, _)| *id == 1).unwrap();
    assert!(outcome.as_ref().is_err_and(|e| e.contains("passed its deadline")), "{outcome:?}");
}

#[tokio::test]
async fn progress_is_seen_from_outside() {
    let (gate, open) = Gate::new();
    let (queue, shelf) = (Queue::with([]), Arc::new(Shelf::default()));
    let lease = Lease::new();
    queue.push(Picked::new(Act::Block(gate.clone()), 1).with_lease(lease.clone()));
    queue.closed.store(true, Ordering::Relaxed);
    let running = tokio::spawn(runner(&queue, &shelf).build().run());
    gate.entered.notified().await;
    while lease.progress() < 0.5 {
        tokio::task::yield_now().await;
    }
    open.send(()).unwrap();
    running.await.unwrap();
}

/// Feeds the second runner of a chain.
struct Forward(ChainSender<Actor>, Arc<Shelf>);

#[async_trait]
impl JobSaver for Forward {
    type Executor = Actor;

    async fn save(&self, id: &u64, lease: &Lease, outcome: &mut Outcome<u64>) -> Result<(), SaveError> {
        if outcome.take_output().is_some() {
            let job = Picked::new(Act::Succeed, *id).with_lease(lease.clone());
            if let Err(closed) = self.0.send(job).await {
                self.release(&closed.0.metadata).await;
            }
        }
        Ok(())
    }

    async fn release(&self, id: &u64) {
        self.1.released.lock().unwrap().push(*id);
    }
}

#[tokio::test]
async fn chained_runners_pass_every_job_and_end_in_order() {
    let (queue, shelf) = (Queue::closing(vec![Act::Succeed; 100]), Arc::new(Shelf::default()));
    let (sender, picker) = chain::<Actor>(1);
    let first = JobRunner::builder("first")
        .picker(QueuePicker(queue))
        .executor(Actor)
        .saver(Forward(sender, shelf.clone()))
        .workers(3)
        .build();
    let second = JobRunner::builder("second")
        .picker(picker)
        .executor(Actor)
        .saver(ShelfSaver(shelf.clone()))
        .prefetch(0)
        .build();
    let (_, report) = tokio::join!(first.run(), second.run());
    assert_eq!(report.successful, 100);
    assert_eq!(saved_ids(&shelf), (0..100).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_chain_that_takes_nothing_keeps_its_feeder_from_picking() {
    let (queue, shelf) = (Queue::with(vec![Act::Succeed; 50]), Arc::new(Shelf::default()));
    let (sender, mut picker) = chain::<Actor>(1);
    let stop = CancellationToken::new();
    let first = JobRunner::builder("first")
        .picker(QueuePicker(queue.clone()))
        .executor(Actor)
        .saver(Forward(sender, shelf.clone()))
        .workers(2)
        .prefetch(0)
        .hold_slots_until_saved()
        .shutdown(stop.clone())
        .drain_timeout(Duration::ZERO)
        .build();
    let running = tokio::spawn(first.run());
    let picked = || queue.picked.load(Ordering::Relaxed);
    // One lies in the channel, two wait for a place in it.
    while picked() < 3 {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(picked(), 3, "two workers and a channel of one");
    picker.wait().await;
    while picked() < 4 {
        tokio::task::yield_now().await;
    }
    stop.cancel();
    drop(picker);
    running.await.unwrap();
}

#[tokio::test]
async fn a_chain_pushes_back_and_a_stopped_end_releases_what_lies_in_it() {
    let (gate, open) = Gate::new();
    let (sender, picker) = chain::<Actor>(1);
    let shelf = Arc::new(Shelf::default());
    let stop = CancellationToken::new();
    let second = JobRunner::builder("second")
        .picker(picker)
        .executor(Actor)
        .saver(ShelfSaver(shelf.clone()))
        .prefetch(0)
        .shutdown(stop.clone())
        .build();
    let running = tokio::spawn(second.run());
    sender.send(Picked::new(Act::Block(gate.clone()), 0)).await.unwrap();
    gate.entered.notified().await;
    sender.send(Picked::new(Act::Succeed, 1)).await.unwrap();
    // One executes, one lies in the channel: a third has no place.
    let third = tokio::time::timeout(Duration::from_millis(20), sender.send(Picked::new(Act::Succeed, 2)));
    assert!(third.await.is_err(), "the channel takes more than its capacity");
    stop.cancel();
    open.send(()).unwrap();
    let report = running.await.unwrap();
    assert_eq!((report.successful, report.released), (1, 1));
    assert_eq!(*shelf.released.lock().unwrap(), [1]);
    assert!(sender.send(Picked::new(Act::Succeed, 3)).await.is_err(), "the other end is gone");
}

/// Panics whenever it is asked for anything, a set number of times; then it is the queue's.
struct Clumsy {
    queue: QueuePicker,
    panics_left: u32,
}

impl Clumsy {
    fn stumble(&mut self, doing: &str) {
        if self.panics_left > 0 {
            self.panics_left -= 1;
            panic!("overflow when adding duration to instant, {doing}");
        }
    }
}

#[async_trait]
impl JobPicker for Clumsy {
    type Executor = Actor;

    async fn pick(&mut self, want: usize) -> Result<Vec<Picked<Actor>>, PickError> {
        if self.panics_left > 3 {
            self.stumble("picking");
        }
        if self.panics_left > 0 { Ok(Vec::new()) } else { self.queue.pick(want).await }
    }

    async fn wait(&mut self) {
        self.stumble("waiting");
    }

    async fn close(&mut self) -> Vec<Picked<Actor>> {
        panic!("closing");
    }
}

#[tokio::test(start_paused = true)]
async fn a_picker_that_panics_is_called_again() {
    let (queue, shelf) = (Queue::closing(vec![Act::Succeed; 3]), Arc::new(Shelf::default()));
    let clumsy = Clumsy { queue: QueuePicker(queue), panics_left: 6 };
    let saver = ShelfSaver(shelf.clone());
    let report = JobRunner::builder("clumsy").picker(clumsy).executor(Actor).saver(saver).build().run().await;
    assert_eq!((report.successful, saved_ids(&shelf)), (3, vec![0, 1, 2]));
}

/// Panics while it saves one job.
struct BadShelf(ShelfSaver);

#[async_trait]
impl JobSaver for BadShelf {
    type Executor = Actor;

    async fn save(&self, id: &u64, lease: &Lease, outcome: &mut Outcome<u64>) -> Result<(), SaveError> {
        assert_ne!(*id, 1, "the saver panics");
        self.0.save(id, lease, outcome).await
    }

    async fn release(&self, id: &u64) {
        self.0.release(id).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_saver_that_panics_over_one_result_saves_the_others() {
    let (queue, shelf) = (Queue::closing(vec![Act::Succeed; 4]), Arc::new(Shelf::default()));
    let saver = BadShelf(ShelfSaver(shelf.clone()));
    let runner = JobRunner::builder("bad shelf").picker(QueuePicker(queue)).executor(Actor).saver(saver);
    let report = runner.build().run().await;
    assert_eq!((report.successful, saved_ids(&shelf)), (3, vec![0, 2, 3]));
    assert_eq!((report.released, &*shelf.released.lock().unwrap()), (1, &vec![1]));
}

/// A runner of two workers and one place for a job that waits, by a clock that the test holds, with these jobs: each takes so many seconds.
fn timed(seconds: &'static [u64], shutdown: &Shutdown) -> (Arc<Queue>, Arc<Shelf>, JoinHandle<RunnerReport>) {
    let (queue, shelf) = (Queue::with(vec![Act::Succeed; seconds.len()]), Arc::new(Shelf::default()));
    let runner = runner(&queue, &shelf)
        .workers(2)
        .prefetch(1)
        .shutdown(shutdown.clone())
        .drain_timeout(Duration::from_secs(25))
        .build()
        .simulated(|id| Duration::from_secs(seconds[usize::try_from(*id).unwrap()]));
    (queue, shelf, tokio::spawn(runner.run()))
}

#[tokio::test(start_paused = true)]
async fn within_25_seconds_what_can_finish_does_and_the_rest_is_handed_back() {
    let shutdown = Shutdown::default();
    let (queue, shelf, running) = timed(&[24, 3_600, 1, 1], &shutdown);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let begun = tokio::time::Instant::now();
    shutdown.drain();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(*shelf.released.lock().unwrap(), [2], "what only waits is handed back at once");
    let report = running.await.unwrap();
    assert_eq!(begun.elapsed().as_secs(), 25);
    assert_eq!(ends(&report), (1, 0, 2, 0));
    assert!(report.drain_timed_out);
    assert_eq!((saved_ids(&shelf), &shelf.released.lock().unwrap()[..]), (vec![0], &[2, 1][..]));
    assert_eq!(queue.jobs.lock().unwrap().len(), 1, "picked after the signal");
}

#[tokio::test(start_paused = true)]
async fn a_notice_stops_picking_and_what_runs_has_all_its_time() {
    let shutdown = Shutdown::default();
    let (queue, shelf, running) = timed(&[600, 900, 1, 1], &shutdown);
    tokio::time::sleep(Duration::from_millis(100)).await;
    shutdown.pick_no_more();
    let report = running.await.unwrap();
    assert_eq!(ends(&report), (2, 0, 1, 0));
    assert!(!report.drain_timed_out);
    assert_eq!((saved_ids(&shelf), &shelf.released.lock().unwrap()[..]), (vec![0, 1], &[2][..]));
    assert_eq!(queue.jobs.lock().unwrap().len(), 1, "picked after the notice");
}

#[tokio::test(start_paused = true)]
async fn the_drain_timeout_begins_with_the_signal_and_not_with_the_notice_before() {
    let shutdown = Shutdown::default();
    let (_, shelf, running) = timed(&[100, 3_600], &shutdown);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let begun = tokio::time::Instant::now();
    shutdown.pick_no_more();
    tokio::time::sleep(Duration::from_secs(90)).await;
    shutdown.drain();
    let report = running.await.unwrap();
    assert_eq!(begun.elapsed().as_secs(), 90 + 25);
    assert_eq!(ends(&report), (1, 0, 1, 0));
    assert_eq!((saved_ids(&shelf), &shelf.released.lock().unwrap()[..]), (vec![0], &[1][..]));
}
