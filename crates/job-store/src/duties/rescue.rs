//! Puts back the jobs of workers whose lease expired.

use crate::batches::find::batch_ids;
use crate::batches::progress::fail_batch;
use crate::database::metrics::STORE_METRICS;
use crate::database::store::JobStore;
use crate::database::unreadable::readable;
use crate::leases::attempts::{self, Outcome};
use crate::model::error::StoreError;
use crate::model::ids::{job_key, position_of};
use crate::model::rows::batch_of;
use proving_model::{BatchId, JobStatus};
use sqlx::{Connection, PgConnection};
use std::time::Duration;
use uuid::Uuid;

/// Jobs that one transaction of the rescue duty takes on; more come in the next.
const RESCUE_BATCH: i64 = 500;

/// A job that was put back.
#[derive(Debug, Clone)]
pub struct Rescued {
    /// The job.
    pub job_id: i64,
    /// Its batch.
    pub batch: BatchId,
    /// Its new state: queued, or failed when it has killed too many workers.
    pub status: JobStatus,
    /// How many workers died with it so far.
    pub worker_deaths: i32,
}

impl JobStore {
    /// Puts jobs back whose worker's lease expired: it hung, or was cut off, or was seen to die. Safe to run anywhere, any
    /// number of times: rows that another is rescuing are skipped. Looks at what is, not at what happened: a pick that
    /// commits after its worker was given up is found by the next.
    ///
    /// `in_contact` is how long the caller has reached the database without a break. A worker that has had less than the time of its lease
    /// to send a heartbeat since is left alone: while the database is away, leases expire and nobody is dead.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn rescue_expired(&self, in_contact: Duration) -> Result<Vec<Rescued>, StoreError> {
        self.rescue(None, in_contact).await
    }

    /// As [`JobStore::rescue_expired`], for one worker, which was seen to die.
    pub(crate) async fn rescue_dead(&self, worker: Uuid) -> Result<Vec<Rescued>, StoreError> {
        self.rescue(Some(worker), Duration::MAX).await
    }

    async fn rescue(&self, worker: Option<Uuid>, in_contact: Duration) -> Result<Vec<Rescued>, StoreError> {
        self.hot.run("rescue_expired", async |connection: &mut PgConnection| {
        let mut transaction = connection.begin().await?;
        let expired = sqlx::query_scalar!(
            "SELECT j.id FROM workers w JOIN jobs j ON j.worker_id = w.id AND j.status = 'in_progress'
             WHERE w.stopped_at IS NULL AND w.expires_at < now() AND ($2::uuid IS NULL OR w.id = $2)
               AND extract(epoch FROM w.expires_at - w.heartbeat_at)::float8 <= $3
             ORDER BY j.id LIMIT $1 FOR UPDATE OF j SKIP LOCKED",
            RESCUE_BATCH,
            worker,
            in_contact.as_secs_f64()
        )
        .fetch_all(&mut *transaction)
        .await?;
        if expired.is_empty() {
            return Ok(Vec::new());
        }
        let reason = "the worker died, hung, or was cut off";
        attempts::log(&mut transaction, &expired, Outcome::WorkerDied, Some(reason)).await?;
        let rows = sqlx::query!(
            r#"UPDATE jobs SET
                   status = CASE WHEN worker_deaths + 1 >= $2 THEN 'failed' ELSE 'queued' END,
                   worker_deaths = least(worker_deaths + 1, 1000000000), queued_at = now(), progress = 0,
                   error = CASE WHEN worker_deaths + 1 >= $2
                                THEN 'quarantined: ' || (worker_deaths + 1) || ' workers died while they held it'
                                ELSE 'its worker died, hung, or was cut off' END,
                   worker_id = NULL, lease_token = NULL
               WHERE id = ANY($1)
               RETURNING id, status, worker_deaths, error"#,
            &expired,
            self.policy.worker_deaths_max
        )
        .fetch_all(&mut *transaction)
        .await?;
        let mut rescued = Vec::with_capacity(rows.len());
        let mut stages = Vec::new();
        let batches = batch_ids(&mut transaction, rows.iter().map(|row| position_of(row.id))).await?;
        let rows = readable("rescue_expired", rows, |row| {
            let batch = batch_of(&batches, row.id)?;
            let status = row.status.parse().map_err(|e| StoreError::Schema(format!("{e}")))?;
            stages.push(job_key(row.id)?.stage);
            let job = Rescued { job_id: row.id, batch, status, worker_deaths: row.worker_deaths };
            Ok((job, row.error.unwrap_or_default()))
        });
        for (job, error) in rows {
            if job.status == JobStatus::Failed {
                fail_batch(&mut transaction, job.batch, &format!("job {}: {error}", job.job_id)).await?;
            }
            rescued.push(job);
        }
        transaction.commit().await?;
        STORE_METRICS.leases_expired.inc_by(rescued.len() as u64);
        stages.sort_unstable();
        stages.dedup();
        stages.into_iter().for_each(|stage| self.waker.wake(stage));
        Ok(rescued)
        }).await
    }
}
