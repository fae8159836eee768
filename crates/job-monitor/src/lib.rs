//! The job monitor's duties, a file each. Any number of monitors may run: a duty skips what another has in hand.

pub mod archive;
pub mod learn;
pub mod rescue;
pub mod retry;
pub mod watch;

use job_store::{JobStore, StoreError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Between two looks of duties that nothing waits for.
const UNHURRIED_INTERVAL: Duration = Duration::from_secs(1);

/// How often the duties run, and what is old.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MonitorConfig {
    /// Between two looks for expired leases.
    pub rescue_interval: Duration,
    /// Between two looks for jobs whose rest is over.
    pub retry_interval: Duration,
    /// A proven batch's jobs go into the archive so long after its end.
    pub archive_after: Duration,
    /// They are deleted, with their attempts, after so long in the archive; never, when `None`.
    pub delete_after: Option<Duration>,
}

/// Days that the archive keeps a batch's jobs, unless it is told otherwise.
pub const DELETE_AFTER_DAYS: u64 = 30;

impl MonitorConfig {
    /// What holds where nothing is said.
    pub const DEFAULT: Self = Self {
        rescue_interval: Duration::from_secs(1),
        retry_interval: Duration::from_millis(500),
        // Long enough for whoever looks at a batch right after its end; short enough that the table stays small.
        archive_after: Duration::from_secs(3_600),
        delete_after: Some(Duration::from_secs(DELETE_AFTER_DAYS * 24 * 3_600)),
    };
}

/// Runs all duties until the shutdown signal.
pub async fn run(store: JobStore, config: MonitorConfig, shutdown: CancellationToken) {
    tokio::join!(
        repeat("rescue", config.rescue_interval, &shutdown, || rescue::run_once(&store)),
        watch::run(&store, &shutdown),
        repeat("archive", UNHURRIED_INTERVAL, &shutdown, || archive::run_once(&store, &config)),
        repeat("learn", UNHURRIED_INTERVAL, &shutdown, || learn::run_once(&store)),
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
