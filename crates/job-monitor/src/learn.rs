//! Learn: what the attempts of proven batches tell of their circuits, for the jobs of the next.

use crate::DutyError;
use job_store::JobStore;

/// Learns until there is nothing new.
///
/// # Errors
/// The store's.
pub async fn run_once(store: &JobStore) -> Result<(), DutyError> {
    while let Some(batch) = store.learn_from_batch().await? {
        tracing::debug!(%batch, "learned from the batch");
    }
    Ok(())
}
