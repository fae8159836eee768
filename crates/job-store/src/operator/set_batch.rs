//! Changes how soon a batch is worked on.

use crate::batches::find::find_batch;
use crate::batches::lock::lock_jobs;
use crate::database::store::JobStore;
use crate::model::error::StoreError;
use crate::model::ids::ids_of_batch;
use crate::operator::mode::{Mode, end};
use proving_model::{BatchId, BatchStatus, Deadline};
use schemars::JsonSchema;
use serde::Serialize;
use sqlx::{Connection, PgConnection};

/// A batch's settings; what is `None` stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BatchSettings {
    /// Higher is sooner.
    pub priority: Option<i32>,
    /// When the final proof should be there; `Some(None)` takes the deadline away.
    pub deadline: Option<Option<Deadline>>,
}

/// What setting a batch changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct BatchSet {
    /// Its priority now.
    pub priority: i32,
    /// Its deadline now, as RFC 3339 has it.
    pub deadline: Option<String>,
    /// Its jobs so far, each of which takes both from its batch.
    pub jobs: u64,
}

impl JobStore {
    /// Changes a batch's priority and deadline, and with them those of its jobs. What runs goes on.
    ///
    /// # Errors
    /// [`StoreError::NoSuchBatch`]; [`StoreError::Invalid`] for one that is proven or was cancelled; [`StoreError::Database`].
    pub async fn set_batch(
        &self,
        id: BatchId,
        settings: BatchSettings,
        mode: Mode,
    ) -> Result<BatchSet, StoreError> {
        self.hot
            .run("set_batch", async |connection: &mut PgConnection| {
                let mut transaction = connection.begin().await?;
                let found = find_batch(&mut transaction, id).await?.ok_or(StoreError::NoSuchBatch(id))?;
                if matches!(found.status, BatchStatus::Successful | BatchStatus::Cancelled) {
                    return Err(StoreError::Invalid(format!(
                        "{id} is {}: nothing of it is to be done",
                        found.status
                    )));
                }
                let priority = settings.priority.unwrap_or(found.priority);
                let deadline = settings
                    .deadline
                    .map_or(found.deadline, |deadline| deadline.map(|deadline| deadline.to_string()));
                sqlx::query!(
                    "UPDATE batches SET priority = $2, deadline = $3::text::timestamptz WHERE position = $1",
                    found.position,
                    priority,
                    deadline
                )
                .execute(&mut *transaction)
                .await?;
                let (first, past) = ids_of_batch(found.position);
                // The generator copies both to the jobs that it adds, under a lock on its own row, which is among them.
                lock_jobs(&mut transaction, found.position).await?;
                let set = sqlx::query!(
                    "UPDATE jobs SET priority = $3, deadline = coalesce($4::text::timestamptz, 'infinity')
                     WHERE id >= $1 AND id < $2",
                    first,
                    past,
                    priority,
                    deadline
                )
                .execute(&mut *transaction)
                .await?;
                end(transaction, mode, "set_batch").await?;
                Ok(BatchSet { priority, deadline, jobs: set.rows_affected() })
            })
            .await
    }
}
