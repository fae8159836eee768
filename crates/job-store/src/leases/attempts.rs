//! The attempt log: how each attempt ended.

use crate::database::connections::Transaction;
use crate::database::text::stored;
use crate::model::error::StoreError;
use crate::model::rows::LeasedJob;

/// Writes how an attempt ended, in the transaction that ended it. (`commit.rs` writes those that succeeded, many at once.)
pub(crate) async fn record_attempt(
    transaction: &mut Transaction<'_>,
    job: &LeasedJob,
    outcome: &str,
    error: Option<&str>,
) -> Result<(), StoreError> {
    let error = error.map(stored);
    sqlx::query!(
        "INSERT INTO job_attempts (job_id, attempt, worker_id, lease_token, started_at, finished_at,
             outcome, error)
         SELECT id, $2, $3, $4, started_at, now(), $5, $6 FROM jobs WHERE id = $1",
        job.id,
        job.attempt,
        job.worker,
        job.token,
        outcome,
        error.as_deref()
    )
    .execute(&mut **transaction)
    .await
    .map_err(StoreError::database("record_attempt"))?;
    Ok(())
}
