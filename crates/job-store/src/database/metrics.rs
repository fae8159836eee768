//! Metrics of the store: every statement or transaction is timed by its name.

use proving_model::JobKey;
use std::time::{Duration, Instant};
use vise::{
    Buckets, Counter, EncodeLabelSet, EncodeLabelValue, Family, Gauge, Histogram, LabeledFamily, Metrics,
    MetricsFamily, Unit,
};

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
    /// Rows that were skipped because nothing of this program wrote them, by the name of the statement.
    pub(crate) unreadable_rows: Family<QueryLabels, Counter>,
    /// Jobs put back because an input artifact was missing or corrupt.
    pub(crate) inputs_lost: Counter,
}

/// The store's metrics.
#[vise::register]
pub static STORE_METRICS: vise::Global<StoreMetrics> = vise::Global::new();

/// A circuit and what is done with it. There are as many as the proof system has circuits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct CircuitLabels {
    stage: &'static str,
    round: &'static str,
    circuit: i64,
}

impl CircuitLabels {
    pub(crate) fn of(key: &JobKey) -> Self {
        Self { stage: key.stage.as_str(), round: key.round.as_str(), circuit: i64::from(key.circuit_id.0) }
    }
}

/// How an attempt of this process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[metrics(rename_all = "snake_case")]
pub(crate) enum AttemptOutcome {
    Successful,
    Failed,
    TimedOut,
    Released,
    LeaseLost,
}

impl AttemptOutcome {
    /// As the metric's label has it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Successful => "successful",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Released => "released",
            Self::LeaseLost => "lease_lost",
        }
    }
}

/// From a hundredth of a second to a day.
const ATTEMPT_BUCKETS: Buckets = Buckets::exponential(0.01..=86_400.0, 3.0);

/// Metrics of this process's attempts, by stage, round and circuit.
#[derive(Debug, Metrics)]
#[metrics(prefix = "job_store")]
pub(crate) struct AttemptMetrics {
    /// Time from the pick of a job to the end of its attempt, by stage, round, circuit and outcome.
    #[metrics(buckets = ATTEMPT_BUCKETS, unit = Unit::Seconds, labels = ["outcome"])]
    pub(crate) attempt_time: LabeledFamily<AttemptOutcome, Histogram<Duration>>,
}

/// The metrics of all circuits that this process had in hand.
#[vise::register]
pub(crate) static ATTEMPT_METRICS: MetricsFamily<CircuitLabels, AttemptMetrics> = MetricsFamily::new();

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
