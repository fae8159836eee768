//! Archive: moves the jobs of proven batches out of the pickers' way, and deletes them when they are old.

use crate::{DutyError, MonitorConfig};
use job_store::JobStore;
use job_store::duties::archive::Moved;

/// Archives and deletes until nothing is due.
///
/// # Errors
/// The store's.
pub async fn run_once(store: &JobStore, config: &MonitorConfig) -> Result<(), DutyError> {
    while let Some(Moved { batch, jobs }) = store.archive_batch(config.archive_after).await? {
        tracing::info!(%batch, jobs, "the batch's jobs went into the archive");
    }
    let Some(after) = config.delete_after else { return Ok(()) };
    while let Some(Moved { batch, jobs }) = store.delete_archived_batch(after).await? {
        tracing::info!(%batch, jobs, "the batch's jobs and their attempts were deleted from the archive");
    }
    store.delete_stopped_workers(after).await?;
    Ok(())
}
