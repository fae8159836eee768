//! Puts jobs back into the queue whose attempt is over: one that ran, at no cost; one that succeeded, because its output is gone.

use crate::database::connections::Transaction;
use crate::leases::attempts;
use crate::model::error::StoreError;
use std::time::Duration;

/// Puts back jobs whose leases this transaction holds and has logged. They may be picked after the backoff.
pub(crate) async fn put_back(
    transaction: &mut Transaction<'_>,
    job_ids: &[i64],
    backoff: Duration,
) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE jobs SET status = 'queued', queued_at = now(), progress = 0,
             not_before = now() + make_interval(secs => $2), worker_id = NULL, lease_token = NULL
         WHERE id = ANY($1)",
        job_ids,
        backoff.as_secs_f64()
    )
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

/// Runs successful jobs again, whose outputs are forgotten; each loses this many of its regenerations. Returns how many run.
pub(crate) async fn run_again(
    transaction: &mut Transaction<'_>,
    job_ids: &[i64],
    regenerations: i32,
    reason: Option<&str>,
) -> Result<u64, StoreError> {
    attempts::log_successes(transaction, job_ids).await?;
    let requeued = sqlx::query!(
        "UPDATE jobs SET status = 'queued', queued_at = now(), not_before = now(), finished_at = NULL, progress = 0,
             regenerations = least(regenerations + $2, 1000000000), error = coalesce($3, error),
             completed_by = NULL, completed_token = NULL, measured_memory_bytes = NULL,
             output_key = NULL, output_checksum = NULL, output_size_bytes = NULL
         WHERE id = ANY($1) AND status = 'successful'",
        job_ids,
        regenerations,
        reason
    )
    .execute(&mut **transaction)
    .await?;
    Ok(requeued.rows_affected())
}
