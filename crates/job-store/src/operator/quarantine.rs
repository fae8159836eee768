//! Takes a job out of circulation, and lets it back in.

use crate::batches::chains::release_next;
use crate::database::connections::Transaction;
use crate::database::store::JobStore;
use crate::database::text::stored;
use crate::leases::attempts::{self, Outcome};
use crate::model::error::StoreError;
use crate::model::ids::{GENERATOR, ids_of_batch, job_key, position_of};
use crate::model::rows::batch_id;
use crate::operator::mode::{Mode, end};
use proving_model::JobStatus;
use schemars::JsonSchema;
use serde::Serialize;
use sqlx::{Connection, PgConnection};

/// What a quarantine, or its end, changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct JobChange {
    /// The job's state before.
    pub was: String,
    /// Its state now.
    pub is: String,
}

impl JobStore {
    /// Takes a job out of circulation, whatever it does now: it fails with this reason, and stays so until it is released. Its batch goes on
    /// as far as it can without it.
    ///
    /// # Errors
    /// [`StoreError::NoSuchJob`]; [`StoreError::Invalid`] for one that is over or failed already; [`StoreError::Database`].
    pub async fn quarantine_job(
        &self,
        job_id: i64,
        reason: &str,
        mode: Mode,
    ) -> Result<JobChange, StoreError> {
        let reason = &*stored(reason);
        let was = self
            .hot
            .run("quarantine_job", async |connection: &mut PgConnection| {
                let mut transaction = connection.begin().await?;
                let was = sqlx::query_scalar!(
                    "SELECT status FROM jobs
                     WHERE id = $1 AND status IN ('waiting_for_proofs', 'queued', 'in_progress') FOR UPDATE",
                    job_id
                )
                .fetch_optional(&mut *transaction)
                .await?;
                if was.is_some() {
                    attempts::log(&mut transaction, &[job_id], Outcome::Cancelled, Some(reason)).await?;
                    sqlx::query!(
                        "UPDATE jobs SET status = 'failed', error = $2, finished_at = now(), worker_id = NULL,
                             lease_token = NULL
                         WHERE id = $1",
                        job_id,
                        reason
                    )
                    .execute(&mut *transaction)
                    .await?;
                }
                end(transaction, mode, "quarantine_job").await?;
                Ok(was)
            })
            .await?;
        let Some(was) = was else {
            return Err(self
                .not_in_state(job_id, "only what waits, is queued or runs can be quarantined")
                .await?);
        };
        if mode == Mode::Apply && was == JobStatus::InProgress.as_str() {
            self.waker.revoke();
        }
        Ok(JobChange { was, is: JobStatus::Failed.as_str().to_owned() })
    }

    /// Gives a failed job, quarantined or not, new budgets: it is queued again, or waits for what it still misses. A batch that
    /// had failed goes on, once none of its jobs is failed.
    ///
    /// # Errors
    /// [`StoreError::NoSuchJob`]; [`StoreError::Invalid`] for one that is not failed; [`StoreError::Database`].
    pub async fn release_job(&self, job_id: i64, mode: Mode) -> Result<JobChange, StoreError> {
        let (first, past) = ids_of_batch(position_of(job_id));
        let is = self
            .hot
            .run("release_job", async |connection: &mut PgConnection| {
                let mut transaction = connection.begin().await?;
                let is = sqlx::query_scalar!(
                    r#"UPDATE jobs SET
                           status = CASE WHEN dependencies_left = 0 THEN 'queued' ELSE 'waiting_for_proofs' END,
                           queued_at = now(), not_before = now(), finished_at = NULL, progress = 0,
                           failures = 0, worker_deaths = 0, timeouts = 0, regenerations = 0
                       WHERE id = $1 AND status = 'failed'
                       RETURNING status"#,
                    job_id
                )
                .fetch_optional(&mut *transaction)
                .await?;
                sqlx::query!(
                    "UPDATE batches b SET status = 'in_progress', error = NULL, finished_at = NULL
                     WHERE position = $1 AND status = 'failed' AND NOT EXISTS (
                         SELECT FROM jobs j WHERE j.id >= $2 AND j.id < $3 AND j.status = 'failed')",
                    position_of(job_id),
                    first,
                    past
                )
                .execute(&mut *transaction)
                .await?;
                let mut is = is;
                // What it waited for may have come while it was out of circulation, and nobody told it.
                if job_key(job_id)? == GENERATOR
                    && let Some(chain_id) = chain_of(&mut transaction, job_id).await?
                    && release_next(&mut transaction, chain_id).await?
                {
                    is = is.map(|_| JobStatus::Queued.as_str().to_owned());
                }
                end(transaction, mode, "release_job").await?;
                Ok(is)
            })
            .await?;
        let Some(is) = is else {
            return Err(self.not_in_state(job_id, "only a failed job can be released").await?);
        };
        if mode == Mode::Apply {
            self.waker.wake(job_key(job_id)?.stage);
        }
        Ok(JobChange { was: JobStatus::Failed.as_str().to_owned(), is })
    }

    /// Why an operation found no job in the state that it wants.
    async fn not_in_state(&self, job_id: i64, rule: &str) -> Result<StoreError, StoreError> {
        let status = self
            .reports
            .statement("operate: look at the job", async |connection: &mut PgConnection| {
                sqlx::query_scalar!(
                    r#"SELECT status AS "status!" FROM all_prover_jobs WHERE id = $1"#,
                    job_id
                )
                .fetch_optional(connection)
                .await
            })
            .await?;
        Ok(match status {
            Some(status) => StoreError::Invalid(format!("job {job_id} is {status}: {rule}")),
            None => StoreError::NoSuchJob(job_id),
        })
    }
}

/// The chain of a job's batch.
async fn chain_of(transaction: &mut Transaction<'_>, job_id: i64) -> Result<Option<u32>, StoreError> {
    let chain_id =
        sqlx::query_scalar!("SELECT chain_id FROM batches WHERE position = $1", position_of(job_id))
            .fetch_optional(&mut **transaction)
            .await?;
    chain_id.map(|chain_id| Ok(batch_id(chain_id, 0)?.chain_id)).transpose()
}
