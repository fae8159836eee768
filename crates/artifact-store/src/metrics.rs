//! Metrics of this process's use of the object store.

use std::time::Duration;
use vise::{Buckets, Counter, EncodeLabelValue, Global, Histogram, LabeledFamily, Metrics, Unit};

/// From a millisecond to two minutes.
const BUCKETS: Buckets = Buckets::exponential(0.001..=120.0, 3.0);

/// What is done with an artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[metrics(rename_all = "snake_case")]
pub(crate) enum Action {
    Read,
    Write,
}

/// Why an artifact was not read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[metrics(rename_all = "snake_case")]
pub(crate) enum Reason {
    Missing,
    Corrupt,
    Unavailable,
}

/// Metrics of this process's use of the object store.
#[derive(Debug, Metrics)]
#[metrics(prefix = "artifact_store")]
pub(crate) struct ArtifactMetrics {
    /// Time of reading or writing one artifact, by action; the wait for a place among the transfers included.
    #[metrics(buckets = BUCKETS, unit = Unit::Seconds, labels = ["action"])]
    pub(crate) transfer_time: LabeledFamily<Action, Histogram<Duration>>,
    /// Bytes of artifacts read or written, by action.
    #[metrics(unit = Unit::Bytes, labels = ["action"])]
    pub(crate) transferred: LabeledFamily<Action, Counter>,
    /// Artifacts that were not read or written, by reason: missing, corrupt, or the store's own trouble.
    #[metrics(labels = ["reason"])]
    pub(crate) errors: LabeledFamily<Reason, Counter>,
}

/// The object store's metrics.
#[vise::register]
pub(crate) static ARTIFACT_METRICS: Global<ArtifactMetrics> = Global::new();
