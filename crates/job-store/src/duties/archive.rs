//! Old work leaves: the jobs of a proven batch go from the table that pickers scan into the archive, and from there, when they are
//! old enough, for good. A batch's own row stays, and with it where its final proof is.
//!
//! Nothing that comes late can touch an archived job: every write of a worker looks in `jobs` for its token.

use crate::database::store::JobStore;
use crate::model::error::StoreError;
use crate::model::ids::{PLACE_BITS, ids_of_batch};
use crate::model::rows::batch_id;
use proving_model::BatchId;
use sqlx::{Connection, PgConnection};
use std::time::Duration;

/// What one turn of the archive did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// The batch.
    pub batch: BatchId,
    /// Its jobs.
    pub jobs: u64,
}

impl JobStore {
    /// Moves the jobs of one batch into the archive: of the one that has been finished for longest, if that was at least `after`
    /// ago. Returns `None` when there is none. A failed batch stays where an operator can requeue it. Safe to run
    /// anywhere, any number of times: a batch that another is moving is skipped.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn archive_batch(&self, after: Duration) -> Result<Option<Moved>, StoreError> {
        self.reports
            .run("archive_batch", async |connection: &mut PgConnection| {
                let mut transaction = connection.begin().await?;
                let batch = sqlx::query!(
                    "UPDATE batches SET archived_at = now() WHERE position = (
                         SELECT position FROM batches b
                         WHERE archived_at IS NULL AND status IN ('successful', 'cancelled')
                           AND finished_at <= now() - make_interval(secs => $1)
                           -- A generator that makes a lost circuit again may end after its batch.
                           AND NOT EXISTS (
                               SELECT FROM jobs j
                               WHERE j.id >= b.position << $2 AND j.id < (b.position + 1) << $2
                                 AND j.status IN ('waiting_for_proofs', 'queued', 'in_progress'))
                         ORDER BY finished_at LIMIT 1 FOR UPDATE SKIP LOCKED)
                     RETURNING chain_id, number, position",
                    after.as_secs_f64(),
                    i32::try_from(PLACE_BITS).unwrap_or(i32::MAX)
                )
                .fetch_optional(&mut *transaction)
                .await?;
                let Some(batch) = batch else { return Ok(None) };
                let (first, end) = ids_of_batch(batch.position);
                let jobs = sqlx::query!(
                    "WITH moved AS (DELETE FROM jobs WHERE id >= $1 AND id < $2 RETURNING *)
                     INSERT INTO jobs_archive SELECT * FROM moved",
                    first,
                    end
                )
                .execute(&mut *transaction)
                .await?
                .rows_affected();
                transaction.commit().await?;
                Ok(Some(Moved { batch: batch_id(batch.chain_id, batch.number)?, jobs }))
            })
            .await
    }

    /// Deletes the jobs of one batch, and their attempts, from the archive: of the one that has been there for longest, if that is
    /// at least `after`. Returns `None` when there is none.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn delete_archived_batch(&self, after: Duration) -> Result<Option<Moved>, StoreError> {
        self.reports
            .run("delete_archived_batch", async |connection: &mut PgConnection| {
                let mut transaction = connection.begin().await?;
                let batch = sqlx::query!(
                    "UPDATE batches SET jobs_deleted_at = now() WHERE position = (
                         SELECT position FROM batches
                         WHERE archived_at <= now() - make_interval(secs => $1) AND jobs_deleted_at IS NULL
                         ORDER BY archived_at LIMIT 1 FOR UPDATE SKIP LOCKED)
                     RETURNING chain_id, number, position",
                    after.as_secs_f64()
                )
                .fetch_optional(&mut *transaction)
                .await?;
                let Some(batch) = batch else { return Ok(None) };
                let (first, end) = ids_of_batch(batch.position);
                sqlx::query!("DELETE FROM job_attempts WHERE job_id >= $1 AND job_id < $2", first, end)
                    .execute(&mut *transaction)
                    .await?;
                let jobs = sqlx::query!("DELETE FROM jobs_archive WHERE id >= $1 AND id < $2", first, end)
                    .execute(&mut *transaction)
                    .await?
                    .rows_affected();
                transaction.commit().await?;
                Ok(Some(Moved { batch: batch_id(batch.chain_id, batch.number)?, jobs }))
            })
            .await
    }

    /// Deletes the workers that stopped so long ago. Attempts of theirs that are still kept no longer say where they ran.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn delete_stopped_workers(&self, after: Duration) -> Result<u64, StoreError> {
        let deleted = self
            .reports
            .statement("delete_stopped_workers", async |connection: &mut PgConnection| {
                sqlx::query!(
                    "DELETE FROM workers WHERE stopped_at <= now() - make_interval(secs => $1)",
                    after.as_secs_f64()
                )
                .execute(connection)
                .await
            })
            .await?;
        Ok(deleted.rows_affected())
    }
}
