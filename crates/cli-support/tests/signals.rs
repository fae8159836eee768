//! What a real runner does at real signals. They come to the whole process, so there is one test.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use async_trait::async_trait;
use cli_support::shutdown_on_signal;
use job_runner::{
    ExecuteError, Executor, JobContext, JobPicker, JobRunner, JobSaver, Lease, Outcome, PickError, Picked,
    RunnerReport, SaveError,
};
use rustix::process::{Signal, getpid, kill_process};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::Notify;

/// What the test and the runner tell each other.
#[derive(Default)]
struct Told {
    begun: Notify,
    released: Notify,
    may_end: AtomicBool,
}

/// Runs until it may end, or is cancelled.
struct Work(Arc<Told>);

impl Executor for Work {
    type Input = ();
    type Output = ();
    type Metadata = u64;

    fn execute(&self, (): (), context: &JobContext<'_, u64>) -> Result<(), ExecuteError> {
        self.0.begun.notify_one();
        while !self.0.may_end.load(Ordering::Relaxed) {
            if context.is_cancelled() {
                return Err(ExecuteError::Cancelled);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

/// Jobs without end.
struct Endless(u64);

#[async_trait]
impl JobPicker for Endless {
    type Executor = Work;

    async fn pick(&mut self, want: usize) -> Result<Vec<Picked<Work>>, PickError> {
        let first = self.0;
        self.0 += want as u64;
        Ok((first..self.0).map(|id| Picked::new((), id)).collect())
    }

    async fn wait(&mut self) {}
}

struct Keep(Arc<Told>);

#[async_trait]
impl JobSaver for Keep {
    type Executor = Work;

    async fn save(&self, _: &u64, _: &Lease, _: &mut Outcome<()>) -> Result<(), SaveError> {
        Ok(())
    }

    async fn release(&self, _: &u64) {
        self.0.released.notify_one();
    }
}

fn send(signal: Signal) {
    kill_process(getpid(), signal).unwrap();
}

/// One job runs and one waits. Then comes SIGUSR1, and again once the one that waits is handed back; then what `then` does. There is no time
/// to drain. The runtime is its own, so that its handlers go with it.
fn after_a_notice(then: impl FnOnce(&Told)) -> RunnerReport {
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let told = Arc::new(Told::default());
        let shutdown = shutdown_on_signal(None).unwrap();
        let runner = JobRunner::builder("signals")
            .picker(Endless(0))
            .executor(Work(told.clone()))
            .saver(Keep(told.clone()))
            .drain_timeout(Duration::ZERO)
            .shutdown(shutdown.clone())
            .build();
        let running = tokio::spawn(runner.run());
        told.begun.notified().await;
        send(Signal::USR1);
        told.released.notified().await;
        send(Signal::USR1);
        assert!(shutdown.picks_no_more() && !shutdown.drain_begins().is_cancelled());
        assert!(!running.is_finished());
        then(&told);
        running.await.unwrap()
    })
}

#[test]
fn sigusr1_stops_picking_and_lets_what_runs_finish_and_sigterm_after_it_drains() {
    let report = after_a_notice(|told| told.may_end.store(true, Ordering::Relaxed));
    assert_eq!((report.successful, report.released, report.drain_timed_out), (1, 1, false));
    let report = after_a_notice(|_| send(Signal::TERM));
    assert_eq!((report.successful, report.released, report.drain_timed_out), (0, 2, true));
}
