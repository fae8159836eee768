//! One look at everything: what the job monitor's page and `prover_cli watch` show.
//!
//! The counts read the whole hot table, which takes as long as it is large: whoever looks again and again rests in proportion.

use crate::database::store::JobStore;
use crate::database::unreadable::readable;
use crate::model::error::StoreError;
use crate::model::ids::job_id_as_text;
use crate::model::ids::{job_key, position_of};
use crate::reports::counts::StateCounts;
use crate::reports::paused::Paused;
use crate::reports::workers::WorkerReport;
use proving_model::{AggregationRound, Stage};
use schemars::JsonSchema;
use serde::Serialize;
use sqlx::PgConnection;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// Open batches that are shown; their number is in the counts.
const OPEN_MAX: i64 = 40;

/// Batches that ended lately.
const ENDED_MAX: i64 = 20;

/// Failures that are shown.
const FAILURES_MAX: i64 = 20;

/// A batch, by rounds.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct BatchOverview {
    /// Its chain.
    pub chain_id: i64,
    /// Its number.
    pub number: i64,
    /// Its state.
    pub status: String,
    /// Seconds since it was inserted.
    pub age_seconds: f64,
    /// Seconds from its insertion to its end.
    pub duration_seconds: Option<f64>,
    /// When its final proof should be there, as RFC 3339 has it.
    pub deadline: Option<String>,
    /// Seconds from now, or from its end, to its deadline; negative once that has passed.
    pub deadline_margin_seconds: Option<f64>,
    /// Why it failed.
    pub error: Option<String>,
    /// The five rounds, then the compression; all zero once its jobs are in the archive.
    pub rounds: [StateCounts; 6],
}

/// Names of [`BatchOverview::rounds`].
pub const ROUND_NAMES: [&str; 6] = [
    AggregationRound::BasicCircuits.as_str(),
    AggregationRound::LeafAggregation.as_str(),
    AggregationRound::NodeAggregation.as_str(),
    AggregationRound::RecursionTip.as_str(),
    AggregationRound::Scheduler.as_str(),
    Stage::Compression.as_str(),
];

/// The queue of one stage.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct StageOverview {
    /// The stage.
    pub stage: &'static str,
    /// Its jobs, of all batches whose jobs are not in the archive.
    pub jobs: StateCounts,
    /// Seconds for which the oldest queued one has been so.
    pub oldest_seconds: Option<f64>,
}

/// A job in a worker's hands.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct RunningJob {
    /// Its id, as a text: it has more digits than a double holds.
    #[serde(serialize_with = "job_id_as_text")]
    #[schemars(with = "String")]
    pub job_id: i64,
    /// Its chain.
    pub chain_id: i64,
    /// Its batch.
    pub batch_number: i64,
    /// Its place within the batch, in words.
    pub job: String,
    /// For so long.
    pub seconds: f64,
    /// How far it says that it is, 0 to 1.
    pub progress: f32,
}

/// A worker and what it runs now.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct WorkerOverview {
    /// The worker.
    #[serde(flatten)]
    pub worker: WorkerReport,
    /// What it has in hand, the longest first.
    pub running: Vec<RunningJob>,
}

/// An attempt that ended badly.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Trouble {
    /// The job's id, as a text.
    #[serde(serialize_with = "job_id_as_text")]
    #[schemars(with = "String")]
    pub job_id: i64,
    /// The job's place, in words.
    pub job: String,
    /// Its chain; `None` for a batch that was deleted.
    pub chain_id: Option<i64>,
    /// Its batch.
    pub batch_number: Option<i64>,
    /// How it ended.
    pub outcome: String,
    /// So long ago.
    pub seconds_ago: f64,
    /// Where it ran.
    pub host: String,
    /// The error's text.
    pub error: Option<String>,
}

/// One look at everything.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Overview {
    /// Open batches in all, by state.
    pub open_batches: BTreeMap<String, i64>,
    /// Open batches, those that run first, and those that ended lately.
    pub batches: Vec<BatchOverview>,
    /// The stages.
    pub stages: Vec<StageOverview>,
    /// The workers that did not stop in order.
    pub workers: Vec<WorkerOverview>,
    /// What went wrong lately, the newest first.
    pub troubles: Vec<Trouble>,
    /// What operators hold back.
    pub paused: Paused,
}

/// Jobs that were completed in one span of time.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Throughput {
    /// When the span began, in seconds of Unix time.
    pub begins: i64,
    /// Circuits that were proven.
    pub proofs: i64,
    /// Jobs of all stages.
    pub jobs: i64,
}

/// A row of the counts.
struct Count {
    position: i64,
    round: i16,
    stage: String,
    status: String,
    count: i64,
    oldest_seconds: Option<f64>,
}

impl JobStore {
    /// One look at everything.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn overview(&self) -> Result<Overview, StoreError> {
        let (batches, counts, workers, running, troubles, paused) = tokio::try_join!(
            self.shown_batches(),
            self.counts(),
            self.workers(false),
            self.running(),
            self.troubles(),
            self.paused()
        )?;
        let mut running = running;
        let workers = workers
            .into_iter()
            .map(|worker| {
                let running = running.remove(&worker.id).unwrap_or_default();
                WorkerOverview { worker, running }
            })
            .collect();
        let mut stages: Vec<StageOverview> = Stage::ALL
            .iter()
            .map(|stage| StageOverview {
                stage: stage.as_str(),
                jobs: StateCounts::default(),
                oldest_seconds: None,
            })
            .collect();
        let mut by_batch: HashMap<i64, [StateCounts; 6]> = HashMap::new();
        for count in counts {
            if let Some(stage) = stages.iter_mut().find(|stage| stage.stage == count.stage) {
                stage.jobs.add(&count.status, count.count);
                let both = [stage.oldest_seconds, count.oldest_seconds];
                stage.oldest_seconds = both.into_iter().flatten().reduce(f64::max);
            }
            let is_compression = count.stage == Stage::Compression.as_str();
            let at = if is_compression { 5 } else { usize::try_from(count.round).unwrap_or(0).min(4) };
            by_batch.entry(count.position).or_default()[at].add(&count.status, count.count);
        }
        let mut open_batches = BTreeMap::new();
        let mut shown = Vec::with_capacity(batches.len());
        for row in batches {
            match row.in_all {
                Some(in_all) => {
                    open_batches.insert(row.status, in_all);
                }
                None => shown.push(BatchOverview {
                    rounds: by_batch.remove(&row.position).unwrap_or_default(),
                    chain_id: row.chain_id,
                    number: row.number,
                    status: row.status,
                    age_seconds: row.age_seconds,
                    duration_seconds: row.duration_seconds,
                    deadline: row.deadline,
                    deadline_margin_seconds: row.deadline_margin_seconds,
                    error: row.error,
                }),
            }
        }
        Ok(Overview { open_batches, batches: shown, stages, workers, troubles, paused })
    }

    async fn counts(&self) -> Result<Vec<Count>, StoreError> {
        self.reports
            .statement("overview_counts", async |connection: &mut PgConnection| {
                sqlx::query_as!(
                    Count,
                    r#"SELECT id >> 37 AS "position!", aggregation_round AS "round!", stage AS "stage!",
                              status AS "status!", count(*) AS "count!",
                              EXTRACT(EPOCH FROM now() - min(queued_at) FILTER (
                                  WHERE status = 'queued'))::float8 AS oldest_seconds
                       FROM prover_jobs GROUP BY 1, 2, 3, 4"#
                )
                .fetch_all(connection)
                .await
            })
            .await
    }

    async fn shown_batches(&self) -> Result<Vec<ShownBatch>, StoreError> {
        self.reports
            .statement("overview_batches", async |connection: &mut PgConnection| {
                sqlx::query_as!(
                    ShownBatch,
                    r#"WITH open AS (
                           (SELECT * FROM batches WHERE status = 'failed' ORDER BY position DESC LIMIT $1)
                           UNION ALL
                           (SELECT * FROM batches WHERE status = 'in_progress' ORDER BY position LIMIT $1)
                           UNION ALL
                           (SELECT * FROM batches WHERE status = 'queued' ORDER BY position LIMIT $1)
                       ), shown AS (
                           (SELECT *, CASE status WHEN 'failed' THEN 0
                                                  WHEN 'in_progress' THEN 1 ELSE 2 END AS kind
                            FROM open ORDER BY kind, position LIMIT $1)
                           UNION ALL
                           (SELECT *, 3 FROM batches
                            WHERE finished_at IS NOT NULL AND status IN ('successful', 'cancelled')
                            ORDER BY finished_at DESC LIMIT $2)
                       )
                       SELECT position AS "position!", chain_id AS "chain_id!", number AS "number!",
                              status AS "status!",
                              EXTRACT(EPOCH FROM now() - created_at)::float8 AS "age_seconds!",
                              EXTRACT(EPOCH FROM finished_at - created_at)::float8 AS duration_seconds,
                              to_char(deadline AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS deadline,
                              EXTRACT(EPOCH FROM deadline - coalesce(finished_at, now()))::float8 AS deadline_margin_seconds,
                              error, NULL::int8 AS in_all, kind AS "kind!",
                              CASE WHEN kind = 3 THEN -EXTRACT(EPOCH FROM finished_at)::float8
                                   ELSE position END AS "place!"
                       FROM shown
                       UNION ALL
                       SELECT 0, 0, 0, status, 0, NULL, NULL, NULL, NULL, count(*), 4, 0
                       FROM batches WHERE status IN ('queued', 'in_progress', 'failed') GROUP BY status
                       ORDER BY 11, 12"#,
                    OPEN_MAX,
                    ENDED_MAX
                )
                .fetch_all(connection)
                .await
            })
            .await
    }

    /// What each worker has in hand, the longest first.
    async fn running(&self) -> Result<HashMap<uuid::Uuid, Vec<RunningJob>>, StoreError> {
        let rows = self
            .reports
            .statement("overview_running", async |connection: &mut PgConnection| {
                sqlx::query!(
                    r#"SELECT id AS "id!", worker_id AS "worker_id!", chain_id AS "chain_id!",
                              batch_number AS "batch_number!", progress AS "progress!",
                              EXTRACT(EPOCH FROM now() - started_at)::float8 AS "seconds!"
                       FROM prover_jobs WHERE status = 'in_progress' AND chain_id IS NOT NULL
                       ORDER BY started_at LIMIT 10000"#
                )
                .fetch_all(connection)
                .await
            })
            .await?;
        let mut running: HashMap<uuid::Uuid, Vec<RunningJob>> = HashMap::new();
        let jobs = readable("overview_running", rows, |row| {
            let job = RunningJob {
                job_id: row.id,
                chain_id: row.chain_id,
                batch_number: row.batch_number,
                job: job_key(row.id)?.to_string(),
                seconds: row.seconds,
                progress: row.progress,
            };
            Ok((row.worker_id, job))
        });
        for (worker, job) in jobs {
            running.entry(worker).or_default().push(job);
        }
        Ok(running)
    }

    async fn troubles(&self) -> Result<Vec<Trouble>, StoreError> {
        let rows = self
            .reports
            .statement("overview_troubles", async |connection: &mut PgConnection| {
                sqlx::query!(
                    r#"SELECT a.job_id, a.outcome AS "outcome!", a.error,
                              coalesce(w.host, 'unknown') AS "host!",
                              b.chain_id AS "chain_id?", b.number AS "number?",
                              EXTRACT(EPOCH FROM now() - a.finished_at)::float8 AS "seconds_ago!"
                       FROM (SELECT * FROM job_attempts
                             WHERE outcome IN ('failed', 'timed_out', 'worker_died', 'input_lost')
                             ORDER BY finished_at DESC LIMIT $1) AS a
                       LEFT JOIN workers w ON w.id = a.worker_id
                       LEFT JOIN batches b ON b.position = a.job_id >> 37
                       ORDER BY a.finished_at DESC"#,
                    FAILURES_MAX
                )
                .fetch_all(connection)
                .await
            })
            .await?;
        Ok(readable("overview_troubles", rows, |row| {
            Ok(Trouble {
                job_id: row.job_id,
                job: job_key(row.job_id)?.to_string(),
                chain_id: row.chain_id,
                batch_number: row.number,
                outcome: row.outcome,
                seconds_ago: row.seconds_ago,
                host: row.host,
                error: row.error,
            })
        }))
    }

    /// Completed jobs by spans of this length, over the last `window`, oldest first; every span is there.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn throughput(&self, window: Duration, span: Duration) -> Result<Vec<Throughput>, StoreError> {
        self.reports
            .statement("throughput", async |connection: &mut PgConnection| {
                sqlx::query_as!(
                    Throughput,
                    r#"WITH ended AS (
                           SELECT date_bin(make_interval(secs => $2), finished_at, 'epoch') AS span,
                                  count(*) AS jobs,
                                  count(*) FILTER (WHERE stage = 'circuit_proof') AS proofs
                           FROM all_prover_jobs
                           WHERE status = 'successful' AND finished_at > now() - make_interval(secs => $1)
                           GROUP BY 1)
                       SELECT EXTRACT(EPOCH FROM span)::int8 AS "begins!", coalesce(proofs, 0) AS "proofs!",
                              coalesce(jobs, 0) AS "jobs!"
                       FROM generate_series(
                                date_bin(make_interval(secs => $2),
                                         now() - make_interval(secs => $1), 'epoch'),
                                now(), make_interval(secs => $2)) AS span
                       LEFT JOIN ended USING (span) ORDER BY span"#,
                    window.as_secs_f64(),
                    span.as_secs_f64()
                )
                .fetch_all(connection)
                .await
            })
            .await
    }
}

/// A row of the shown batches, or, with `in_all`, how many are in a state.
struct ShownBatch {
    position: i64,
    chain_id: i64,
    number: i64,
    status: String,
    age_seconds: f64,
    duration_seconds: Option<f64>,
    deadline: Option<String>,
    deadline_margin_seconds: Option<f64>,
    error: Option<String>,
    in_all: Option<i64>,
    #[allow(dead_code, reason = "the rows are ordered by it")]
    kind: i32,
    #[allow(dead_code, reason = "the rows are ordered by it")]
    place: f64,
}

/// The position is the high bits of an id, as the queries above have it.
const _: () = assert!(position_of(1 << 37) == 1 && position_of((1 << 37) - 1) == 0);
