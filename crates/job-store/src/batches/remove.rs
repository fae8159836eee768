//! Removes what a batch has in the database.

use crate::batches::lock::lock_jobs;
use crate::database::connections::Transaction;
use crate::model::error::StoreError;
use crate::model::ids::ids_of_batch;
use proving_model::BatchId;

/// Removes a batch's jobs, wherever they are, the log of their attempts, and then its row, which the transaction has locked
/// ([`crate::batches::lock::lock_batch`]). Its artifacts are collected later. Returns how many jobs it had.
pub(crate) async fn remove_batch(
    transaction: &mut Transaction<'_>,
    id: BatchId,
    position: i64,
) -> Result<i64, StoreError> {
    let (first, past) = ids_of_batch(position);
    lock_jobs(transaction, position).await?;
    let jobs = sqlx::query_scalar!(
        r#"WITH hot AS (DELETE FROM jobs WHERE id >= $1 AND id < $2 RETURNING 1),
                old AS (DELETE FROM jobs_archive WHERE id >= $1 AND id < $2 RETURNING 1)
           SELECT (SELECT count(*) FROM hot) + (SELECT count(*) FROM old) AS "jobs!""#,
        first,
        past
    )
    .fetch_one(&mut **transaction)
    .await?;
    sqlx::query!("DELETE FROM job_attempts WHERE job_id >= $1 AND job_id < $2", first, past)
        .execute(&mut **transaction)
        .await?;
    sqlx::query!("DELETE FROM batches WHERE position = $1", position).execute(&mut **transaction).await?;
    sqlx::query!(
        "INSERT INTO deleted_batches (chain_id, number) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        i64::from(id.chain_id),
        i64::from(id.number)
    )
    .execute(&mut **transaction)
    .await?;
    Ok(jobs)
}
