//! Picking: the one statement that hands out leases.

use crate::metrics::QueryTimer;
use crate::model::{artifact, batch_id, job_key};
use crate::{JobStore, LeasedJob, StoreError};
use proving_model::{AggregationRound, MemoryClass, ProtocolVersion, Stage};
use std::time::Duration;
use uuid::Uuid;

/// Which jobs a runner takes.
#[derive(Debug, Clone)]
pub struct PickFilter {
    /// The stage.
    pub stage: Stage,
    /// The rounds.
    pub rounds: Vec<AggregationRound>,
    /// The memory classes, in order of preference: a heavy runner names heavy first, a light one light alone.
    pub memory_classes: Vec<MemoryClass>,
    /// The version.
    pub version: ProtocolVersion,
}

impl JobStore {
    /// Leases up to `want` jobs to this worker. Order: priority, deadline, batch, the round nearest to the final proof, the
    /// longest circuit; a preferred memory class goes before all that.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn pick(
        &self,
        filter: &PickFilter,
        want: usize,
        worker: Uuid,
        lease: Duration,
    ) -> Result<Vec<LeasedJob>, StoreError> {
        let mut jobs = Vec::new();
        for class in &filter.memory_classes {
            if jobs.len() < want {
                jobs.extend(self.pick_class(filter, *class, want - jobs.len(), worker, lease).await?);
            }
        }
        Ok(jobs)
    }

    async fn pick_class(
        &self,
        filter: &PickFilter,
        class: MemoryClass,
        want: usize,
        worker: Uuid,
        lease: Duration,
    ) -> Result<Vec<LeasedJob>, StoreError> {
        let _timer = QueryTimer::start("pick");
        let rounds: Vec<i16> = filter.rounds.iter().map(|round| round.number()).collect();
        // `= ANY(ARRAY(…))` and not a join: a join flips to a hash join and a sequential scan at some sizes.
        let mut rows = sqlx::query!(
            r#"WITH picked AS (
                   UPDATE prover_jobs SET
                       status = 'in_progress', worker_id = $1, lease_token = gen_random_uuid(),
                       lease_expires_at = now() + make_interval(secs => $2),
                       attempts = attempts + 1, started_at = now(), progress = 0
                   WHERE id = ANY(ARRAY(
                       SELECT id FROM prover_jobs
                       WHERE status = 'queued' AND stage = $3 AND protocol_minor = $4 AND protocol_patch = $5
                         AND memory_class = $6 AND aggregation_round = ANY($7) AND not_before <= now()
                       ORDER BY priority DESC, deadline ASC NULLS LAST, batch_position,
                                aggregation_round DESC, expected_cost_ms DESC, id
                       LIMIT $8
                       FOR UPDATE SKIP LOCKED
                   ))
                   RETURNING *
               ), attempted AS (
                   INSERT INTO job_attempts (job_id, attempt, worker_id, lease_token)
                   SELECT id, attempts, worker_id, lease_token FROM picked
               ), started AS (
                   UPDATE batches SET status = 'in_progress', started_at = now()
                   FROM (SELECT DISTINCT chain_id, batch_number FROM picked) p
                   WHERE batches.chain_id = p.chain_id AND batches.number = p.batch_number
                     AND batches.status = 'queued'
               )
               SELECT id AS "id!", chain_id AS "chain_id!", batch_number AS "batch_number!",
                      aggregation_round AS "round!", stage AS "stage!", circuit_id AS "circuit_id!",
                      depth AS "depth!", sequence_number AS "sequence!", lease_token AS "token!",
                      attempts AS "attempt!", input_key, input_checksum, input_size_bytes,
                      row_number() OVER (ORDER BY priority DESC, deadline ASC NULLS LAST, batch_position,
                          aggregation_round DESC, expected_cost_ms DESC, id) AS "rank!"
               FROM picked"#,
            worker,
            lease.as_secs_f64(),
            filter.stage.as_str(),
            i32::from(filter.version.minor),
            i32::from(filter.version.patch),
            class.as_str(),
            &rounds,
            i64::try_from(want).unwrap_or(i64::MAX)
        )
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::database("pick"))?;
        // RETURNING promises no order.
        rows.sort_by_key(|row| row.rank);
        rows.into_iter()
            .map(|row| {
                Ok(LeasedJob {
                    id: row.id,
                    batch: batch_id(row.chain_id, row.batch_number)?,
                    key: job_key(row.round, &row.stage, row.circuit_id, row.depth, row.sequence)?,
                    memory_class: class,
                    token: row.token,
                    attempt: row.attempt,
                    input: artifact(row.input_key, row.input_checksum, row.input_size_bytes)?,
                })
            })
            .collect()
    }

    /// The outputs that a job consumes, in order. Fewer than the tree says means that the store was tampered with.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn predecessors(&self, job: &LeasedJob) -> Result<Vec<crate::Predecessor>, StoreError> {
        let _timer = QueryTimer::start("predecessors");
        let rows = sqlx::query!(
            "SELECT aggregation_round, stage, circuit_id, depth, sequence_number,
                    output_key, output_checksum, output_size_bytes
             FROM prover_jobs WHERE successor_id = $1 AND status = 'successful'",
            job.id
        )
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::database("predecessors"))?;
        let mut predecessors = Vec::with_capacity(rows.len());
        for row in rows {
            let key =
                job_key(row.aggregation_round, &row.stage, row.circuit_id, row.depth, row.sequence_number)?;
            let output = artifact(row.output_key, row.output_checksum, row.output_size_bytes)?
                .ok_or_else(|| StoreError::Schema(format!("the successful job {key} names no output")))?;
            predecessors.push(crate::Predecessor { key, output });
        }
        // By circuit, then by position. A leaf that moved up without a node of its own stands for the last subtree, so
        // it comes after the nodes of its circuit: deeper levels first.
        predecessors.sort_by_key(|p| {
            let level = (p.key.round, p.key.depth);
            (p.key.circuit_id, std::cmp::Reverse(level), p.key.sequence)
        });
        Ok(predecessors)
    }
}
