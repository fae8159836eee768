//! Learns from what was measured: how much memory the circuits of a version take.

use crate::database::store::JobStore;
use crate::model::error::StoreError;
use crate::model::ids::ids_of_batch;
use crate::model::rows::batch_id;
use proving_model::BatchId;
use sqlx::{Connection, PgConnection};
use std::sync::PoisonError;

impl JobStore {
    /// Learns from the attempts of one proven batch that was not learned from yet. Returns `None` when there is none.
    ///
    /// A circuit's expected peak rises to the largest that any of the batch's attempts was seen to take, at once; it falls by an
    /// eighth a batch at most, so that one batch of small circuits does not undo what a large one taught.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn learn_from_batch(&self) -> Result<Option<BatchId>, StoreError> {
        self.reports
            .run("learn_from_batch", async |connection: &mut PgConnection| {
                let mut transaction = connection.begin().await?;
                let batch = sqlx::query!(
                    "UPDATE batches SET learned_at = now() WHERE position = (
                         SELECT position FROM batches WHERE learned_at IS NULL AND status = 'successful'
                         ORDER BY finished_at LIMIT 1 FOR UPDATE SKIP LOCKED)
                     RETURNING chain_id, number, position"
                )
                .fetch_optional(&mut *transaction)
                .await?;
                let Some(batch) = batch else { return Ok(None) };
                let (first, end) = ids_of_batch(batch.position);
                sqlx::query!(
                    "INSERT INTO learned_circuits AS known
                         (protocol_minor, protocol_patch, aggregation_round, circuit_id, peak_memory_bytes)
                     SELECT j.protocol_minor, j.protocol_patch, j.aggregation_round, j.circuit_id,
                            max(a.peak_memory_bytes)
                     FROM attempts a JOIN all_prover_jobs j ON j.id = a.job_id
                     WHERE a.job_id >= $1 AND a.job_id < $2 AND j.id >= $1 AND j.id < $2
                       AND j.stage = 'circuit_proof' AND a.peak_memory_bytes IS NOT NULL
                     GROUP BY 1, 2, 3, 4
                     ON CONFLICT (protocol_minor, protocol_patch, aggregation_round, circuit_id)
                     DO UPDATE SET
                         peak_memory_bytes =
                             greatest(excluded.peak_memory_bytes, known.peak_memory_bytes / 8 * 7),
                         learned_at = now()",
                    first,
                    end
                )
                .execute(&mut *transaction)
                .await?;
                transaction.commit().await?;
                self.knowledge.lock().unwrap_or_else(PoisonError::into_inner).clear();
                Ok(Some(batch_id(batch.chain_id, batch.number)?))
            })
            .await
    }
}
