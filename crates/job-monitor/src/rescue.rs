//! Rescue: puts back the jobs whose lease expired.

use job_store::{JobStore, StoreError};

/// Rescues until nothing is left to rescue.
///
/// # Errors
/// The store's.
pub async fn run_once(store: &JobStore) -> Result<(), StoreError> {
    loop {
        let rescued = store.rescue_expired().await?;
        for job in &rescued {
            tracing::warn!(
                job = job.job_id,
                batch = %job.batch,
                status = %job.status,
                worker_deaths = job.worker_deaths,
                "a lease expired, the job was put back"
            );
        }
        if rescued.is_empty() {
            return Ok(());
        }
    }
}
