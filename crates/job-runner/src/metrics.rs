//! Metrics of every runner, labelled by its name.

use std::time::Duration;
use vise::{
    Buckets, Counter, EncodeLabelSet, EncodeLabelValue, Gauge, Histogram, LabeledFamily, Metrics,
    MetricsFamily, Unit,
};

/// From a tenth of a millisecond, a pick, to an hour, a long proof.
const BUCKETS: Buckets = Buckets::exponential(0.000_1..=3_600.0, 3.2);

/// The runner's name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RunnerLabels {
    /// As given to [`crate::JobRunner::builder`].
    pub runner: String,
}

/// How a job left the runner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[metrics(rename_all = "snake_case")]
pub enum JobOutcome {
    /// Saved as a success.
    Successful,
    /// Saved as a failure.
    Failed,
    /// Handed back, at no cost.
    Released,
    /// Dropped, since its lease was lost.
    LeaseLost,
}

/// Time in each stage, jobs in flight, outcomes and errors; of one runner.
#[derive(Debug, Metrics)]
#[metrics(prefix = "job_runner")]
pub struct RunnerMetrics {
    /// Time spent waiting for the queue to have work.
    #[metrics(buckets = BUCKETS, unit = Unit::Seconds)]
    pub(crate) wait_time: Histogram<Duration>,
    /// Time of one pick, loading included.
    #[metrics(buckets = BUCKETS, unit = Unit::Seconds)]
    pub(crate) pick_time: Histogram<Duration>,
    /// Time of loading one job's input.
    #[metrics(buckets = BUCKETS, unit = Unit::Seconds)]
    pub(crate) load_time: Histogram<Duration>,
    /// Time that a picked job waited for a worker.
    #[metrics(buckets = BUCKETS, unit = Unit::Seconds)]
    pub(crate) queue_time: Histogram<Duration>,
    /// Time of one execution.
    #[metrics(buckets = BUCKETS, unit = Unit::Seconds)]
    pub(crate) execute_time: Histogram<Duration>,
    /// CPU seconds of the executing threads; what an executor hands to other threads is not in it.
    pub(crate) execute_cpu_time: Counter<f64>,
    /// Time of saving one result, retries included.
    #[metrics(buckets = BUCKETS, unit = Unit::Seconds)]
    pub(crate) save_time: Histogram<Duration>,
    /// Jobs picked and not yet saved.
    pub(crate) in_flight: Gauge<i64>,
    /// Workers executing now.
    pub(crate) busy_workers: Gauge<i64>,
    /// Jobs by how they left the runner.
    #[metrics(labels = ["outcome"])]
    pub(crate) jobs: LabeledFamily<JobOutcome, Counter>,
    /// Errors of the picker; each was retried.
    pub(crate) pick_errors: Counter,
    /// Errors of the saver; each was retried while the lease lived.
    pub(crate) save_errors: Counter,
}

/// The metrics of all runners of this process.
#[vise::register]
pub static RUNNER_METRICS: MetricsFamily<RunnerLabels, RunnerMetrics> = MetricsFamily::new();
