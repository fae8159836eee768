//! Growing a batch while its witness generator runs: new jobs, and who consumes whose output.

use crate::metrics::QueryTimer;
use crate::model::size;
use crate::{JobStore, LeasedJob, StoreError};
use proving_model::{ArtifactRef, BatchId, JobKey, MemoryClass, Stage};
use std::collections::BTreeSet;

/// A job to be inserted.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// Its place within the batch.
    pub key: JobKey,
    /// Its memory class.
    pub memory_class: MemoryClass,
    /// Expected work in milliseconds.
    pub expected_cost_ms: i64,
    /// Its input, for basic circuits; other jobs wait for their predecessors.
    pub input: Option<ArtifactRef>,
}

/// What one transaction adds to a batch.
///
/// A job that consumes others comes in the same extension as all the links to it, so that its count is right from
/// its first moment.
#[derive(Debug, Clone, Default)]
pub struct Extension {
    /// Jobs to insert; those that are there already stay as they are.
    pub jobs: Vec<NewJob>,
    /// Pairs of a job and the job that consumes its output.
    pub links: Vec<(JobKey, JobKey)>,
}

/// Key columns as arrays, for UNNEST.
#[derive(Default)]
struct KeyColumns {
    rounds: Vec<i16>,
    stages: Vec<String>,
    circuits: Vec<i16>,
    depths: Vec<i16>,
    sequences: Vec<i32>,
}

impl KeyColumns {
    fn of<'a>(keys: impl Iterator<Item = &'a JobKey>) -> Self {
        let mut columns = Self::default();
        for key in keys {
            columns.rounds.push(key.round.number());
            columns.stages.push(key.stage.as_str().to_owned());
            columns.circuits.push(key.circuit_id.0);
            columns.depths.push(key.depth);
            columns.sequences.push(key.sequence);
        }
        columns
    }
}

type Transaction<'a> = sqlx::Transaction<'a, sqlx::Postgres>;

impl JobStore {
    /// Adds jobs and links to the batch of a witness generator's job, under its lease. Idempotent: a second attempt
    /// that adds the same changes nothing, except that it gives a circuit back whose artifact was lost.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] when the job is no longer the caller's; nothing is added then.
    pub async fn extend_batch(&self, job: &LeasedJob, extension: &Extension) -> Result<(), StoreError> {
        let _timer = QueryTimer::start("extend_batch");
        let error = StoreError::database;
        let mut transaction = self.pool.begin().await.map_err(error("extend_batch"))?;
        // The fence: holding the row until the commit also keeps the rescue duty from taking the job meanwhile.
        let row = sqlx::query!(
            "SELECT id FROM prover_jobs
             WHERE id = $1 AND lease_token = $2 AND status = 'in_progress' FOR SHARE",
            job.id,
            job.token
        )
        .fetch_optional(&mut *transaction)
        .await
        .map_err(error("extend_batch"))?;
        if row.is_none() {
            return Err(StoreError::LeaseLost { job_id: job.id });
        }
        let inserted = insert_jobs(&mut transaction, job.id, job.batch, &extension.jobs).await?;
        link_jobs(&mut transaction, job.batch, &extension.links).await?;
        let unlocked = count_dependencies(&mut transaction, &inserted).await?;
        transaction.commit().await.map_err(error("extend_batch"))?;

        let with_input = extension.jobs.iter().filter(|new| new.input.is_some()).map(|new| new.key.stage);
        for stage in with_input.chain(unlocked).collect::<BTreeSet<Stage>>() {
            self.waker.wake(stage);
        }
        Ok(())
    }
}

/// Inserts the jobs; returns the ids of those that are new and wait for others.
async fn insert_jobs(
    transaction: &mut Transaction<'_>,
    parent: i64,
    batch: BatchId,
    jobs: &[NewJob],
) -> Result<Vec<i64>, StoreError> {
    let keys = KeyColumns::of(jobs.iter().map(|job| &job.key));
    let classes: Vec<String> = jobs.iter().map(|job| job.memory_class.as_str().to_owned()).collect();
    let costs: Vec<i64> = jobs.iter().map(|job| job.expected_cost_ms).collect();
    let input = |job: &NewJob| job.input.clone();
    let input_keys: Vec<Option<String>> = jobs.iter().map(|job| input(job).map(|a| a.key)).collect();
    let checksums: Vec<Option<Vec<u8>>> =
        jobs.iter().map(|job| input(job).map(|a| a.checksum.to_vec())).collect();
    let sizes: Vec<Option<i64>> = jobs.iter().map(|job| job.input.as_ref().map(size)).collect();
    let rows = sqlx::query!(
        r#"INSERT INTO prover_jobs AS job (
               chain_id, batch_number, aggregation_round, stage, circuit_id, depth, sequence_number,
               memory_class, expected_cost_ms, input_key, input_checksum, input_size_bytes,
               priority, deadline, batch_position, protocol_minor, protocol_patch,
               status, dependencies_left, queued_at)
           SELECT g.chain_id, g.batch_number, n.round, n.stage, n.circuit, n.depth, n.sequence,
                  n.class, n.cost, n.input_key, n.checksum, n.size,
                  g.priority, g.deadline, g.batch_position, g.protocol_minor, g.protocol_patch,
                  CASE WHEN n.input_key IS NULL THEN 'waiting_for_proofs' ELSE 'queued' END,
                  CASE WHEN n.input_key IS NULL THEN 1 ELSE 0 END,
                  CASE WHEN n.input_key IS NULL THEN NULL ELSE now() END
           FROM UNNEST($2::int2[], $3::text[], $4::int2[], $5::int2[], $6::int4[], $7::text[], $8::int8[],
                       $9::text[], $10::bytea[], $11::int8[])
                    AS n (round, stage, circuit, depth, sequence, class, cost, input_key, checksum, size),
                prover_jobs g
           WHERE g.id = $1
           ON CONFLICT (chain_id, batch_number, aggregation_round, stage, circuit_id, depth, sequence_number)
           DO UPDATE SET
               input_key = excluded.input_key, input_checksum = excluded.input_checksum,
               input_size_bytes = excluded.input_size_bytes,
               status = 'queued', dependencies_left = 0, queued_at = now()
           WHERE job.status = 'waiting_for_proofs' AND job.input_key IS NULL AND excluded.input_key IS NOT NULL
           RETURNING id, status, xmax = 0 AS "is_new!""#,
        parent,
        &keys.rounds,
        &keys.stages,
        &keys.circuits,
        &keys.depths,
        &keys.sequences,
        &classes,
        &costs,
        &input_keys as &[Option<String>],
        &checksums as &[Option<Vec<u8>>],
        &sizes as &[Option<i64>]
    )
    .fetch_all(&mut **transaction)
    .await
    .map_err(StoreError::database("extend_batch: insert jobs"))?;
    tracing::trace!(%batch, jobs = jobs.len(), new = rows.len(), "batch extended");
    let waits = |status: &str| status == proving_model::JobStatus::WaitingForProofs.as_str();
    Ok(rows.into_iter().filter(|row| row.is_new && waits(&row.status)).map(|row| row.id).collect())
}

/// Tells each child who consumes its output. Updating the child's row also locks it against its completion, so the
/// count that follows sees each child either completed or linked.
async fn link_jobs(
    transaction: &mut Transaction<'_>,
    batch: BatchId,
    links: &[(JobKey, JobKey)],
) -> Result<(), StoreError> {
    let children = KeyColumns::of(links.iter().map(|(child, _)| child));
    let parents = KeyColumns::of(links.iter().map(|(_, parent)| parent));
    sqlx::query!(
        "UPDATE prover_jobs child SET successor_id = parent.id
         FROM UNNEST($3::int2[], $4::text[], $5::int2[], $6::int2[], $7::int4[],
                     $8::int2[], $9::text[], $10::int2[], $11::int2[], $12::int4[])
                  AS link (c_round, c_stage, c_circuit, c_depth, c_sequence,
                           p_round, p_stage, p_circuit, p_depth, p_sequence)
         JOIN prover_jobs parent
           ON parent.chain_id = $1 AND parent.batch_number = $2 AND parent.aggregation_round = link.p_round
          AND parent.stage = link.p_stage AND parent.circuit_id = link.p_circuit
          AND parent.depth = link.p_depth AND parent.sequence_number = link.p_sequence
         WHERE child.chain_id = $1 AND child.batch_number = $2 AND child.aggregation_round = link.c_round
           AND child.stage = link.c_stage AND child.circuit_id = link.c_circuit
           AND child.depth = link.c_depth AND child.sequence_number = link.c_sequence
           AND child.successor_id IS NULL",
        i64::from(batch.chain_id),
        i64::from(batch.number),
        &children.rounds,
        &children.stages,
        &children.circuits,
        &children.depths,
        &children.sequences,
        &parents.rounds,
        &parents.stages,
        &parents.circuits,
        &parents.depths,
        &parents.sequences
    )
    .execute(&mut **transaction)
    .await
    .map_err(StoreError::database("extend_batch: link jobs"))?;
    Ok(())
}

/// Sets the count of each new job; one that misses nothing is queued. Returns the stages of those.
async fn count_dependencies(
    transaction: &mut Transaction<'_>,
    inserted: &[i64],
) -> Result<Vec<Stage>, StoreError> {
    let stages = sqlx::query_scalar!(
        "UPDATE prover_jobs job SET
             dependencies_left = count.missing,
             status = CASE WHEN count.missing = 0 THEN 'queued' ELSE 'waiting_for_proofs' END,
             queued_at = CASE WHEN count.missing = 0 THEN now() END
         FROM (SELECT successor_id, (count(*) FILTER (WHERE status <> 'successful'))::int4 AS missing
               FROM prover_jobs WHERE successor_id = ANY($1) GROUP BY successor_id) count
         WHERE job.id = count.successor_id
         RETURNING CASE WHEN count.missing = 0 THEN job.stage END",
        inserted
    )
    .fetch_all(&mut **transaction)
    .await
    .map_err(StoreError::database("extend_batch: count dependencies"))?;
    Ok(stages.into_iter().flatten().filter_map(|stage| stage.parse().ok()).collect())
}
