//! Growing a batch while its witness generator runs: new jobs, and who consumes whose output.

use crate::database::connections::Transaction;
use crate::database::store::JobStore;
use crate::model::error::StoreError;
use crate::model::ids::{job_id, job_key, position_of, queue, rank_in_batch};
use crate::model::learned::Learned;
use crate::model::rows::{LeasedJob, size};
use proving_model::{ArtifactRef, JobKey, MemoryClass, Stage};
use sqlx::{Connection, PgConnection};
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
    /// Expected peak of its memory in bytes, where nothing was learned of its circuit yet; 0 when nobody knows.
    pub peak_memory_bytes: i64,
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

impl JobStore {
    /// Adds jobs and links to the batch of a witness generator's job, under its lease. Idempotent: a second attempt
    /// that adds the same changes nothing, except that it gives a circuit back whose artifact was lost.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] when the job is no longer the caller's; nothing is added then.
    pub async fn extend_batch(&self, job: &LeasedJob, extension: &Extension) -> Result<(), StoreError> {
        let position = position_of(job.id);
        let mut links = Vec::with_capacity(extension.links.len());
        for (child, parent) in &extension.links {
            links.push((job_id(position, child)?, job_id(position, parent)?));
        }
        let learned = self.learned(job.version).await?;
        let unlocked = self.hot.run("extend_batch", async |connection: &mut PgConnection| {
            if links.is_empty() {
                // One statement is a transaction, and one round trip.
                insert_jobs(connection, job, &extension.jobs, &learned).await?;
                return Ok(Vec::new());
            }
            let mut transaction = connection.begin().await?;
            let waiting = insert_jobs(&mut transaction, job, &extension.jobs, &learned).await?;
            link_jobs(&mut transaction, &links).await?;
            let unlocked = count_dependencies(&mut transaction, &links, &waiting).await?;
            transaction.commit().await?;
            Ok(unlocked)
        });
        let unlocked = unlocked.await?;
        let with_input = extension.jobs.iter().filter(|new| new.input.is_some()).map(|new| new.key.stage);
        for stage in with_input.chain(unlocked).collect::<BTreeSet<Stage>>() {
            self.waker.wake(stage);
        }
        Ok(())
    }
}

/// Inserts the jobs; returns the ids of those that are new and wait for others.
async fn insert_jobs(
    connection: &mut PgConnection,
    generator: &LeasedJob,
    jobs: &[NewJob],
    learned: &Learned,
) -> Result<Vec<i64>, StoreError> {
    let position = position_of(generator.id);
    let ids = jobs.iter().map(|job| job_id(position, &job.key)).collect::<Result<Vec<i64>, _>>()?;
    let peaks: Vec<i64> =
        jobs.iter().map(|job| learned.peak_memory(&job.key, job.peak_memory_bytes)).collect();
    let queues: Vec<i64> =
        jobs.iter().map(|job| queue(generator.version, job.key.stage, job.memory_class)).collect();
    let ranks: Vec<i64> = jobs.iter().map(|job| rank_in_batch(job.key.round, job.expected_cost_ms)).collect();
    let input = |job: &NewJob| job.input.clone();
    let input_keys: Vec<Option<String>> = jobs.iter().map(|job| input(job).map(|a| a.key)).collect();
    let checksums: Vec<Option<Vec<u8>>> =
        jobs.iter().map(|job| input(job).map(|a| a.checksum.to_vec())).collect();
    let sizes: Vec<Option<i64>> = jobs.iter().map(|job| job.input.as_ref().map(size)).collect();
    let rows = sqlx::query!(
        // The fence: holding the generator's row until the commit also keeps the rescue duty from taking it meanwhile.
        r#"INSERT INTO jobs AS job (
               id, input_key, input_checksum, input_size_bytes, priority, deadline, start_tag,
               status, dependencies_left, queued_at, peak_memory_bytes, queue, rank_in_batch)
           SELECT n.id, n.input_key, n.checksum, n.size, g.priority, g.deadline, g.start_tag,
                  CASE WHEN n.input_key IS NULL THEN 'waiting_for_proofs' ELSE 'queued' END,
                  CASE WHEN n.input_key IS NULL THEN 1 ELSE 0 END,
                  CASE WHEN n.input_key IS NOT NULL THEN now() END, n.peak,
                  CASE WHEN g.queue < 0 THEN -1 - n.queue ELSE n.queue END, n.rank
           FROM UNNEST($3::int8[], $4::text[], $5::bytea[], $6::int8[], $7::int8[], $8::int8[], $9::int8[])
                    AS n (id, input_key, checksum, size, peak, queue, rank),
                jobs g
           WHERE g.id = $1 AND g.lease_token = $2
           FOR SHARE OF g
           ON CONFLICT (id) DO UPDATE SET
               input_key = excluded.input_key, input_checksum = excluded.input_checksum,
               input_size_bytes = excluded.input_size_bytes,
               status = 'queued', dependencies_left = 0, queued_at = now()
           WHERE job.status = 'waiting_for_proofs' AND job.input_key IS NULL
             AND excluded.input_key IS NOT NULL
           RETURNING id, xmax = 0 AND status = 'waiting_for_proofs' AS "is_new_and_waits!""#,
        generator.id,
        generator.token,
        &ids,
        &input_keys as &[Option<String>],
        &checksums as &[Option<Vec<u8>>],
        &sizes as &[Option<i64>],
        &peaks,
        &queues,
        &ranks
    )
    .fetch_all(&mut *connection)
    .await?;
    if rows.is_empty() {
        // All were there already, or the lease is gone.
        let is_held = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM jobs WHERE id = $1 AND lease_token = $2) AS "is_held!""#,
            generator.id,
            generator.token
        )
        .fetch_one(connection)
        .await?;
        if !is_held {
            return Err(StoreError::LeaseLost { job_id: generator.id });
        }
    }
    Ok(rows.into_iter().filter(|row| row.is_new_and_waits).map(|row| row.id).collect())
}

/// Tells each child who consumes its output. Updating the child's row also locks it against its completion, so the
/// count that follows sees each child either completed or linked.
async fn link_jobs(transaction: &mut Transaction<'_>, links: &[(i64, i64)]) -> Result<(), StoreError> {
    // Rows are locked in the order of their ids, here as in `complete`: two that meet wait, and do not deadlock.
    let mut links = links.to_vec();
    links.sort_unstable();
    let (children, parents): (Vec<i64>, Vec<i64>) = links.into_iter().unzip();
    sqlx::query!(
        "UPDATE jobs child SET successor_id = link.parent
         FROM UNNEST($1::int8[], $2::int8[]) AS link (child, parent)
         WHERE child.id = link.child AND child.successor_id IS NULL",
        &children,
        &parents
    )
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

/// Tells each new job what it consumes, and how much of it is missing; one that misses nothing is queued. Returns the
/// stages of those.
async fn count_dependencies(
    transaction: &mut Transaction<'_>,
    links: &[(i64, i64)],
    inserted: &[i64],
) -> Result<Vec<Stage>, StoreError> {
    let (children, parents): (Vec<i64>, Vec<i64>) = links.iter().copied().unzip();
    let queued = sqlx::query_scalar!(
        "UPDATE jobs job SET
             predecessor_ids = count.children,
             dependencies_left = count.missing,
             status = CASE WHEN count.missing = 0 THEN 'queued' ELSE 'waiting_for_proofs' END,
             queued_at = CASE WHEN count.missing = 0 THEN now() END
         FROM (SELECT link.parent, array_agg(link.child ORDER BY link.place) AS children,
                      (count(*) FILTER (WHERE child.status <> 'successful'))::int4 AS missing
               FROM UNNEST($1::int8[], $2::int8[]) WITH ORDINALITY AS link (child, parent, place)
               JOIN jobs child ON child.id = link.child
               GROUP BY link.parent) count
         WHERE job.id = count.parent AND job.id = ANY($3)
         RETURNING CASE WHEN count.missing = 0 THEN job.id END",
        &children,
        &parents,
        inserted
    )
    .fetch_all(&mut **transaction)
    .await?;
    queued.into_iter().flatten().map(|id| Ok(job_key(id)?.stage)).collect()
}
