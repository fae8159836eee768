//! Jobs by state.

use proving_model::JobStatus;
use schemars::JsonSchema;
use serde::Serialize;

/// How many jobs are in which state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct StateCounts {
    /// They wait for others' outputs.
    pub waiting: i64,
    /// They may be picked.
    pub queued: i64,
    /// Workers have them.
    pub in_progress: i64,
    /// They are done.
    pub successful: i64,
    /// Their budgets are spent.
    pub failed: i64,
}

impl StateCounts {
    pub(crate) fn add(&mut self, status: &str, count: i64) {
        match status.parse() {
            Ok(JobStatus::WaitingForProofs) => self.waiting += count,
            Ok(JobStatus::Queued) => self.queued += count,
            Ok(JobStatus::InProgress) => self.in_progress += count,
            Ok(JobStatus::Successful) => self.successful += count,
            Ok(JobStatus::Failed) => self.failed += count,
            // What was cancelled is nobody's work.
            Ok(JobStatus::Cancelled) | Err(_) => {}
        }
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> i64 {
        self.waiting + self.queued + self.in_progress + self.successful + self.failed
    }
}
