//! What the job monitor says of the whole system. Each monitor says the same, so that any one may end: take the maximum over monitors,
//! not the sum.

use std::time::Duration;
use vise::{
    Buckets, Counter, EncodeLabelSet, EncodeLabelValue, Family, Gauge, Global, Histogram, LabeledFamily,
    Metrics, Unit,
};

/// From a millisecond to ten minutes.
const DUTY_BUCKETS: Buckets = Buckets::exponential(0.001..=600.0, 4.0);

/// A kind of job. The bounds are those of the pipeline: three stages, five rounds, two memory classes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct KindLabels {
    pub(crate) stage: String,
    pub(crate) round: String,
    pub(crate) memory_class: String,
}

/// A kind of job in one state.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct StateLabels {
    pub(crate) stage: String,
    pub(crate) round: String,
    pub(crate) memory_class: String,
    pub(crate) status: &'static str,
}

/// Workers of one component in one state.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct WorkerLabels {
    pub(crate) component: String,
    pub(crate) state: String,
}

/// A table, or an index.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct TableLabels {
    pub(crate) table: String,
}

/// A batch's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[metrics(rename_all = "snake_case")]
pub(crate) enum BatchState {
    Queued,
    InProgress,
    Failed,
}

/// Metrics of the job monitor.
#[derive(Debug, Metrics)]
#[metrics(prefix = "job_monitor")]
pub struct MonitorMetrics {
    /// Unfinished jobs, by stage, round, memory class and state.
    pub(crate) jobs: Family<StateLabels, Gauge<i64>>,
    /// What queued and running jobs will take, in seconds of one worker.
    #[metrics(unit = Unit::Seconds)]
    pub(crate) backlog: Family<KindLabels, Gauge<f64>>,
    /// For how long the oldest queued job of a kind has been so.
    #[metrics(unit = Unit::Seconds)]
    pub(crate) oldest_queued: Family<KindLabels, Gauge<f64>>,
    /// Open batches by state.
    #[metrics(labels = ["status"])]
    pub(crate) batches: LabeledFamily<BatchState, Gauge<i64>>,
    /// Age of the oldest batch that is queued or in progress; 0 when there is none.
    #[metrics(unit = Unit::Seconds)]
    pub(crate) oldest_batch: Gauge<f64>,
    /// Batches whose deadline has passed and that are not proven.
    pub(crate) late_batches: Gauge<i64>,
    /// The longest estimate of the time left to a batch in progress; 0 when there is none to go by.
    #[metrics(unit = Unit::Seconds)]
    pub(crate) time_left: Gauge<f64>,
    /// The share of the positions for batches that is used up, from 0 to 1; at 1 the database takes no more batches.
    pub(crate) positions_used: Gauge<f64>,
    /// Circuits that were proven in the last hour.
    pub(crate) proofs_last_hour: Gauge<i64>,
    /// Batches that were proven in the last hour.
    pub(crate) batches_last_hour: Gauge<i64>,
    /// Workers that did not stop in order, by component and state.
    pub(crate) workers: Family<WorkerLabels, Gauge<i64>>,
    /// Jobs at the same time that live workers have places for.
    pub(crate) places: Gauge<i64>,
    /// Bytes of a table of the database, with its indexes.
    #[metrics(unit = Unit::Bytes)]
    pub(crate) table_size: Family<TableLabels, Gauge<i64>>,
    /// Rows of a table that are dead and not cleaned away yet.
    pub(crate) dead_rows: Family<TableLabels, Gauge<i64>>,
    /// Bytes of the database.
    #[metrics(unit = Unit::Bytes)]
    pub(crate) database_size: Gauge<i64>,
    /// Bytes that are free where artifacts are written; only where that is a folder of this machine.
    #[metrics(unit = Unit::Bytes)]
    pub(crate) artifacts_free: Gauge<u64>,
    /// Chains and stages that an operator holds back.
    pub(crate) paused: Gauge<u64>,
    /// Jobs put back because their worker died or its lease expired.
    pub(crate) jobs_rescued: Counter,
    /// Jobs taken out of circulation because workers kept dying with them.
    pub(crate) jobs_quarantined: Counter,
    /// Artifacts that were collected.
    pub(crate) artifacts_collected: Counter,
    /// Bytes of the artifacts that were collected.
    #[metrics(unit = Unit::Bytes)]
    pub(crate) collected: Counter,
    /// Time of one turn of a duty.
    #[metrics(buckets = DUTY_BUCKETS, unit = Unit::Seconds, labels = ["duty"])]
    pub(crate) duty_time: LabeledFamily<&'static str, Histogram<Duration>>,
    /// Turns of a duty that failed; each was tried again.
    #[metrics(labels = ["duty"])]
    pub(crate) duty_errors: LabeledFamily<&'static str, Counter>,
    /// 1 where this monitor leads the duty, 0 where another does.
    #[metrics(labels = ["duty"])]
    pub(crate) leads: LabeledFamily<&'static str, Gauge<u64>>,
}

/// The monitor's metrics.
#[vise::register]
pub static MONITOR_METRICS: Global<MonitorMetrics> = Global::new();
