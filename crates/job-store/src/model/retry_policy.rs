//! How often a job may fail, and how long it backs off.

use std::time::Duration;

/// How often a job may fail before it is failed for good, each cause counted apart, and how long it rests between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Failures that the job reported.
    pub failures_max: i32,
    /// Deaths of its worker; one more and the job is quarantined as a killer of workers.
    pub worker_deaths_max: i32,
    /// Attempts that took too long.
    pub timeouts_max: i32,
    /// Times that its output was lost and it ran again.
    pub regenerations_max: i32,
    /// Rest after the first failure; it doubles with each.
    pub backoff_first: Duration,
    /// Longest rest.
    pub backoff_longest: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            failures_max: 3,
            worker_deaths_max: 5,
            timeouts_max: 2,
            regenerations_max: 10,
            backoff_first: Duration::from_secs(1),
            backoff_longest: Duration::from_secs(60),
        }
    }
}
