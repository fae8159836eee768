//! The states of a batch that its jobs bring about: begun, proven, failed.

use crate::database::connections::Transaction;
use crate::database::text::stored;
use crate::model::error::StoreError;
use crate::model::rows::size;
use proving_model::{ArtifactRef, BatchId};

/// Notes that work on these batches has begun, where that is not known yet.
pub(crate) async fn begin_batches(
    executor: impl sqlx::PgExecutor<'_>,
    batches: &[BatchId],
) -> Result<(), StoreError> {
    let (chains, numbers): (Vec<i64>, Vec<i64>) =
        batches.iter().map(|batch| (i64::from(batch.chain_id), i64::from(batch.number))).unzip();
    sqlx::query!(
        "UPDATE batches b SET status = 'in_progress', started_at = now()
         FROM UNNEST($1::int8[], $2::int8[]) AS begun (chain_id, number)
         WHERE b.chain_id = begun.chain_id AND b.number = begun.number AND b.status = 'queued'",
        &chains,
        &numbers
    )
    .execute(executor)
    .await?;
    Ok(())
}

pub(crate) async fn finish_batch(
    transaction: &mut Transaction<'_>,
    batch: BatchId,
    output: &ArtifactRef,
) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE batches SET status = 'successful', finished_at = now(), error = NULL,
             final_proof_key = $3, final_proof_checksum = $4, final_proof_size_bytes = $5
         WHERE chain_id = $1 AND number = $2",
        i64::from(batch.chain_id),
        i64::from(batch.number),
        output.key,
        output.checksum.as_slice(),
        size(output)
    )
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

pub(crate) async fn fail_batch(
    transaction: &mut Transaction<'_>,
    batch: proving_model::BatchId,
    reason: &str,
) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE batches SET status = 'failed', error = $3, finished_at = now()
         WHERE chain_id = $1 AND number = $2 AND status IN ('queued', 'in_progress')",
        i64::from(batch.chain_id),
        i64::from(batch.number),
        &*stored(reason)
    )
    .execute(&mut **transaction)
    .await?;
    Ok(())
}
