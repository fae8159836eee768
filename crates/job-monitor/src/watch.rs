//! Watch: puts back the jobs of a worker's process within milliseconds of its death ([`job_store::duties::death_watch::DeathWatch`]).

use crate::rescue::tell;
use job_store::JobStore;
use job_store::duties::death_watch::DeathWatch;
use tokio_util::sync::CancellationToken;

/// Watches until the shutdown signal.
pub async fn run(store: &JobStore, shutdown: &CancellationToken) {
    let rescued =
        |jobs: &[job_store::duties::rescue::Rescued]| tell(jobs, "its worker died, the job was put back");
    DeathWatch::new(store).run(rescued, shutdown).await;
}
