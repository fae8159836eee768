//! Retry: announces jobs whose rest after a failure is over, so that they run at once and pickers need not poll for them.

use crate::DutyError;
use job_store::JobStore;
use std::time::Duration;

/// Wakes the pickers of jobs whose rest ended since the last turn; a window of two turns overlaps with the one before.
///
/// # Errors
/// The store's.
pub async fn run_once(store: &JobStore, interval: Duration) -> Result<(), DutyError> {
    for stage in store.wake_rested(interval * 2).await? {
        tracing::debug!(%stage, "rested jobs were announced");
    }
    Ok(())
}
