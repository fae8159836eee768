//! What operators see.

use crate::batches::find_batch;
use crate::estimate::{CircuitProgress, circuit_progress, estimate_seconds};
use crate::metrics::QueryTimer;
use crate::model::{ids_of_batch, job_id_as_text, job_key};
use crate::unreadable::readable;
use crate::{Batch, JobStore, StoreError};
use proving_model::{BatchId, BatchStatus, JobKey, JobStatus};
use schemars::JsonSchema;
use serde::Serialize;
use sqlx::{Connection, PgConnection};

/// Stuck jobs that a report names; their number is in the counts.
const STUCK_MAX: i64 = 20;

/// Attempts that a batch's report names.
const TROUBLES_MAX: i64 = 100;

/// How many jobs of one round, stage and circuit are in one state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct JobCount {
    /// Round number, 0 to 4.
    pub round: i16,
    /// The stage.
    pub stage: String,
    /// The circuit.
    pub circuit_id: i16,
    /// The state.
    pub status: String,
    /// How many.
    pub count: i64,
}

/// A job that failed, or was put back at least once, with its last error.
#[derive(Debug, Clone)]
pub struct StuckJob {
    /// Row id.
    pub id: i64,
    /// Place within the batch.
    pub key: JobKey,
    /// Its state.
    pub status: JobStatus,
    /// Leases given out.
    pub attempts: i32,
    /// Failures that it reported.
    pub failures: i32,
    /// Workers that died with it.
    pub worker_deaths: i32,
    /// The last error.
    pub error: Option<String>,
}

/// A batch, round by round.
#[derive(Debug, Clone)]
pub struct BatchReport {
    /// Its row.
    pub batch: Batch,
    /// Jobs by round, stage, circuit and state.
    pub counts: Vec<JobCount>,
    /// By circuit, with what they took.
    pub circuits: Vec<CircuitProgress>,
    /// An estimate of the time to its final proof, in seconds; `None` where there is nothing to go by.
    pub time_left_seconds: Option<f64>,
    /// Jobs in trouble, the first twenty.
    pub stuck: Vec<StuckJob>,
    /// Attempts that ended with the death of their worker.
    pub worker_deaths: i64,
    /// Attempts that failed.
    pub failed_attempts: i64,
    /// Attempts in all.
    pub attempts: i64,
}

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

/// A protocol version that the database knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct VersionReport {
    /// Minor part.
    pub minor: i32,
    /// Patch part.
    pub patch: i32,
    /// Name of its proof system.
    pub proof_system: String,
    /// Digest of its verification keys.
    pub verification_keys_digest: String,
    /// Its batches that are not over.
    pub open_batches: i64,
    /// Workers that live and take its jobs.
    pub live_workers: i64,
}

impl JobStore {
    /// A batch, round by round, at one moment.
    ///
    /// # Errors
    /// [`StoreError::NoSuchBatch`].
    pub async fn batch_report(&self, id: BatchId) -> Result<BatchReport, StoreError> {
        let _timer = QueryTimer::start("batch_report");
        self.reports
            .run("batch_report", async |connection: &mut PgConnection| {
                // All of its statements see the same: a batch does not fail between its status and its jobs'.
                let mut look = connection
                    .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                    .await
                    .map_err(StoreError::database("batch_report: begin"))?;
                let report = look_at_batch(&mut look, id).await?;
                look.commit().await.map_err(StoreError::database("batch_report: commit"))?;
                Ok(report)
            })
            .await
    }

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
        let _timer = QueryTimer::start("attempts");
        self.reports
            .run("attempts", async |connection: &mut PgConnection| {
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
                .map_err(StoreError::database("attempts"))
            })
            .await
    }

    /// The protocol versions that are known, newest first.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn versions(&self) -> Result<Vec<VersionReport>, StoreError> {
        let _timer = QueryTimer::start("versions");
        self.reports
            .run("versions", async |connection: &mut PgConnection| {
                sqlx::query_as!(
                    VersionReport,
                    r#"SELECT minor, patch, proof_system, verification_keys_digest,
                              (SELECT count(*) FROM batches b
                               WHERE b.protocol_minor = minor AND b.protocol_patch = patch
                                 AND b.status IN ('queued', 'in_progress')) AS "open_batches!",
                              (SELECT count(*) FROM workers w
                               WHERE w.protocol_minor = minor AND w.protocol_patch = patch
                                 AND w.stopped_at IS NULL AND w.expires_at > now()) AS "live_workers!"
                       FROM protocol_versions ORDER BY minor DESC, patch DESC"#
                )
                .fetch_all(connection)
                .await
                .map_err(StoreError::database("versions"))
            })
            .await
    }
}

async fn look_at_batch(connection: &mut PgConnection, id: BatchId) -> Result<BatchReport, StoreError> {
    let batch = find_batch(connection, id).await?.ok_or(StoreError::NoSuchBatch(id))?;
    let (first, end) = ids_of_batch(batch.position);
    let counts = sqlx::query_as!(
        JobCount,
        r#"SELECT aggregation_round AS "round!", stage AS "stage!",
                  circuit_id AS "circuit_id!", status AS "status!", count(*) AS "count!"
           FROM jobs WHERE id >= $1 AND id < $2
           GROUP BY 1, 2, 3, 4 ORDER BY 1, 2 DESC, 3, 4"#,
        first,
        end
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(StoreError::database("batch_report: counts"))?;
    let rows = sqlx::query!(
        r#"SELECT id AS "id!", status AS "status!",
                  attempts AS "attempts!", failures AS "failures!",
                  worker_deaths AS "worker_deaths!", error
           FROM jobs
           WHERE id >= $1 AND id < $2 AND error IS NOT NULL
           ORDER BY status = 'failed' DESC, id LIMIT $3"#,
        first,
        end,
        STUCK_MAX
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(StoreError::database("batch_report: stuck"))?;
    let stuck = readable("batch_report", rows, |row| {
        Ok(StuckJob {
            id: row.id,
            key: job_key(row.id)?,
            status: row.status.parse().map_err(|e| StoreError::Schema(format!("{e}")))?,
            attempts: row.attempts,
            failures: row.failures,
            worker_deaths: row.worker_deaths,
            error: row.error,
        })
    });
    let sums = sqlx::query!(
        r#"SELECT count(*) FILTER (WHERE a.outcome = 'worker_died') AS "deaths!",
                  count(*) FILTER (WHERE a.outcome IN ('failed', 'timed_out')) AS "failed!",
                  count(*) AS "attempts!"
           FROM attempts a WHERE a.job_id >= $1 AND a.job_id < $2"#,
        first,
        end
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(StoreError::database("batch_report: attempts"))?;
    let circuits = circuit_progress(connection, &batch).await?;
    let is_open = matches!(batch.status, BatchStatus::Queued | BatchStatus::InProgress);
    let time_left_seconds = if is_open { estimate_seconds(&circuits) } else { None };
    Ok(BatchReport {
        batch,
        counts,
        circuits,
        time_left_seconds,
        stuck,
        worker_deaths: sums.deaths,
        failed_attempts: sums.failed,
        attempts: sums.attempts,
    })
}
