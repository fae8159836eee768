//! Why a job does not run. Asked of the same columns, in the same order, as a pick asks; a test has the two agree on random states.

use crate::database::store::JobStore;
use crate::database::unreadable::readable;
use crate::leases::pick::SUSPECT_DEATHS;
use crate::leases::picking_order::query_in_picking_order;
use crate::model::error::StoreError;
use crate::model::ids::job_id_as_text;
use crate::model::ids::{GENERATOR, generator_id, ids_of_batch, job_key, position_of};
use crate::model::rows::batch_id;
use proving_model::{BatchId, BatchStatus, JobKey, JobStatus};
use schemars::JsonSchema;
use serde::Serialize;
use sqlx::PgConnection;

/// Jobs that an answer names; their number is in it.
const NAMED_MAX: i64 = 5;

/// Places in the queue that are counted; who stands behind has no number.
const PLACES_MAX: i64 = 10_000;

/// A job that another waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Missing {
    /// Row id, as a text: it has more digits than a double holds.
    #[serde(serialize_with = "job_id_as_text")]
    #[schemars(with = "String")]
    pub job_id: i64,
    /// Place within the batch, in words.
    pub job: String,
    /// Its state.
    pub status: String,
}

/// The live workers, and how far a job gets with them: each number counts those of the one before that also …
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Takers {
    /// Workers that live, take jobs, and are not about to stop.
    pub live: i64,
    /// … take the job's protocol version,
    pub of_version: i64,
    /// … and its stage, round and memory class,
    pub of_kind: i64,
    /// … and have a memory budget that the job fits.
    pub with_room: i64,
    /// What these hold now.
    pub jobs_held: i64,
    /// What these can hold.
    pub capacity: i64,
    /// The largest memory budget of the live workers of the job's kind, in bytes; `None` where one has no limit, or there is none.
    pub largest_budget_bytes: Option<i64>,
}

/// Why a job does not run; or that it does.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Why {
    /// It is successful, or was cancelled.
    Over {
        /// Its state.
        status: String,
    },
    /// A worker has it.
    Running {
        /// Component of the worker.
        component: String,
        /// Host of the worker.
        host: String,
        /// Process id of the worker.
        pid: i32,
        /// For so long.
        seconds: f64,
        /// How far it says that it is, 0 to 1.
        progress: f32,
        /// Whether the worker's lease is over: the job monitor puts the job back.
        is_expired: bool,
    },
    /// Its budget is spent; it waits for an operator.
    Failed {
        /// Failures that it reported.
        failures: i32,
        /// Workers that died with it.
        worker_deaths: i32,
        /// Attempts that took too long.
        timeouts: i32,
        /// The last error.
        error: Option<String>,
    },
    /// Its inputs are not there yet.
    WaitsForProofs {
        /// How many are missing.
        missing: i64,
        /// Some of them.
        first: Vec<Missing>,
    },
    /// Its circuit was lost and is made again.
    WaitsForCircuit {
        /// The generator's state.
        generator: String,
    },
    /// Its chain is strict, and an earlier batch is not proven.
    WaitsForBatch {
        /// The earlier batch.
        number: u32,
        /// That batch's state.
        #[schemars(with = "String")]
        status: BatchStatus,
    },
    /// It failed, and rests before the next attempt.
    Rests {
        /// For so long yet.
        seconds: f64,
        /// The last error.
        error: Option<String>,
    },
    /// It is queued, and an operator paused its chain or its stage.
    Paused {
        /// `chain` or `stage`.
        what: &'static str,
        /// Its name.
        name: String,
        /// For so long.
        seconds: f64,
    },
    /// It is queued, and no worker that lives takes it.
    NobodyTakesIt {
        /// How far it gets.
        takers: Takers,
        /// Its expected peak of memory in bytes.
        peak_memory_bytes: i64,
    },
    /// It is queued, and its turn comes.
    Queued {
        /// Its place among those of its kind, from 1; `None` beyond the ten thousandth.
        place: Option<i64>,
        /// Who may take it.
        takers: Takers,
        /// Whether workers died with it: it is worked on beside no other such job.
        is_suspect: bool,
    },
}

/// A job, and why it does not run.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Explanation {
    /// Row id, as a text: it has more digits than a double holds.
    #[serde(serialize_with = "job_id_as_text")]
    #[schemars(with = "String")]
    pub job_id: i64,
    /// Its batch.
    #[serde(skip)]
    pub batch: BatchId,
    /// Its place within the batch.
    #[serde(skip)]
    pub key: JobKey,
    /// The answer.
    #[serde(flatten)]
    pub why: Why,
}

impl JobStore {
    /// Why a job does not run; or that it does.
    ///
    /// # Errors
    /// [`StoreError::NoSuchJob`], [`StoreError::Database`].
    pub async fn why(&self, job_id: i64) -> Result<Explanation, StoreError> {
        let found = self
            .reports
            .statement("why", async |connection: &mut PgConnection| {
                sqlx::query!(
                    r#"SELECT j.status AS "status!", j.chain_id AS "chain_id!",
                           j.batch_number AS "batch_number!",
                              j.error, j.failures AS "failures!", j.worker_deaths AS "worker_deaths!",
                              j.timeouts AS "timeouts!", j.progress AS "progress!", j.input_key,
                              j.peak_memory_bytes AS "peak!", j.queue AS "queue!",
                              j.aggregation_round AS "round!",
                              EXTRACT(EPOCH FROM j.not_before - now())::float8 AS "rest_seconds!",
                              EXTRACT(EPOCH FROM now() - j.started_at)::float8 AS run_seconds,
                              CASE WHEN j.queue < 0
                                   THEN (SELECT EXTRACT(EPOCH FROM now() - c.paused_at)::float8
                                         FROM chains c WHERE c.chain_id = j.chain_id)
                                   ELSE (SELECT EXTRACT(EPOCH FROM now() - p.paused_at)::float8
                                         FROM paused_stages p WHERE p.stage = j.stage) END AS pause_seconds,
                              coalesce(w.component, 'unknown') AS "component!", coalesce(w.host,
                              'unknown') AS "host!",
                              coalesce(w.pid, 0) AS "pid!", coalesce(w.expires_at < now(),
                              TRUE) AS "is_expired!"
                       FROM all_prover_jobs j LEFT JOIN workers w ON w.id = j.worker_id WHERE j.id = $1"#,
                    job_id
                )
                .fetch_optional(connection)
                .await
            })
            .await?;
        let row = found.ok_or(StoreError::NoSuchJob(job_id))?;
        let batch = batch_id(row.chain_id, row.batch_number)?;
        let key = job_key(job_id)?;
        let status: JobStatus = row.status.parse().map_err(|e| StoreError::Schema(format!("{e}")))?;
        let why = match status {
            JobStatus::Successful | JobStatus::Cancelled => Why::Over { status: row.status },
            JobStatus::InProgress => Why::Running {
                component: row.component,
                host: row.host,
                pid: row.pid,
                seconds: row.run_seconds.unwrap_or_default(),
                progress: row.progress,
                is_expired: row.is_expired,
            },
            JobStatus::Failed => Why::Failed {
                failures: row.failures,
                worker_deaths: row.worker_deaths,
                timeouts: row.timeouts,
                error: row.error,
            },
            JobStatus::WaitingForProofs => self.what_is_missing(job_id, batch, &key).await?,
            JobStatus::Queued if row.rest_seconds > 0.0 => {
                Why::Rests { seconds: row.rest_seconds, error: row.error }
            }
            JobStatus::Queued if row.pause_seconds.is_some() => {
                let (what, name) = if row.queue < 0 {
                    ("chain", row.chain_id.to_string())
                } else {
                    ("stage", key.stage.as_str().to_owned())
                };
                Why::Paused { what, name, seconds: row.pause_seconds.unwrap_or_default() }
            }
            JobStatus::Queued => {
                let takers = self.takers(row.queue, row.round, row.peak).await?;
                if takers.with_room == 0 {
                    Why::NobodyTakesIt { takers, peak_memory_bytes: row.peak }
                } else {
                    let is_suspect = row.worker_deaths >= SUSPECT_DEATHS;
                    Why::Queued { place: self.place(job_id, row.queue).await?, takers, is_suspect }
                }
            }
        };
        Ok(Explanation { job_id, batch, key, why })
    }

    /// The jobs of a batch to ask about, when somebody asks about the batch: of each kind that keeps it, the first. What failed comes
    /// first, then what runs, what is queued in the order in which it is picked, and what waits.
    ///
    /// # Errors
    /// [`StoreError::NoSuchBatch`], [`StoreError::Database`].
    pub async fn telling_jobs(&self, id: BatchId) -> Result<Vec<i64>, StoreError> {
        let batch = self.batch(id).await?.ok_or(StoreError::NoSuchBatch(id))?;
        let (first, end) = ids_of_batch(batch.position);
        self.reports
            .statement("telling_jobs", async |connection: &mut PgConnection| {
                sqlx::query_scalar!(
                    r#"SELECT id AS "id!" FROM (
                           SELECT DISTINCT ON (kind, queue) id, kind FROM (
                               SELECT id, queue, rank_in_batch, CASE
                                          WHEN status = 'failed' THEN 0
                                          WHEN status = 'in_progress' THEN 1
                                          WHEN status = 'queued' AND not_before <= now() THEN 2
                                          WHEN status = 'queued' THEN 3
                                          ELSE 4 END AS kind
                               FROM jobs
                               WHERE id >= $1 AND id < $2
                                 AND status IN ('failed', 'in_progress', 'queued',
                                 'waiting_for_proofs')) AS kept
                           -- Of those that wait, one of the earliest round.
                           ORDER BY kind, queue, 
                                    CASE WHEN kind = 4 THEN -rank_in_batch ELSE rank_in_batch END, id) AS telling
                       -- Waiting is worth a word only where nothing else is.
                       WHERE kind < 4 OR NOT EXISTS (
                           SELECT FROM jobs WHERE id >= $1 AND id < $2
                             AND status IN ('failed', 'in_progress', 'queued'))
                       ORDER BY kind, id LIMIT 8"#,
                    first,
                    end
                )
                .fetch_all(connection)
                .await
            })
            .await
    }

    async fn what_is_missing(&self, job_id: i64, batch: BatchId, key: &JobKey) -> Result<Why, StoreError> {
        if *key == GENERATOR {
            return self.what_goes_before(batch).await;
        }
        let rows = self
            .reports
            .statement("why: what is missing", async |connection: &mut PgConnection| {
                sqlx::query!(
                    r#"SELECT id, status, count(*) OVER () AS "missing!" FROM jobs
                       WHERE id = ANY((SELECT predecessor_ids FROM jobs WHERE id = $1)::int8[])
                         AND status <> 'successful'
                       -- What is furthest from its end tells most.
                       ORDER BY status = 'failed' DESC, status = 'waiting_for_proofs' DESC, id LIMIT $2"#,
                    job_id,
                    NAMED_MAX
                )
                .fetch_all(connection)
                .await
            })
            .await?;
        let Some(missing) = rows.first().map(|row| row.missing) else {
            // Nobody's output is missing: its own input is.
            let generator = generator_id(position_of(job_id))?;
            let generator = self
                .reports
                .statement("why: the generator", async |connection: &mut PgConnection| {
                    sqlx::query_scalar!("SELECT status FROM jobs WHERE id = $1", generator)
                        .fetch_one(connection)
                        .await
                })
                .await?;
            return Ok(Why::WaitsForCircuit { generator });
        };
        let first = readable("why", rows, |row| {
            Ok(Missing { job_id: row.id, job: job_key(row.id)?.to_string(), status: row.status })
        });
        Ok(Why::WaitsForProofs { missing, first })
    }

    /// The batch that keeps the next of a strict chain.
    async fn what_goes_before(&self, batch: BatchId) -> Result<Why, StoreError> {
        let row = self
            .reports
            .statement("why: what goes before", async |connection: &mut PgConnection| {
                sqlx::query!(
                    "SELECT number, status FROM batches
                     WHERE chain_id = $1 AND number < $2 AND status IN ('queued', 'in_progress', 'failed')
                     ORDER BY number LIMIT 1",
                    i64::from(batch.chain_id),
                    i64::from(batch.number)
                )
                .fetch_optional(connection)
                .await
            })
            .await?;
        let Some(row) = row else {
            return Err(StoreError::Schema(format!(
                "{batch} waits, and no batch of its chain goes before it"
            )));
        };
        let status = row.status.parse().map_err(|e| StoreError::Schema(format!("{e}")))?;
        Ok(Why::WaitsForBatch { number: batch_id(0, row.number)?.number, status })
    }

    async fn takers(&self, queue: i64, round: i16, peak: i64) -> Result<Takers, StoreError> {
        self.reports
            .statement("why: takers", async |connection: &mut PgConnection| {
                sqlx::query_as!(
                    Takers,
                    r#"SELECT count(*) AS "live!",
                              count(*) FILTER (WHERE of_version) AS "of_version!",
                              count(*) FILTER (WHERE of_kind) AS "of_kind!",
                              count(*) FILTER (WHERE of_kind AND has_room) AS "with_room!",
                              (coalesce(sum(held) FILTER (WHERE of_kind AND has_room),
                              0))::int8 AS "jobs_held!",
                              (coalesce(sum(capacity) FILTER (WHERE of_kind AND has_room),
                              0))::int8 AS "capacity!",
                              CASE WHEN bool_or(budget IS NULL) FILTER (WHERE of_kind) THEN NULL
                                   ELSE max(budget) FILTER (WHERE of_kind) END AS largest_budget_bytes
                       FROM (SELECT w.memory_budget_bytes::int8 AS budget, w.capacity,
                                    EXISTS (SELECT FROM worker_filters f
                                            WHERE f.worker_id = w.id
                                            AND f.queue >> 8 = $1::int8 >> 8) AS of_version,
                                    EXISTS (SELECT FROM worker_filters f
                                            WHERE f.worker_id = w.id AND f.queue = $1
                                              AND $2 = ANY(f.rounds)) AS of_kind,
                                    coalesce(w.memory_budget_bytes >= $3, TRUE) AS has_room,
                                    (SELECT count(*) FROM jobs j
                                     WHERE j.worker_id = w.id AND j.status = 'in_progress') AS held
                             FROM workers w
                             WHERE w.stopped_at IS NULL AND w.expires_at > now()
                               -- A job monitor has none.
                               AND w.capacity > 0 AND w.drain_asked_at IS NULL) AS living"#,
                    queue,
                    round,
                    peak
                )
                .fetch_one(connection)
                .await
            })
            .await
    }

    /// A job's place among the queued ones of its kind.
    async fn place(&self, job_id: i64, queue: i64) -> Result<Option<i64>, StoreError> {
        self.hot
            .statement("why: place", async |connection: &mut PgConnection| {
                query_in_picking_order!(
                    query_scalar,
                    r#"SELECT place AS "place!" FROM (
                           SELECT id, row_number() OVER (
                               "#,
                    r#") AS place
                           FROM jobs
                           WHERE status = 'queued' AND queue = $1 AND not_before <= now()
                           "#,
                    r#" LIMIT $3) AS row
                       WHERE id = $2"#;
                    queue,
                    job_id,
                    PLACES_MAX
                )
                .fetch_optional(connection)
                .await
            })
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::ids_of_batch;

    #[test]
    fn the_id_of_a_late_batches_job_is_whole_in_json() {
        let (first, _) = ids_of_batch(1 << 20);
        let missing = Missing { job_id: first + 1, job: String::new(), status: String::new() };
        let json = serde_json::to_value(&missing).expect("no bytes");
        assert_eq!(json["job_id"], (first + 1).to_string());
    }
}
