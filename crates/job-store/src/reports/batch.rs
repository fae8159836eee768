//! A batch, round by round.

use crate::batches::find::{Batch, find_batch};
use crate::database::store::JobStore;
use crate::database::unreadable::readable;
use crate::model::deadline::DeadlineStanding;
use crate::model::error::StoreError;
use crate::model::ids::{ids_of_batch, job_key};
use crate::reports::time_left::{CircuitProgress, circuit_progress, estimate_seconds};
use proving_model::{BatchId, BatchStatus, JobKey, JobStatus, ProtocolVersion};
use schemars::JsonSchema;
use serde::Serialize;
use sqlx::{Connection, PgConnection};

/// Stuck jobs that a report names; their number is in the counts.
const STUCK_MAX: i64 = 20;

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

impl BatchReport {
    /// How it stands to its deadline, if it has one.
    #[must_use]
    pub fn deadline_standing(&self) -> Option<DeadlineStanding> {
        self.batch.deadline_standing(self.time_left_seconds)
    }
}

impl JobStore {
    /// What the last twenty proven batches of a version took, in seconds: the median; `None` where none was proven.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn usual_batch_seconds(&self, version: ProtocolVersion) -> Result<Option<f64>, StoreError> {
        self.reports
            .statement("usual_batch_seconds", async |connection: &mut PgConnection| {
                sqlx::query_scalar!(
                    r#"SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds) FROM (
                           SELECT EXTRACT(EPOCH FROM finished_at - created_at)::float8 AS seconds FROM batches
                           WHERE finished_at IS NOT NULL AND status = 'successful'
                             AND protocol_minor = $1 AND protocol_patch = $2
                           ORDER BY finished_at DESC LIMIT 20) AS last"#,
                    i32::from(version.minor),
                    i32::from(version.patch)
                )
                .fetch_one(connection)
                .await
            })
            .await
    }

    /// A batch, round by round, at one moment.
    ///
    /// # Errors
    /// [`StoreError::NoSuchBatch`].
    pub async fn batch_report(&self, id: BatchId) -> Result<BatchReport, StoreError> {
        self.reports
            .run("batch_report", async |connection: &mut PgConnection| {
                // All of its statements see the same: a batch does not fail between its status and its jobs'.
                let mut look =
                    connection.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
                let report = look_at_batch(&mut look, id).await?;
                look.commit().await?;
                Ok(report)
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
           FROM all_prover_jobs WHERE id >= $1 AND id < $2
           GROUP BY 1, 2, 3, 4 ORDER BY 1, 2 DESC, 3, 4"#,
        first,
        end
    )
    .fetch_all(&mut *connection)
    .await?;
    let rows = sqlx::query!(
        r#"SELECT id AS "id!", status AS "status!",
                  attempts AS "attempts!", failures AS "failures!",
                  worker_deaths AS "worker_deaths!", error
           FROM all_prover_jobs
           WHERE id >= $1 AND id < $2 AND error IS NOT NULL
           ORDER BY status = 'failed' DESC, id LIMIT $3"#,
        first,
        end,
        STUCK_MAX
    )
    .fetch_all(&mut *connection)
    .await?;
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
    .await?;
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
