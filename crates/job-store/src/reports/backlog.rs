//! What there is to do: for operators, and for whatever starts and stops workers by it.

use crate::database::store::JobStore;
use crate::model::error::StoreError;
use schemars::JsonSchema;
use serde::Serialize;
use sqlx::PgConnection;

/// Unfinished jobs of one kind: version, chain, stage, round and memory class.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Demand {
    /// Version, minor part.
    pub protocol_minor: i32,
    /// Version, patch part.
    pub protocol_patch: i32,
    /// Chain.
    pub chain_id: i64,
    /// The stage.
    pub stage: String,
    /// Round number, 0 to 4.
    pub round: i16,
    /// Memory class.
    pub memory_class: String,
    /// Jobs that may be picked.
    pub queued: i64,
    /// Jobs that workers have.
    pub in_progress: i64,
    /// Jobs that wait for others' outputs.
    pub waiting: i64,
    /// Jobs whose budgets are spent.
    pub failed: i64,
    /// Jobs that could be picked, and are held back by an operator.
    pub paused: i64,
    /// Seconds for which the oldest queued one has been so.
    pub oldest_seconds: Option<f64>,
    /// What those that are queued or in progress will take, in seconds of one worker: by what jobs of their circuit took in the last
    /// hour, or else by what the proof system declares.
    pub backlog_seconds: f64,
}

impl JobStore {
    /// Unfinished jobs by version, chain, stage, round and memory class.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn demand(&self) -> Result<Vec<Demand>, StoreError> {
        self.reports
            .statement("demand", async |connection: &mut PgConnection| {
                sqlx::query_as!(
                    Demand,
                    r#"WITH counted AS (
                           SELECT protocol_minor, protocol_patch, chain_id, stage, aggregation_round,
                                  memory_class, circuit_id, status,
                                  queue < 0 OR stage IN (SELECT p.stage FROM paused_stages p) AS is_paused,
                                  count(*) AS jobs, avg(expected_cost_ms) / 1000 AS declared,
                                  min(queued_at) AS oldest,
                                  avg(date_part('epoch', finished_at - started_at)) FILTER (
                                      WHERE finished_at > now() - interval '1 hour') AS took
                           -- Jobs of no batch are told by `vitals`, and no picker takes them.
                           FROM prover_jobs WHERE status <> 'cancelled' AND chain_id IS NOT NULL
                           GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9
                       ), measured AS (
                           SELECT protocol_minor, protocol_patch, stage, aggregation_round, circuit_id,
                                  sum(took * jobs) / sum(jobs) AS took
                           FROM counted WHERE status = 'successful' AND took IS NOT NULL
                           GROUP BY 1, 2, 3, 4, 5
                       )
                       SELECT protocol_minor AS "protocol_minor!", protocol_patch AS "protocol_patch!",
                              chain_id AS "chain_id!", stage AS "stage!", aggregation_round AS "round!",
                              memory_class AS "memory_class!",
                              (coalesce(sum(jobs) FILTER (
                                  WHERE status = 'queued' AND NOT is_paused), 0))::int8 AS "queued!",
                              (coalesce(sum(jobs) FILTER (
                                  WHERE status = 'in_progress'), 0))::int8 AS "in_progress!",
                              (coalesce(sum(jobs) FILTER (
                                  WHERE status = 'waiting_for_proofs'), 0))::int8 AS "waiting!",
                              (coalesce(sum(jobs) FILTER (WHERE status = 'failed'), 0))::int8 AS "failed!",
                              (coalesce(sum(jobs) FILTER (
                                  WHERE status = 'queued' AND is_paused), 0))::int8 AS "paused!",
                              EXTRACT(EPOCH FROM now() - min(oldest) FILTER (
                                  WHERE status = 'queued' AND NOT is_paused))::float8 AS oldest_seconds,
                              (coalesce(sum(jobs * coalesce(m.took, declared)) FILTER (
                                  WHERE status = 'in_progress' OR status = 'queued' AND NOT is_paused),
                                  0))::float8 AS "backlog_seconds!"
                       FROM counted c
                       LEFT JOIN measured m USING (
                           protocol_minor, protocol_patch, stage, aggregation_round, circuit_id)
                       WHERE status <> 'successful'
                       GROUP BY 1, 2, 3, 4, 5, 6
                       ORDER BY 1, 2, 3, stage DESC, 5, 6"#
                )
                .fetch_all(connection)
                .await
            })
            .await
    }
}
