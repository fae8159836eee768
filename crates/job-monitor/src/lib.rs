//! The job monitor's duties, a file each. Any number of monitors may run: a duty skips what another has in hand.

pub mod rescue;
pub mod retry;
pub mod watch;

use job_store::{JobStore, StoreError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often each duty runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MonitorConfig {
    /// Between two looks for expired leases.
    pub rescue_interval: Duration,
    /// Between two looks for jobs whose rest is over.
    pub retry_interval: Duration,
}

/// Runs all duties until the shutdown signal.
pub async fn run(store: JobStore, config: MonitorConfig, shutdown: CancellationToken) {
    tokio::join!(
        repeat("rescue", config.rescue_interval, &shutdown, || rescue::run_once(&store)),
        watch::run(&store, &shutdown),
        repeat("retry", config.retry_interval, &shutdown, || retry::run_once(&store, config.retry_interval)),
    );
}

/// Runs a duty at every interval; an error is logged, and the next turn tries again.
async fn repeat<F>(name: &str, interval: Duration, shutdown: &CancellationToken, mut duty: impl FnMut() -> F)
where
    F: Future<Output = Result<(), StoreError>>,
{
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(interval) => {}
        }
        if let Err(e) = duty().await {
            tracing::warn!("the {name} duty failed, next try in {interval:?}: {e}");
        }
    }
}
