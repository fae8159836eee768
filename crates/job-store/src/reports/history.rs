//! What the past tells: durations, memory and failures by circuit, throughput, batches by day or week.

use crate::database::store::JobStore;
use crate::model::error::StoreError;
use schemars::JsonSchema;
use serde::Serialize;
use sqlx::PgConnection;
use std::time::Duration;

/// What the jobs of one circuit took.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct CircuitStatistics {
    /// The stage.
    pub stage: String,
    /// Round number, 0 to 4.
    pub round: i16,
    /// The circuit.
    pub circuit_id: i16,
    /// Successful jobs.
    pub jobs: i64,
    /// Half of the successful attempts took at most so long.
    pub p50_seconds: f64,
    /// All but a twentieth of them did.
    pub p95_seconds: f64,
    /// The most memory that one was seen to take, in bytes.
    pub peak_memory_bytes: Option<i64>,
    /// Leases that it took, over all jobs.
    pub attempts: i64,
    /// Attempts that failed or took too long.
    pub failures: i64,
    /// Attempts whose worker died.
    pub worker_deaths: i64,
}

/// The batches that ended in one day or week.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct PeriodStatistics {
    /// Its first day, as 2026-11-21, in the database's time zone.
    pub begins: String,
    /// Batches that were proven.
    pub successful: i64,
    /// Batches that failed and were not requeued.
    pub failed: i64,
    /// Batches that were cancelled.
    pub cancelled: i64,
    /// Half of the proven ones took at most so long, from their insertion.
    pub p50_seconds: Option<f64>,
    /// All but a twentieth of them did.
    pub p95_seconds: Option<f64>,
}

/// How batches are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    /// By day.
    Day,
    /// By week, from Monday.
    Week,
}

/// What the past tells.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Statistics {
    /// How much of the past, in seconds.
    pub window_seconds: f64,
    /// For how much of that time a batch was being proven, in seconds.
    pub working_seconds: f64,
    /// Circuits proven in an hour, while a batch was being proven.
    pub proofs_per_hour: f64,
    /// By circuit.
    pub circuits: Vec<CircuitStatistics>,
    /// By day or week, oldest first.
    pub batches: Vec<PeriodStatistics>,
}

impl JobStore {
    /// Statistics of what ended within this time, in the hot table or the archive.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn statistics(&self, window: Duration, period: Period) -> Result<Statistics, StoreError> {
        let window_seconds = window.as_secs_f64();
        let circuits = self
            .reports
            .statement("statistics", async |connection: &mut PgConnection| {
                sqlx::query_as!(
                    CircuitStatistics,
                    r#"SELECT stage AS "stage!", aggregation_round AS "round!", circuit_id AS "circuit_id!",
                              count(*) AS "jobs!",
                              percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds) AS "p50_seconds!",
                              percentile_cont(0.95) WITHIN GROUP (ORDER BY seconds) AS "p95_seconds!",
                              max(measured_memory_bytes)::int8 AS peak_memory_bytes,
                              sum(attempts)::int8 AS "attempts!",
                              sum(failures + timeouts)::int8 AS "failures!",
                              sum(worker_deaths)::int8 AS "worker_deaths!"
                       FROM (SELECT *, date_part('epoch', finished_at - started_at) AS seconds FROM all_prover_jobs
                             WHERE status = 'successful'
                               AND finished_at > now() - make_interval(secs => $1)) AS ended
                       GROUP BY 1, 2, 3 ORDER BY 2, 1 DESC, 3"#,
                    window_seconds
                )
                .fetch_all(connection)
                .await
            })
            .await?;
        let unit = match period {
            Period::Day => "day",
            Period::Week => "week",
        };
        let batches = self
            .reports
            .statement("statistics", async |connection: &mut PgConnection| {
                sqlx::query_as!(
                    PeriodStatistics,
                    r#"SELECT to_char(begins, 'YYYY-MM-DD') AS "begins!",
                              count(*) FILTER (WHERE status = 'successful') AS "successful!",
                              count(*) FILTER (WHERE status = 'failed') AS "failed!",
                              count(*) FILTER (WHERE status = 'cancelled') AS "cancelled!",
                              percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds)
                                  FILTER (WHERE status = 'successful') AS p50_seconds,
                              percentile_cont(0.95) WITHIN GROUP (ORDER BY seconds)
                                  FILTER (WHERE status = 'successful') AS p95_seconds
                       FROM (SELECT status, date_trunc($2, finished_at) AS begins,
                                    date_part('epoch', finished_at - created_at) AS seconds
                             FROM batches WHERE finished_at > now() - make_interval(secs => $1)) AS ended
                       GROUP BY begins ORDER BY begins"#,
                    window_seconds,
                    unit
                )
                .fetch_all(connection)
                .await
            })
            .await?;
        let working_seconds = self
            .reports
            .statement("statistics", async |connection: &mut PgConnection| {
                sqlx::query_scalar!(
                    r#"SELECT coalesce(sum(date_part('epoch', upper(worked) - lower(worked))), 0) AS "seconds!"
                       FROM (SELECT unnest(range_agg(tstzrange(
                                 greatest(started_at, now() - make_interval(secs => $1)), coalesce(finished_at, now())))) AS worked
                             FROM batches
                             WHERE started_at < coalesce(finished_at, now())
                               AND (finished_at IS NULL OR finished_at > now() - make_interval(secs => $1))) AS times"#,
                    window_seconds
                )
                .fetch_one(connection)
                .await
            })
            .await?;
        let proofs: i64 = circuits
            .iter()
            .filter(|circuit| circuit.stage == proving_model::Stage::CircuitProof.as_str())
            .map(|circuit| circuit.jobs)
            .sum();
        #[allow(clippy::cast_precision_loss, reason = "a rate")]
        let proofs_per_hour = proofs as f64 / working_seconds.max(1.0) * 3_600.0;
        Ok(Statistics { window_seconds, working_seconds, proofs_per_hour, circuits, batches })
    }
}
