//! A budget of memory that the runners of a process share.
//!
//! A picker takes a job only when the job's expected peak fits what is left ([`MemoryBudget::take_free`],
//! [`MemoryBudget::reserve`]); the reservation travels with the job's [`Lease`](crate::Lease) and ends with it. A job that is
//! next and does not fit is waited for ([`MemoryBudget::wait_for`]): nothing smaller overtakes it in this process, or a stream of
//! small jobs would keep it out for ever.
//!
//! What a job really took is measured as well as one process can tell it: the process's resident memory above what it had before
//! its first job, divided among the jobs that run in proportion to what is expected of each.

use std::{
    collections::HashMap,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The budget's grain: what a permit stands for.
const GRAIN: u64 = 1 << 20;
/// Between two looks at the process's memory while jobs run.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Memory that jobs may take at the same time. Clones share it.
#[derive(Debug, Clone)]
pub struct MemoryBudget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// In grains; `None` is no limit.
    limit: Option<(u64, Arc<Semaphore>)>,
    meter: Mutex<Meter>,
    /// Told when the first job comes.
    work: Condvar,
}

#[derive(Debug, Default)]
struct Meter {
    /// Resident bytes of the process before its first job.
    idle: Option<u64>,
    running: HashMap<u64, Arc<Measured>>,
    next_id: u64,
}

#[derive(Debug)]
struct Measured {
    expected: u64,
    peak: AtomicU64,
}

/// Memory that was taken and is not a job's yet; what is not used goes back when it is dropped.
#[derive(Debug)]
pub struct Allowance {
    /// Grains; `None` where there is no limit.
    permit: Option<OwnedSemaphorePermit>,
    bytes: u64,
}

/// Memory that is kept for one job until this is dropped.
#[derive(Debug)]
pub struct Reservation {
    _permit: Option<OwnedSemaphorePermit>,
    id: u64,
    measured: Arc<Measured>,
    shared: Arc<Shared>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemoryBudget {
    /// A budget of so many bytes, in whole mebibytes; `None` bounds nothing and only measures.
    #[must_use]
    pub fn new(bytes: Option<u64>) -> Self {
        let limit = bytes.map(|bytes| {
            let grains = (bytes / GRAIN).min(u64::from(u32::MAX));
            (grains, Arc::new(Semaphore::new(usize::try_from(grains).unwrap_or(Semaphore::MAX_PERMITS))))
        });
        let shared = Arc::new(Shared { limit, meter: Mutex::default(), work: Condvar::new() });
        let theirs = Arc::downgrade(&shared);
        // Without the thread nothing is learned, and nothing else is lost.
        if let Err(e) =
            std::thread::Builder::new().name("memory-meter".to_owned()).spawn(move || measure(&theirs))
        {
            tracing::warn!("jobs' memory is not measured, no thread can be started: {e}");
        }
        Self { shared }
    }

    /// All of it, in bytes; `None` is no limit.
    #[must_use]
    pub fn total(&self) -> Option<u64> {
        self.shared.limit.as_ref().map(|(grains, _)| grains * GRAIN)
    }

    /// Takes what is free now, and leaves what others wait for.
    #[must_use]
    pub fn take_free(&self) -> Allowance {
        let Some((_, free)) = &self.shared.limit else { return Allowance { permit: None, bytes: u64::MAX } };
        let grains = u32::try_from(free.available_permits()).unwrap_or(u32::MAX);
        let permit = free.clone().try_acquire_many_owned(grains).ok();
        Allowance { bytes: permit.as_ref().map_or(0, |permit| permit.num_permits() as u64 * GRAIN), permit }
    }

    /// Waits until so many bytes are free, and takes them. Whoever waits longest is first, whatever it waits for.
    pub async fn wait_for(&self, bytes: u64) -> Allowance {
        let Some((grains, free)) = &self.shared.limit else {
            return Allowance { permit: None, bytes: u64::MAX };
        };
        let wanted = u32::try_from(bytes.div_ceil(GRAIN).min(*grains)).unwrap_or(u32::MAX);
        let permit = free.clone().acquire_many_owned(wanted).await.ok();
        Allowance { permit, bytes: u64::from(wanted) * GRAIN }
    }

    /// A job's reservation out of an allowance; the rest of the allowance is free again.
    #[must_use]
    pub fn reserve(&self, allowance: Allowance, expected: u64) -> Reservation {
        let permit = allowance.permit.and_then(|mut permit| {
            let grains = usize::try_from(expected.div_ceil(GRAIN)).unwrap_or(usize::MAX);
            permit.split(grains.min(permit.num_permits()))
        });
        let measured = Arc::new(Measured { expected, peak: AtomicU64::new(0) });
        let mut meter = lock(&self.shared.meter);
        if meter.idle.is_none() {
            meter.idle = resident_bytes();
        }
        let id = meter.next_id;
        meter.next_id += 1;
        meter.running.insert(id, measured.clone());
        self.shared.work.notify_one();
        Reservation { _permit: permit, id, measured, shared: self.shared.clone() }
    }
}

impl Allowance {
    /// How much it is, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Reservation {
    /// The most that the job was seen to take, in bytes; 0 where it was not seen at all. Never more than the budget: the job ran in it,
    /// whatever the measure says, and must be admitted to one like it again.
    #[must_use]
    pub fn peak(&self) -> u64 {
        let total = self.shared.limit.as_ref().map_or(u64::MAX, |(grains, _)| grains * GRAIN);
        self.measured.peak.load(Ordering::Relaxed).min(total)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        lock(&self.shared.meter).running.remove(&self.id);
    }
}

/// Looks at the process's memory while jobs run; sleeps while none does; ends with the budget.
fn measure(shared: &Weak<Shared>) {
    while let Some(shared) = shared.upgrade() {
        {
            let meter = lock(&shared.meter);
            let meter = if meter.running.is_empty() {
                // Wakes now and then to see whether the budget is still there.
                let waited = shared.work.wait_timeout(meter, Duration::from_secs(1));
                waited.unwrap_or_else(PoisonError::into_inner).0
            } else {
                meter
            };
            if let Some(resident) = resident_bytes().filter(|_| !meter.running.is_empty()) {
                let taken = resident.saturating_sub(meter.idle.unwrap_or(0));
                share_out(taken, meter.running.values());
            }
        }
        drop(shared);
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// Notes each job's share of what all take.
fn share_out<'a>(taken: u64, running: impl Iterator<Item = &'a Arc<Measured>> + Clone) {
    // A job of which nothing is expected counts as a little, so that it is not invisible.
    let weight = |measured: &Measured| measured.expected.max(GRAIN) as f64;
    let all: f64 = running.clone().map(|measured| weight(measured)).sum();
    for measured in running {
        let share = taken as f64 * weight(measured) / all;
        measured.peak.fetch_max(share as u64, Ordering::Relaxed);
    }
}

/// Resident bytes of this process.
fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_taken_is_never_more_than_the_budget_and_comes_back() {
        let budget = MemoryBudget::new(Some(10 * GRAIN));
        let first = budget.reserve(budget.take_free(), 6 * GRAIN);
        assert_eq!(budget.take_free().bytes(), 4 * GRAIN);
        let second = budget.reserve(budget.take_free(), 3 * GRAIN + 1);
        assert_eq!(budget.take_free().bytes(), 0, "parts of a grain count as one");
        drop(first);
        drop(second);
        assert_eq!(budget.take_free().bytes(), 10 * GRAIN);
    }

    #[tokio::test]
    async fn nothing_overtakes_a_job_that_waits() {
        let budget = MemoryBudget::new(Some(10 * GRAIN));
        let (one, other) =
            (budget.reserve(budget.take_free(), 5 * GRAIN), budget.reserve(budget.take_free(), 4 * GRAIN));
        let waiting = budget.wait_for(8 * GRAIN);
        tokio::pin!(waiting);
        assert!(futures_poll(waiting.as_mut()).await.is_none());
        // The last grain and what comes free go to the one that waits.
        assert_eq!(budget.take_free().bytes(), 0);
        drop(other);
        assert_eq!(budget.take_free().bytes(), 0);
        drop(one);
        let allowance = futures_poll(waiting.as_mut()).await.expect("it fits now");
        assert_eq!(allowance.bytes(), 8 * GRAIN);
        assert_eq!(budget.take_free().bytes(), 2 * GRAIN);
    }

    /// Polls once.
    async fn futures_poll<F: Future + Unpin>(future: F) -> Option<F::Output> {
        tokio::time::timeout(Duration::from_millis(1), future).await.ok()
    }

    #[test]
    fn the_whole_budget_is_waited_for_by_whoever_wants_more() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let budget = MemoryBudget::new(Some(2 * GRAIN));
        assert_eq!(runtime.block_on(budget.wait_for(u64::MAX)).bytes(), 2 * GRAIN);
    }

    #[test]
    fn memory_is_shared_out_as_it_is_expected() {
        let jobs = [3 * GRAIN, GRAIN, 0].map(|expected| Arc::new(Measured { expected, peak: 0.into() }));
        share_out(500, jobs.iter());
        share_out(100, jobs.iter());
        assert_eq!(jobs.map(|job| job.peak.load(Ordering::Relaxed)), [300, 100, 100]);
    }

    #[test]
    fn a_job_is_seen_to_take_what_it_takes() {
        let budget = MemoryBudget::new(None);
        let job = budget.reserve(budget.take_free(), 0);
        let held = vec![1_u8; 64 << 20];
        let begun = std::time::Instant::now();
        while job.peak() < 60 << 20 && begun.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(LOOK_INTERVAL);
        }
        assert!(job.peak() >= 60 << 20, "{}", job.peak());
        assert_eq!(held.iter().map(|byte| usize::from(*byte)).sum::<usize>(), 64 << 20);
    }

    #[test]
    fn no_job_is_said_to_take_more_than_the_budget_that_it_ran_in() {
        let budget = MemoryBudget::new(Some(2 * GRAIN));
        let job = budget.reserve(budget.take_free(), GRAIN);
        job.measured.peak.store(100 * GRAIN, Ordering::Relaxed);
        assert_eq!(job.peak(), 2 * GRAIN);
    }
}
