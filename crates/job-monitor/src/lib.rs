//! The job monitor: its duties, a file each, and what it shows ([`routes`]). Any number of monitors may run; one at a time leads a duty, and
//! none does harm where two do.

pub mod archive;
pub mod collect;
mod duties;
pub mod learn;
mod metrics;
pub mod queue_report;
pub mod report;
pub mod rescue;
pub mod retry;
pub mod watch;
mod web;

pub use duties::DutyError;
pub use metrics::{MONITOR_METRICS, MonitorMetrics};
pub use web::routes;

use artifact_store::ArtifactStore;
use duties::{Led, repeat, repeat_led};
use job_store::JobStore;
use job_store::duties::leadership::Leader;
use std::time::Duration;
use tokio::sync::watch::channel as watch_channel;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const RESCUE: &str = "rescue";
const RETRY: &str = "retry";
const ARCHIVE: &str = "archive";
const LEARN: &str = "learn";
const COLLECT: &str = "collect";
const REPORT: &str = "report";
/// What one monitor at a time does.
const LED_DUTIES: [&str; 5] = [RESCUE, RETRY, ARCHIVE, LEARN, COLLECT];

/// Looks at everything may take this part of the time: one that reads a large queue is taken less often.
const LOOK_SHARE: u32 = 20;

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
    /// What was made for a batch is removed from the object store so long after the batch's end; never, when `None`.
    pub collect_after: Option<Duration>,
    /// Between two reports.
    pub report_interval: Duration,
}

/// Days that the archive keeps a batch's jobs, unless it is told otherwise.
pub const DELETE_AFTER_DAYS: u64 = 30;

/// Hours that the artifacts of a batch that is over are kept, unless it is told otherwise.
pub const COLLECT_AFTER_HOURS: u64 = 24;

impl MonitorConfig {
    /// What holds where nothing is said.
    pub const DEFAULT: Self = Self {
        rescue_interval: Duration::from_secs(1),
        retry_interval: Duration::from_millis(500),
        // Long enough for whoever looks at a batch right after its end; short enough that the table stays small.
        archive_after: Duration::from_secs(3_600),
        // A day to look at what went wrong, or to restart from what is there.
        collect_after: Some(Duration::from_secs(COLLECT_AFTER_HOURS * 3_600)),
        report_interval: Duration::from_secs(5),
        delete_after: Some(Duration::from_secs(DELETE_AFTER_DAYS * 24 * 3_600)),
    };
}

/// Runs all duties until the shutdown signal: each where no other monitor leads it, but for the watch over deaths, which monitors share, and
/// the report, which each makes for whoever asks it.
pub async fn run(
    store: JobStore,
    artifacts: ArtifactStore,
    config: MonitorConfig,
    shutdown: CancellationToken,
) {
    let leader = Leader {
        id: Uuid::new_v4(),
        host: std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned(),
        pid: std::process::id(),
    };
    let (sender, led) = watch_channel(Led::default());
    let contact = led.clone();
    let led = || led.clone();
    let reporter = tokio::sync::Mutex::new(report::Reporter::default());
    let reports = config.report_interval;
    tokio::join!(
        duties::lead(&store, &leader, &LED_DUTIES, sender, &shutdown),
        watch::run(&store, &shutdown),
        repeat_led(RESCUE, config.rescue_interval, led(), &shutdown, || {
            let in_contact = contact.borrow().in_contact();
            rescue::run_once(&store, in_contact)
        }),
        repeat_led(RETRY, config.retry_interval, led(), &shutdown, || async {
            retry::run_once(&store, config.retry_interval).await
        }),
        repeat_led(ARCHIVE, UNHURRIED_INTERVAL, led(), &shutdown, || async {
            archive::run_once(&store, &config).await
        }),
        repeat_led(LEARN, UNHURRIED_INTERVAL, led(), &shutdown, || learn::run_once(&store)),
        repeat_led(COLLECT, UNHURRIED_INTERVAL, led(), &shutdown, || async {
            collect::run_once(&store, &artifacts, &config).await
        }),
        repeat(REPORT, reports, &shutdown, || async {
            reporter.lock().await.run_once(&store, &artifacts).await
        }),
    );
}
