//! How devices are used.

use std::time::Duration;

/// A device that says nothing for so long hangs: the largest circuits take seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// Circuits that a device has at a time: one that it proves, and one whose witness is uploaded meanwhile.
pub(crate) const PLACES: usize = 2;

/// How devices are used.
#[derive(Debug, Clone, Copy)]
pub struct PoolSettings {
    /// Bytes of each device's memory that are taken at the start; all but what the driver needs where there is no bound.
    pub max_allocation: Option<usize>,
    /// How long an answer may take.
    pub patience: Duration,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self { max_allocation: None, patience: ANSWER_TIMEOUT }
    }
}
