//! Hands a leased job back at no cost.

use crate::database::metrics::QueryTimer;
use crate::database::store::JobStore;
use crate::leases::attempts::record_attempt;
use crate::model::error::StoreError;
use crate::model::rows::LeasedJob;
use sqlx::{Connection, PgConnection};
use std::time::Duration;

impl JobStore {
    /// Hands a job back, at no cost in attempts: it is queued, and may be picked after a rest.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`]; nothing is changed then.
    pub async fn release(&self, job: &LeasedJob, rest: Duration) -> Result<(), StoreError> {
        self.release_because(job, rest, None).await
    }

    /// As [`JobStore::release`], with the reason for the books.
    ///
    /// # Errors
    /// As [`JobStore::release`].
    pub async fn release_because(
        &self,
        job: &LeasedJob,
        rest: Duration,
        reason: Option<&str>,
    ) -> Result<(), StoreError> {
        let _timer = QueryTimer::start("release");
        let error = StoreError::database;
        self.hot
            .run("release", async |connection: &mut PgConnection| {
                let mut transaction = connection.begin().await.map_err(error("release"))?;
                let changed = sqlx::query!(
                    "UPDATE jobs SET status = 'queued', queued_at = now(), progress = 0,
                         not_before = now() + make_interval(secs => $3),
                         worker_id = NULL, lease_token = NULL
                     WHERE id = $1 AND lease_token = $2",
                    job.id,
                    job.token,
                    rest.as_secs_f64()
                )
                .execute(&mut *transaction)
                .await
                .map_err(error("release"))?
                .rows_affected();
                if changed != 1 {
                    return Err(StoreError::LeaseLost { job_id: job.id });
                }
                record_attempt(&mut transaction, job, "released", reason).await?;
                transaction.commit().await.map_err(error("release"))?;
                self.waker.wake(job.key.stage);
                Ok(())
            })
            .await
    }
}
