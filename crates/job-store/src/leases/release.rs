//! Hands a leased job back at no cost.

use crate::database::store::JobStore;
use crate::leases::attempts::{Outcome, log_own};
use crate::leases::put_back::put_back;
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

    /// As [`JobStore::release`], with the reason for the attempt log.
    ///
    /// # Errors
    /// As [`JobStore::release`].
    pub async fn release_because(
        &self,
        job: &LeasedJob,
        rest: Duration,
        reason: Option<&str>,
    ) -> Result<(), StoreError> {
        self.hot
            .run("release", async |connection: &mut PgConnection| {
                let mut transaction = connection.begin().await?;
                log_own(&mut transaction, job, Outcome::Released, reason).await?;
                put_back(&mut transaction, &[job.id], rest).await?;
                transaction.commit().await?;
                self.waker.wake(job.key.stage);
                Ok(())
            })
            .await
    }
}
