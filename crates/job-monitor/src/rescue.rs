//! Rescue: puts back the jobs whose lease expired.

use job_store::{JobStore, StoreError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Rescues once; returns how many jobs were put back.
///
/// # Errors
/// The store's.
pub async fn run_once(store: &JobStore) -> Result<usize, StoreError> {
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
    Ok(rescued.len())
}

/// Rescues every `interval` until the shutdown signal; errors are logged and the next turn tries again.
pub async fn run(store: JobStore, interval: Duration, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(interval) => {}
        }
        if let Err(e) = run_once(&store).await {
            tracing::warn!("the rescue duty failed, next try in {interval:?}: {e}");
        }
    }
}
