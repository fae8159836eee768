//! Restart: a batch from a round on, as if nothing of that round and of those after it had been made.

use crate::batches::chains::{arrange, lock_chain};
use crate::batches::lock::lock_jobs;
use crate::database::store::JobStore;
use crate::leases::attempts::{self, Outcome};
use crate::model::error::StoreError;
use crate::model::ids::{generator_id, ids_of_batch};
use crate::operator::mode::{Mode, end};
use proving_model::{AggregationRound, BatchId, BatchStatus, JobStatus, Stage};
use schemars::JsonSchema;
use serde::Serialize;
use sqlx::{Connection, PgConnection};

/// What a restart changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Restarted {
    /// Jobs that were successful or failed, and are to run again.
    pub jobs_again: usize,
    /// Jobs that ran, and are told to stop.
    pub jobs_stopped: usize,
}

impl JobStore {
    /// Makes the jobs of this round, and of all after it, run again, with new budgets: outputs are forgotten, attempts stay in the
    /// log, and what runs is told to stop. From the basic circuits on, the circuits themselves are made again too. A batch that was
    /// proven is open again, and its jobs come back from the archive.
    ///
    /// # Errors
    /// [`StoreError::NoSuchBatch`]; [`StoreError::Invalid`] for one that was cancelled, or whose jobs are deleted;
    /// [`StoreError::Database`].
    pub async fn restart_batch(
        &self,
        id: BatchId,
        from: AggregationRound,
        mode: Mode,
    ) -> Result<Restarted, StoreError> {
        let found = self.batch(id).await?.ok_or(StoreError::NoSuchBatch(id))?;
        let (first, past) = ids_of_batch(found.position);
        let generator = generator_id(found.position)?;
        let restarted = self
            .reports
            .run("restart_batch", async |connection: &mut PgConnection| {
                let mut transaction = connection.begin().await?;
                let chain = lock_chain(&mut transaction, id.chain_id).await?;
                let batch = sqlx::query!(
                    r#"SELECT status, jobs_deleted_at IS NOT NULL AS "is_deleted!" FROM batches
                       WHERE position = $1 FOR UPDATE"#,
                    found.position
                )
                .fetch_one(&mut *transaction)
                .await?;
                if batch.status == BatchStatus::Cancelled.as_str() {
                    let text = format!("{id} was cancelled for good: `insert-batch --replace` proves it anew, with this or another input");
                    return Err(StoreError::Invalid(text));
                }
                if batch.is_deleted {
                    return Err(StoreError::Invalid(format!(
                        "the jobs of {id} were deleted for their age: delete it, and insert it again"
                    )));
                }
                sqlx::query!(
                    "WITH moved AS (DELETE FROM jobs_archive WHERE id >= $1 AND id < $2 RETURNING *)
                     INSERT INTO jobs SELECT * FROM moved",
                    first,
                    past
                )
                .execute(&mut *transaction)
                .await?;
                // Whatever ends from here on finds its lease gone, or its successor's count as it is to be.
                lock_jobs(&mut transaction, found.position).await?;
                // While they were in the archive their chain may have been paused, or a pause may have ended.
                sqlx::query!(
                    "UPDATE jobs SET queue = -1 - queue
                     WHERE id >= $1 AND id < $2 AND (queue < 0) <> $3",
                    first,
                    past,
                    chain.is_paused
                )
                .execute(&mut *transaction)
                .await?;
                let again = sqlx::query_scalar!(
                    r#"SELECT id AS "id!" FROM prover_jobs
                       WHERE id >= $1 AND id < $2 AND aggregation_round >= $3
                         -- A first job that waits does so for another batch.
                         AND NOT (id = $4 AND status = 'waiting_for_proofs')"#,
                    first,
                    past,
                    from.number(),
                    generator
                )
                .fetch_all(&mut *transaction)
                .await?;
                let reason = Some("the batch was restarted");
                attempts::log(&mut transaction, &again, Outcome::Cancelled, reason).await?;
                let was = sqlx::query_scalar!(
                    r#"WITH counted AS (
                           SELECT id, status AS was, CASE
                                      WHEN id = $3 THEN 0
                                      -- A circuit is its generator's output.
                                      WHEN aggregation_round = 0 THEN 1
                                      ELSE (SELECT count(*) FROM prover_jobs p
                                            WHERE p.id = ANY(again.predecessor_ids)
                                              AND (p.aggregation_round >= $2
                                                   OR p.status <> 'successful'))::int4
                                  END AS missing
                           FROM prover_jobs again WHERE id = ANY($1)
                       )
                       UPDATE jobs j SET
                           status = CASE WHEN missing = 0 THEN 'queued' ELSE 'waiting_for_proofs' END,
                           dependencies_left = missing, queued_at = CASE WHEN missing = 0 THEN now() END,
                           not_before = now(), finished_at = NULL, progress = 0, error = NULL,
                           failures = 0, worker_deaths = 0, timeouts = 0, regenerations = 0,
                           worker_id = NULL, lease_token = NULL, completed_by = NULL, completed_token = NULL,
                           measured_memory_bytes = NULL,
                           output_key = NULL, output_checksum = NULL, output_size_bytes = NULL,
                           input_key = NULL, input_checksum = NULL, input_size_bytes = NULL
                       FROM counted WHERE j.id = counted.id
                       RETURNING was AS "was!""#,
                    &again,
                    from.number(),
                    generator
                )
                .fetch_all(&mut *transaction)
                .await?;
                sqlx::query!(
                    "UPDATE batches SET status = 'in_progress', error = NULL,
                         finished_at = NULL, archived_at = NULL, collected_at = NULL,
                         final_proof_key = NULL, final_proof_checksum = NULL, final_proof_size_bytes = NULL
                     WHERE position = $1 AND status IN ('in_progress', 'successful', 'failed')
                       -- An earlier round's failure still holds it.
                       AND (status <> 'failed' OR NOT EXISTS (
                           SELECT FROM jobs WHERE id >= $2 AND id < $3 AND status = 'failed'))",
                    found.position,
                    first,
                    past
                )
                .execute(&mut *transaction)
                .await?;
                // Later batches of a strict chain that nobody has started wait for it again.
                arrange(&mut transaction, id.chain_id).await?;
                end(transaction, mode, "restart_batch").await?;
                let count = |states: &[JobStatus]| {
                    was.iter().filter(|was| states.iter().any(|state| state.as_str() == was.as_str())).count()
                };
                Ok(Restarted {
                    jobs_again: count(&[JobStatus::Successful, JobStatus::Failed]),
                    jobs_stopped: count(&[JobStatus::InProgress]),
                })
            })
            .await?;
        if mode == Mode::Apply {
            if restarted.jobs_stopped > 0 {
                self.waker.revoke();
            }
            Stage::ALL.iter().for_each(|stage| self.waker.wake(*stage));
        }
        Ok(restarted)
    }
}
