//! Artifact collection: what was made for a batch goes when the batch has been over for a while; its input and its final proof stay, until
//! it is deleted.

use crate::metrics::MONITOR_METRICS;
use crate::{DutyError, MonitorConfig};
use artifact_store::ArtifactStore;
use job_store::JobStore;
use job_store::duties::collect::Collectable;
use std::time::{Duration, SystemTime};

/// Collects until nothing is due.
///
/// # Errors
/// The stores'.
pub async fn run_once(
    store: &JobStore,
    artifacts: &ArtifactStore,
    config: &MonitorConfig,
) -> Result<(), DutyError> {
    let Some(after) = config.collect_after else { return Ok(()) };
    while let Some(collectable) = store.next_collectable(after).await? {
        let Collectable { batch, deleted_seconds_ago } = collectable;
        let deleted_at = deleted_seconds_ago
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .and_then(|ago| SystemTime::now().checked_sub(ago));
        let removed = artifacts.remove_batch(batch, deleted_at).await?;
        store.collected(collectable).await?;
        MONITOR_METRICS.artifacts_collected.inc_by(removed.artifacts);
        MONITOR_METRICS.collected.inc_by(removed.bytes);
        tracing::info!(%batch, artifacts = removed.artifacts, bytes = removed.bytes, "the batch's artifacts were collected");
    }
    Ok(())
}
