//! Deletes batches that are over.

use crate::batches::chains::{lock_chain, release_next};
use crate::database::store::JobStore;
use crate::model::error::StoreError;
use crate::model::ids::ids_of_batch;
use crate::operator::mode::{Mode, end};
use proving_model::{BatchId, Stage};
use schemars::JsonSchema;
use serde::Serialize;
use sqlx::{Connection, PgConnection};

/// What a deletion removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Deleted {
    /// Jobs, wherever they were.
    pub jobs: i64,
    /// Whether the next batch of a strict chain may start now.
    pub starts_next: bool,
}

impl JobStore {
    /// Deletes a batch that is over, with its jobs and the log of their attempts. The job monitor collects its artifacts; its
    /// number is free again.
    ///
    /// # Errors
    /// [`StoreError::NoSuchBatch`]; [`StoreError::Invalid`] for one that is not over; [`StoreError::Database`].
    pub async fn delete_batch(&self, id: BatchId, mode: Mode) -> Result<Deleted, StoreError> {
        let found = self.batch(id).await?.ok_or(StoreError::NoSuchBatch(id))?;
        let (first, past) = ids_of_batch(found.position);
        let deleted = self
            .reports
            .run("delete_batch", async |connection: &mut PgConnection| {
                let mut transaction = connection.begin().await?;
                lock_chain(&mut transaction, id.chain_id).await?;
                let batch = sqlx::query!(
                    "DELETE FROM batches WHERE position = $1 AND status NOT IN ('queued', 'in_progress')",
                    found.position
                )
                .execute(&mut *transaction)
                .await?;
                if batch.rows_affected() == 0 {
                    return Err(StoreError::Invalid(format!("{id} is not over: cancel it first")));
                }
                let jobs = sqlx::query_scalar!(
                    r#"WITH hot AS (DELETE FROM jobs WHERE id >= $1 AND id < $2 RETURNING 1),
                            old AS (DELETE FROM jobs_archive WHERE id >= $1 AND id < $2 RETURNING 1)
                       SELECT (SELECT count(*) FROM hot) + (SELECT count(*) FROM old) AS "jobs!""#,
                    first,
                    past
                )
                .fetch_one(&mut *transaction)
                .await?;
                sqlx::query!("DELETE FROM job_attempts WHERE job_id >= $1 AND job_id < $2", first, past)
                    .execute(&mut *transaction)
                    .await?;
                sqlx::query!(
                    "INSERT INTO deleted_batches (chain_id, number) VALUES ($1, $2) ON CONFLICT DO NOTHING",
                    i64::from(id.chain_id),
                    i64::from(id.number)
                )
                .execute(&mut *transaction)
                .await?;
                let starts_next = release_next(&mut transaction, id.chain_id).await?;
                end(transaction, mode, "delete_batch").await?;
                Ok(Deleted { jobs, starts_next })
            })
            .await?;
        if mode == Mode::Apply {
            // Jobs of a failed batch may have run still.
            self.waker.revoke();
            if deleted.starts_next {
                self.waker.wake(Stage::WitnessGeneration);
            }
        }
        Ok(deleted)
    }
}
