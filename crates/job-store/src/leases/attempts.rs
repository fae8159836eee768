//! The attempt log: how each attempt ended.
//!
//! A job's row keeps the attempt that runs, and the one that succeeded. Whoever is about to make the row forget it logs it first, in the
//! same transaction.

use crate::database::connections::Transaction;
use crate::database::text::stored;
use crate::model::error::StoreError;
use crate::model::rows::LeasedJob;

/// How an attempt that runs ends, other than by success. The words are those of `job_attempts.outcome`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Outcome {
    Failed,
    TimedOut,
    WorkerDied,
    Released,
    InputLost,
    Cancelled,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::WorkerDied => "worker_died",
            Self::Released => "released",
            Self::InputLost => "input_lost",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Logs the attempts in these jobs' rows: those that run end like this, those that succeeded end so. Locks the rows.
pub(crate) async fn log(
    transaction: &mut Transaction<'_>,
    job_ids: &[i64],
    outcome: Outcome,
    error: Option<&str>,
) -> Result<(), StoreError> {
    insert(transaction, job_ids, None, Some(outcome), error).await.map(drop)
}

/// Logs the successful attempts in these jobs' rows, and no other. Locks the rows.
pub(crate) async fn log_successes(
    transaction: &mut Transaction<'_>,
    job_ids: &[i64],
) -> Result<(), StoreError> {
    insert(transaction, job_ids, None, None, None).await.map(drop)
}

/// Logs the end of a leased job's attempt, and locks its row.
///
/// # Errors
/// [`StoreError::LeaseLost`] when the lease is another's by now.
pub(crate) async fn log_own(
    transaction: &mut Transaction<'_>,
    job: &LeasedJob,
    outcome: Outcome,
    error: Option<&str>,
) -> Result<(), StoreError> {
    match insert(transaction, &[job.id], Some(job), Some(outcome), error).await? {
        1 => Ok(()),
        _ => Err(StoreError::LeaseLost { job_id: job.id }),
    }
}

/// Without an outcome only what succeeded is logged. Returns how many attempts there were.
async fn insert(
    transaction: &mut Transaction<'_>,
    job_ids: &[i64],
    lease: Option<&LeasedJob>,
    outcome: Option<Outcome>,
    error: Option<&str>,
) -> Result<i64, StoreError> {
    let error = error.map(stored);
    let logged = sqlx::query_scalar!(
        // An attempt of this number that is in the log already was another hand's: it stays, and stops nobody.
        r#"WITH ended AS (
               SELECT * FROM jobs
               WHERE id = ANY($1) AND ($2::uuid IS NULL OR lease_token = $2)
                 AND (status = 'successful' OR status = 'in_progress' AND $3::text IS NOT NULL)
               ORDER BY id FOR UPDATE
           ), logged AS (
               INSERT INTO job_attempts (job_id, attempt, worker_id, lease_token, started_at, finished_at, outcome, error,
                                         peak_memory_bytes)
               SELECT id, attempts, coalesce(worker_id, completed_by), coalesce(lease_token, completed_token), started_at,
                      CASE status WHEN 'successful' THEN finished_at ELSE now() END,
                      CASE status WHEN 'successful' THEN 'successful' ELSE $3 END,
                      CASE status WHEN 'successful' THEN NULL ELSE $4 END, measured_memory_bytes
               FROM ended
               ON CONFLICT (job_id, attempt) DO NOTHING
           )
           SELECT count(*) AS "ended!" FROM ended"#,
        job_ids,
        lease.map(|job| job.token),
        outcome.map(Outcome::as_str),
        error.as_deref()
    )
    .fetch_one(&mut **transaction)
    .await?;
    Ok(logged)
}
