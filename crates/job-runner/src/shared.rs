//! What all parts of a runner share.

use crate::metrics::{JobOutcome, RunnerMetrics};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// What all parts of a runner share.
pub(crate) struct Shared<S> {
    pub(crate) name: String,
    pub(crate) metrics: &'static RunnerMetrics,
    pub(crate) holds_slots_until_saved: bool,
    pub(crate) saver: Arc<S>,
    pub(crate) counts: [AtomicU64; 4],
    pub(crate) execute_cpu_nanoseconds: AtomicU64,
    /// Pick nothing more, and hand back what was prefetched. Not set when the source of jobs closes: what it gave is
    /// worked on then.
    pub(crate) stop: CancellationToken,
    /// The drain timeout is over: whatever still runs is released.
    pub(crate) give_up: CancellationToken,
    /// Tells workers that are tasks that there is a job, or that there will be none.
    pub(crate) queued: Notify,
}

impl<S> Shared<S> {
    pub(crate) fn count(&self, outcome: JobOutcome) {
        self.counts[outcome as usize].fetch_add(1, Ordering::Relaxed);
        self.metrics.jobs[&outcome].inc();
        self.metrics.in_flight.dec_by(1);
    }
}
