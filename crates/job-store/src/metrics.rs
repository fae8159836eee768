//! Metrics of the store: every statement or transaction is timed by its name.

use std::time::{Duration, Instant};
use vise::{Buckets, Counter, EncodeLabelSet, Family, Gauge, Histogram, Metrics, Unit};

/// From a tenth of a millisecond to half a minute.
const BUCKETS: Buckets = Buckets::exponential(0.000_1..=30.0, 2.5);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct QueryLabels {
    pub(crate) query: &'static str,
}

/// Metrics of this process's use of the store.
#[derive(Debug, Metrics)]
#[metrics(prefix = "job_store")]
pub struct StoreMetrics {
    /// Time of a statement or transaction, by name.
    #[metrics(buckets = BUCKETS, unit = Unit::Seconds)]
    pub(crate) query_time: Family<QueryLabels, Histogram<Duration>>,
    /// Completions that shared a transaction.
    #[metrics(buckets = Buckets::exponential(1.0..=512.0, 2.0))]
    pub(crate) completions_together: Histogram<usize>,
    /// Leases that this process holds.
    pub(crate) leases_held: Gauge<usize>,
    /// Leases that this process lost.
    pub(crate) leases_lost: Counter,
    /// Wake-ups sent, after coalescing.
    pub(crate) wake_ups_sent: Counter,
    /// Wake-ups received.
    pub(crate) wake_ups_received: Counter,
    /// Workers whose death was noticed at once.
    pub(crate) worker_deaths_seen: Counter,
    /// Jobs put back because their worker died or its lease expired.
    pub(crate) leases_expired: Counter,
    /// Jobs put back because an input artifact was missing or corrupt.
    pub(crate) inputs_lost: Counter,
}

/// The store's metrics.
#[vise::register]
pub static STORE_METRICS: vise::Global<StoreMetrics> = vise::Global::new();

/// Times a statement from here to its drop.
pub(crate) struct QueryTimer {
    query: &'static str,
    begun: Instant,
}

impl QueryTimer {
    pub(crate) fn start(query: &'static str) -> Self {
        Self { query, begun: Instant::now() }
    }
}

impl Drop for QueryTimer {
    fn drop(&mut self) {
        STORE_METRICS.query_time[&QueryLabels { query: self.query }].observe(self.begun.elapsed());
    }
}
