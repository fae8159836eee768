//! The attempts of a batch or a job.

use crate::database::store::JobStore;
use crate::model::error::StoreError;
use crate::model::ids::ids_of_batch;
use crate::model::ids::job_id_as_text;
use proving_model::BatchId;
use schemars::JsonSchema;
use serde::Serialize;
use sqlx::PgConnection;

/// Attempts that a batch's report names.
const TROUBLES_MAX: i64 = 100;

/// One attempt.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct AttemptReport {
    /// The job, as a text: its id has more digits than a double holds.
    #[serde(serialize_with = "job_id_as_text")]
    #[schemars(with = "String")]
    pub job_id: i64,
    /// 1, 2, 3 …
    pub attempt: i32,
    /// Component of its worker.
    pub component: String,
    /// Host of its worker.
    pub host: String,
    /// Process id of its worker.
    pub pid: i32,
    /// How it ended; `None` while it runs.
    pub outcome: Option<String>,
    /// How long it took, or has taken.
    pub seconds: f64,
    /// The most memory that it was seen to take, in bytes.
    pub peak_memory_bytes: Option<i64>,
    /// Its error.
    pub error: Option<String>,
}

impl JobStore {
    /// The attempts of a batch that did not simply succeed, the first hundred, oldest first.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn troubled_attempts(&self, id: BatchId) -> Result<Vec<AttemptReport>, StoreError> {
        let batch = self.batch(id).await?.ok_or(StoreError::NoSuchBatch(id))?;
        let (first, past) = ids_of_batch(batch.position);
        self.attempts_between(first, past, true, TROUBLES_MAX).await
    }

    /// The attempts of a job, oldest first.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn attempts_of(&self, job_id: i64) -> Result<Vec<AttemptReport>, StoreError> {
        self.attempts_between(job_id, job_id + 1, false, i64::MAX).await
    }

    /// Attempts of the jobs from one id up to, and without, another.
    async fn attempts_between(
        &self,
        first: i64,
        past: i64,
        only_troubled: bool,
        most: i64,
    ) -> Result<Vec<AttemptReport>, StoreError> {
        self.reports
            .statement("attempts", async |connection: &mut PgConnection| {
                sqlx::query_as!(
                    AttemptReport,
                    r#"SELECT a.job_id AS "job_id!", a.attempt AS "attempt!", a.outcome, a.error,
                              a.peak_memory_bytes::int8 AS peak_memory_bytes,
                              coalesce(w.component, 'unknown') AS "component!",
                              coalesce(w.host, 'unknown') AS "host!", coalesce(w.pid, 0) AS "pid!",
                              EXTRACT(EPOCH FROM coalesce(a.finished_at, now()) - a.started_at)::float8
                                  AS "seconds!"
                       FROM attempts a
                       -- A worker that is long gone is forgotten before its last attempts are.
                       LEFT JOIN workers w ON w.id = a.worker_id
                       WHERE a.job_id >= $1 AND a.job_id < $2
                         AND NOT ($3 AND a.outcome IS NOT DISTINCT FROM 'successful')
                       ORDER BY a.started_at, a.attempt LIMIT $4"#,
                    first,
                    past,
                    only_troubled,
                    most
                )
                .fetch_all(connection)
                .await
            })
            .await
    }
}
