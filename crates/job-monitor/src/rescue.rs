//! Rescue: puts back the jobs whose worker's lease expired, and closes the books of workers that are long gone.

use crate::DutyError;
use crate::metrics::MONITOR_METRICS;
use job_store::JobStore;
use job_store::duties::rescue::Rescued;
use proving_model::JobStatus;
use std::time::Duration;

/// A worker that expired so long ago is looked at no more, until it comes back.
const BURY_AFTER: Duration = Duration::from_secs(300);

/// Rescues until nothing is left to rescue. This monitor has reached the database for so long without a break.
///
/// # Errors
/// The store's.
pub async fn run_once(store: &JobStore, in_contact: Duration) -> Result<(), DutyError> {
    loop {
        let rescued = store.rescue_expired(in_contact).await?;
        tell(&rescued, "a lease expired, the job was put back");
        if rescued.is_empty() {
            store.bury_workers(BURY_AFTER).await?;
            return Ok(());
        }
    }
}

pub(crate) fn tell(rescued: &[Rescued], what: &str) {
    for job in rescued {
        MONITOR_METRICS.jobs_rescued.inc();
        if job.status == JobStatus::Failed {
            MONITOR_METRICS.jobs_quarantined.inc();
        }
        tracing::warn!(
            job = job.job_id,
            batch = %job.batch,
            status = %job.status,
            worker_deaths = job.worker_deaths,
            "{what}"
        );
    }
}
