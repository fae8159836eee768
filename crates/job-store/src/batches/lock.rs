//! The locks that a change of a whole batch takes.

use crate::database::connections::Transaction;
use crate::model::error::StoreError;
use crate::model::ids::ids_of_batch;
use proving_model::BatchStatus;

/// Locks a batch's row; its status, which stays as it is. `None` when it is gone.
pub(crate) async fn lock_batch(
    transaction: &mut Transaction<'_>,
    position: i64,
) -> Result<Option<BatchStatus>, StoreError> {
    let status = sqlx::query_scalar!("SELECT status FROM batches WHERE position = $1 FOR UPDATE", position)
        .fetch_optional(&mut **transaction)
        .await?;
    let unknown = |status: &str| StoreError::Schema(format!("batches.status is {status:?}"));
    status.map(|status| status.parse().map_err(|_| unknown(&status))).transpose()
}

/// Locks the rows of a batch's jobs, in the order of their ids, as everywhere. Whatever ends from here on waits. Twice: the first waits for a
/// generator that is inserting jobs, by the lock on its row, and does not see what it inserted; then the generator waits.
pub(crate) async fn lock_jobs(transaction: &mut Transaction<'_>, position: i64) -> Result<(), StoreError> {
    let (first, past) = ids_of_batch(position);
    for _ in 0..2 {
        sqlx::query!("SELECT FROM jobs WHERE id >= $1 AND id < $2 ORDER BY id FOR UPDATE", first, past)
            .execute(&mut **transaction)
            .await?;
    }
    Ok(())
}
