//! Which batches' artifacts are no longer needed. The object store is not this crate's: the job monitor deletes them, and says so here.

use crate::database::store::JobStore;
use crate::model::error::StoreError;
use crate::model::rows::batch_id;
use proving_model::BatchId;
use sqlx::PgConnection;
use std::time::Duration;

/// A batch whose artifacts are no longer needed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Collectable {
    /// The batch.
    pub batch: BatchId,
    /// Seconds since it was deleted, where it was: then its input and its final proof are not needed either, and what is younger belongs
    /// to another batch of the same number.
    pub deleted_seconds_ago: Option<f64>,
}

impl JobStore {
    /// A batch that has been over for so long, or was deleted, and whose artifacts nobody collected yet; the oldest first. `None` when
    /// there is none.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn next_collectable(&self, after: Duration) -> Result<Option<Collectable>, StoreError> {
        let row = self
            .reports
            .statement("next_collectable", async |connection: &mut PgConnection| {
                sqlx::query!(
                    r#"(SELECT chain_id AS "chain_id!", number AS "number!", 
                               EXTRACT(EPOCH FROM now() - deleted_at)::float8 AS deleted_seconds_ago
                        FROM deleted_batches WHERE deleted_at <= now() - make_interval(secs => $1)
                        ORDER BY deleted_at LIMIT 1)
                       UNION ALL
                       (SELECT chain_id, number, NULL FROM batches
                        WHERE collected_at IS NULL AND status IN ('successful', 'cancelled')
                          AND finished_at <= now() - make_interval(secs => $1)
                        ORDER BY finished_at LIMIT 1)
                       LIMIT 1"#,
                    after.as_secs_f64()
                )
                .fetch_optional(connection)
                .await
            })
            .await?;
        row.map(|row| {
            let batch = batch_id(row.chain_id, row.number)?;
            Ok(Collectable { batch, deleted_seconds_ago: row.deleted_seconds_ago })
        })
        .transpose()
    }

    /// A batch's artifacts are gone.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn collected(&self, collected: Collectable) -> Result<(), StoreError> {
        let (chain_id, number) = (i64::from(collected.batch.chain_id), i64::from(collected.batch.number));
        self.reports
            .statement("collected", async |connection: &mut PgConnection| {
                let done = if collected.deleted_seconds_ago.is_some() {
                    sqlx::query!(
                        "DELETE FROM deleted_batches WHERE chain_id = $1 AND number = $2",
                        chain_id,
                        number
                    )
                    .execute(connection)
                    .await
                } else {
                    // One that was restarted meanwhile makes again what it misses, and is collected when it is over again.
                    sqlx::query!(
                        "UPDATE batches SET collected_at = now()
                         WHERE chain_id = $1 AND number = $2 AND status IN ('successful', 'cancelled')",
                        chain_id,
                        number
                    )
                    .execute(connection)
                    .await
                };
                done.map(drop)
            })
            .await
    }
}
