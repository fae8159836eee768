//! Asks workers to drain.

use crate::database::store::JobStore;
use crate::model::error::StoreError;
use crate::operator::mode::{Mode, end};
use schemars::JsonSchema;
use serde::Serialize;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

/// A worker that is to drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Drained {
    /// Its id.
    pub worker: Uuid,
    /// What it finishes first, or hands back.
    pub jobs_held: i64,
}

impl JobStore {
    /// Asks a worker to finish what it runs, take nothing more, and stop. It is given no lease from here on, and hears of it at once.
    /// Returns what it holds now. Asked again, it changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] when no such worker lives; [`StoreError::Database`].
    pub async fn drain_worker(&self, worker: Uuid, mode: Mode) -> Result<Drained, StoreError> {
        let jobs_held = self
            .hot
            .run("drain_worker", async |connection: &mut PgConnection| {
                let mut transaction = connection.begin().await?;
                let jobs_held = sqlx::query_scalar!(
                    r#"UPDATE workers SET drain_asked_at = coalesce(drain_asked_at, now())
                       WHERE id = $1 AND stopped_at IS NULL AND expires_at > now()
                       RETURNING (SELECT count(*) FROM jobs j
                                  WHERE j.worker_id = $1 AND j.status = 'in_progress') AS "jobs_held!""#,
                    worker
                )
                .fetch_optional(&mut *transaction)
                .await?;
                end(transaction, mode, "drain_worker").await?;
                Ok(jobs_held)
            })
            .await?;
        let Some(jobs_held) = jobs_held else {
            return Err(StoreError::Invalid(format!(
                "no worker {worker} lives: see `prover_cli status workers`"
            )));
        };
        if mode == Mode::Apply {
            self.waker.revoke();
        }
        Ok(Drained { worker, jobs_held })
    }
}
