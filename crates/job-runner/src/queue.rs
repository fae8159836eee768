//! The queue between the picker's task and the worker threads.
//!
//! A general channel wakes a sleeping receiver for each message. Where jobs are short that costs more than the jobs: a worker that is
//! awake would have taken the next one before the woken one is on its feet. Here at most one worker is on its way at a time. Once it is
//! there, and sees more jobs than its own, it sends for the next. A long job so still finds a worker at once, and many short ones are
//! worked on by those who are awake.
//!
//! It has no bound of its own: a job holds one of the runner's slots while it is here.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

/// The sender's end. The queue is closed when it is dropped; what is in it can still be taken.
pub(crate) struct QueueSender<T>(Arc<Queue<T>>);

/// A queue of jobs, as its takers see it.
pub(crate) struct Queue<T> {
    state: Mutex<State<T>>,
    wake: Condvar,
}

struct State<T> {
    jobs: VecDeque<T>,
    /// Threads that wait.
    asleep: usize,
    /// Whether one of them was told to wake and has not looked yet. While jobs are here and threads sleep, this is so.
    is_waking: bool,
    is_closed: bool,
}

impl<T> State<T> {
    /// Whether a thread is to be woken now: for jobs that nobody is on the way to.
    fn send_for_one(&mut self) -> bool {
        let needed = !self.jobs.is_empty() && self.asleep > 0 && !self.is_waking;
        self.is_waking |= needed;
        needed
    }
}

/// A queue, open.
pub(crate) fn queue<T>() -> (QueueSender<T>, Arc<Queue<T>>) {
    let state = State { jobs: VecDeque::new(), asleep: 0, is_waking: false, is_closed: false };
    let queue = Arc::new(Queue { state: Mutex::new(state), wake: Condvar::new() });
    (QueueSender(queue.clone()), queue)
}

impl<T> QueueSender<T> {
    /// Adds a job.
    pub(crate) fn send(&self, job: T) {
        let mut state = self.0.lock();
        state.jobs.push_back(job);
        let wakes = state.send_for_one();
        drop(state);
        if wakes {
            self.0.wake.notify_one();
        }
    }
}

impl<T> Drop for QueueSender<T> {
    fn drop(&mut self) {
        self.0.lock().is_closed = true;
        self.0.wake.notify_all();
    }
}

impl<T> Queue<T> {
    /// The next job, when there is one; `None` when the queue is closed and empty.
    pub(crate) fn take(&self) -> Option<T> {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                let wakes = state.send_for_one();
                drop(state);
                if wakes {
                    self.wake.notify_one();
                }
                return Some(job);
            }
            if state.is_closed {
                return None;
            }
            state.asleep += 1;
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.asleep -= 1;
            // This one looks now, whoever woke it.
            state.is_waking = false;
        }
    }

    /// The next job, if there is one now.
    pub(crate) fn try_take(&self) -> Option<T> {
        self.lock().jobs.pop_front()
    }

    /// Whether no job will ever come.
    pub(crate) fn is_over(&self) -> bool {
        let state = self.lock();
        state.is_closed && state.jobs.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeSet, sync::mpsc, time::Duration};

    #[test]
    fn every_job_is_taken_once_by_any_number_of_threads_and_the_close_ends_them() {
        for (threads, pause) in [(1, false), (3, false), (32, false), (4, true)] {
            let (sender, queue) = queue();
            let taken = std::thread::scope(|scope| {
                let takers: Vec<_> = (0..threads)
                    .map(|_| scope.spawn(|| std::iter::from_fn(|| queue.take()).collect::<Vec<usize>>()))
                    .collect();
                for job in 0..2_000 {
                    sender.send(job);
                    if pause && job % 20 == 0 {
                        // The takers fall asleep.
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
                drop(sender);
                takers.into_iter().flat_map(|taker| taker.join().unwrap_or_default()).collect::<Vec<_>>()
            });
            assert_eq!(taken.len(), 2_000, "{threads} threads");
            assert_eq!(taken.into_iter().collect::<BTreeSet<_>>().len(), 2_000, "{threads} threads");
            assert!(queue.is_over() && queue.take().is_none());
        }
    }

    /// Each of these jobs ends only when all have begun.
    #[test]
    fn as_many_jobs_run_at_once_as_there_are_threads() {
        let (sender, queue) = queue();
        let together = std::sync::Barrier::new(8);
        let (done, ended) = mpsc::channel();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                let (queue, together, done) = (&queue, &together, done.clone());
                scope.spawn(move || {
                    while queue.take().is_some() {
                        together.wait();
                        let _ = done.send(());
                    }
                });
            }
            for _ in 0..8 * 50 {
                sender.send(());
            }
            drop(sender);
        });
        assert_eq!(ended.try_iter().count(), 8 * 50);
    }
}
