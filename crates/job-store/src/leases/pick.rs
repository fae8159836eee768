//! Picking: the one statement that hands out leases.

use crate::batches::progress::begin_batches;
use crate::database::store::JobStore;
use crate::database::text::stored;
use crate::database::unreadable::skipped;
use crate::leases::picking_order::query_in_picking_order;
use crate::model::error::StoreError;
use crate::model::ids::{GENERATOR, job_key, lane, memory_class, position_of, queue};
use crate::model::rows::{BatchIds, LeasedJob, Predecessor, artifact, batch_of};
use proving_model::{AggregationRound, BatchId, MemoryClass, ProtocolVersion, Stage};
use sqlx::PgConnection;
use uuid::Uuid;

/// Which jobs a runner takes.
#[derive(Debug, Clone)]
pub struct PickFilter {
    /// The stage.
    pub stage: Stage,
    /// The rounds.
    pub rounds: Vec<AggregationRound>,
    /// The memory classes, at most two, in order of preference: a heavy runner names heavy first, a light one light alone.
    pub memory_classes: Vec<MemoryClass>,
    /// The version.
    pub version: ProtocolVersion,
}

/// What a pick may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// What is free now, in bytes: a job that expects more is not leased, and nothing behind it in the queue either.
    pub free: i64,
    /// What there is in all, in bytes: a job that expects more is for others.
    pub total: i64,
    /// Whether it may be a suspect ([`LeasedJob::is_suspect`]).
    pub suspects: bool,
}

/// So many deaths of its workers make a job a suspect.
pub(crate) const SUSPECT_DEATHS: i32 = 2;

impl Room {
    /// No limit.
    pub const UNLIMITED: Self = Self { free: i64::MAX, total: i64::MAX, suspects: true };

    /// Only jobs with fewer deaths are taken.
    fn deaths_limit(self) -> i32 {
        if self.suspects { i32::MAX } else { SUSPECT_DEATHS }
    }
}

/// What a lease returns of a job's row.
struct LeasedRow {
    id: i64,
    attempt: i32,
    input_key: Option<String>,
    input_checksum: Option<Vec<u8>>,
    input_size_bytes: Option<i64>,
    queue: i64,
    priority: i32,
    deadline: f64,
    start_tag: i64,
    rank_in_batch: i64,
    peak_memory_bytes: i64,
    waited_seconds: f64,
    worker_deaths: i32,
}

impl LeasedRow {
    /// The job, as far as the row makes sense.
    fn read(
        self,
        batches: &BatchIds,
        version: ProtocolVersion,
        worker: Uuid,
        token: Uuid,
    ) -> Result<LeasedJob, StoreError> {
        Ok(LeasedJob {
            id: self.id,
            batch: batch_of(batches, self.id)?,
            key: job_key(self.id)?,
            memory_class: memory_class(self.queue),
            version,
            worker,
            token,
            attempt: self.attempt,
            peak_memory_bytes: self.peak_memory_bytes,
            waited_seconds: self.waited_seconds,
            is_suspect: self.worker_deaths >= SUSPECT_DEATHS,
            input: artifact(self.input_key, self.input_checksum, self.input_size_bytes)?,
        })
    }
}

impl JobStore {
    /// Leases up to `want` jobs to this worker. Order: priority, deadline, batch, the round nearest to the final proof, the
    /// longest circuit; a preferred memory class goes before all that. A worker whose own lease has expired, or that is to drain, gets
    /// none, and nobody is given what is paused.
    ///
    /// The claim does not wait for the disk: one that a crash of the server forgets is picked again, and the token of the
    /// first fits no row then.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn pick(
        &self,
        filter: &PickFilter,
        want: usize,
        worker: Uuid,
    ) -> Result<Vec<LeasedJob>, StoreError> {
        self.pick_into(filter, want, worker, Room::UNLIMITED).await
    }

    /// As [`JobStore::pick`], for a worker with a memory budget. Where the next job does not fit what is free, nothing is leased:
    /// what is behind it must not overtake it for ever. [`JobStore::next_peak_memory`] says what it waits for.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn pick_into(
        &self,
        filter: &PickFilter,
        want: usize,
        worker: Uuid,
        room: Room,
    ) -> Result<Vec<LeasedJob>, StoreError> {
        loop {
            let (jobs, unreadable) = self.pick_readable(filter, want, worker, room).await?;
            // Behind rows that make no sense there may be others.
            if !jobs.is_empty() || unreadable == 0 {
                return Ok(jobs);
            }
        }
    }

    /// Leases jobs and gives up those whose rows make no sense; returns the others, and how many were given up.
    async fn pick_readable(
        &self,
        filter: &PickFilter,
        want: usize,
        worker: Uuid,
        room: Room,
    ) -> Result<(Vec<LeasedJob>, usize), StoreError> {
        // Fresh and random, one for all jobs of this pick: a lease is named by its job and its token.
        let token = Uuid::new_v4();
        let rows = self.lease_rows(filter, want, worker, token, room).await?;
        let mut positions: Vec<i64> = rows.iter().map(|row| position_of(row.id)).collect();
        positions.dedup();
        // Where this fails the leases are nobody's, and the heartbeat hands them back.
        let batches = self.known_batch_ids(&positions).await?;
        let mut unreadable = Vec::new();
        let mut jobs = Vec::with_capacity(rows.len());
        for row in rows {
            let id = row.id;
            match row.read(&batches, filter.version, worker, token) {
                Ok(job) => jobs.push(job),
                Err(e) => unreadable.push((id, e)),
            }
        }
        for (id, reason) in &unreadable {
            skipped("pick", reason);
            self.fail_unreadable(*id, token, reason).await?;
        }
        // A batch's first job is that of its witness generator.
        let begun: Vec<BatchId> =
            jobs.iter().filter(|job| job.key == GENERATOR).map(|job| job.batch).collect();
        if !begun.is_empty()
            && let Err(e) = self.begin_batches(&begun).await
        {
            tracing::warn!(
                "the batches of leased jobs are not marked as begun, their generators' ends will do that: {e}"
            );
        }
        Ok((jobs, unreadable.len()))
    }

    /// The statement that leases; the rows come in the order in which they are to be worked on.
    async fn lease_rows(
        &self,
        filter: &PickFilter,
        want: usize,
        worker: Uuid,
        token: Uuid,
        room: Room,
    ) -> Result<Vec<LeasedRow>, StoreError> {
        let lanes: Vec<i64> = filter.rounds.iter().map(|round| lane(filter.stage, *round).into()).collect();
        let mut queues =
            filter.memory_classes.iter().map(|class| queue(filter.version, filter.stage, *class));
        let (first, second) = (queues.next(), queues.next());
        let leased = self.relaxed.statement("pick", async |connection: &mut PgConnection| {
            query_in_picking_order!(
                query_as<LeasedRow>,
                // `= ANY(ARRAY(…))` and not a join: a join flips to a hash join and a sequential scan at some sizes. The second
                // branch runs only as far as the first leaves room.
                r#"UPDATE jobs SET
                           status = 'in_progress', worker_id = $1, lease_token = $6,
                           attempts = least(attempts + 1, 1000000000), started_at = now(), progress = 0
                       WHERE id = ANY(ARRAY(
                           SELECT id FROM (
                               SELECT id FROM jobs
                               WHERE status = 'queued' AND queue = $2 AND (id >> 33) & 15 = ANY($4)
                                 AND not_before <= now() AND peak_memory_bytes <= $7 AND worker_deaths < $9
                               "#,
                r#"
                               LIMIT $5 FOR UPDATE SKIP LOCKED) AS preferred
                           UNION ALL
                           SELECT id FROM (
                               SELECT id FROM jobs
                               WHERE status = 'queued' AND queue = $3 AND (id >> 33) & 15 = ANY($4)
                                 AND not_before <= now() AND peak_memory_bytes <= $7 AND worker_deaths < $9
                               "#,
                r#"
                               LIMIT $5 FOR UPDATE SKIP LOCKED) AS others
                           LIMIT $5))
                         AND peak_memory_bytes <= $8
                         AND (SELECT expires_at > now() AND drain_asked_at IS NULL AND NOT EXISTS (
                                  SELECT FROM paused_stages WHERE stage = $10)
                              FROM workers WHERE id = $1)
                       RETURNING id, attempts AS attempt,
                           input_key, input_checksum, input_size_bytes, queue, priority,
                           date_part('epoch', deadline) AS "deadline!", start_tag, rank_in_batch,
                           peak_memory_bytes, worker_deaths,
                           coalesce(date_part('epoch', now() - queued_at), 0) AS "waited_seconds!""#;
                worker,
                first,
                second,
                &lanes,
                i64::try_from(want).unwrap_or(i64::MAX),
                token,
                room.total,
                room.free,
                room.deaths_limit(),
                filter.stage.as_str() as _
            )
            .fetch_all(connection)
            .await
        });
        let mut rows = leased.await?;
        // RETURNING promises no order.
        rows.sort_by(|a, b| {
            (Some(a.queue) != first)
                .cmp(&(Some(b.queue) != first))
                .then(b.priority.cmp(&a.priority))
                .then(a.deadline.total_cmp(&b.deadline))
                .then((a.start_tag, a.rank_in_batch, a.id).cmp(&(b.start_tag, b.rank_in_batch, b.id)))
        });
        Ok(rows)
    }

    /// Fails a leased job whose row makes no sense. Handed back, it would be picked again and again.
    async fn fail_unreadable(&self, id: i64, token: Uuid, reason: &StoreError) -> Result<(), StoreError> {
        let text = format!("the job's row cannot be read: {reason}");
        let text = stored(&text);
        self.hot
            .statement("pick: unreadable", async |connection: &mut PgConnection| {
                sqlx::query!(
                    "UPDATE jobs SET status = 'failed', error = $3, finished_at = now(),
                         worker_id = NULL, lease_token = NULL
                     WHERE id = $1 AND lease_token = $2",
                    id,
                    token,
                    &*text
                )
                .execute(connection)
                .await
            })
            .await?;
        Ok(())
    }

    async fn begin_batches(&self, batches: &[BatchId]) -> Result<(), StoreError> {
        self.relaxed
            .run("pick: begin batches", async |connection: &mut PgConnection| {
                begin_batches(connection, batches).await
            })
            .await
    }

    /// The expected peak of the job that a pick would lease next, in bytes; `None` when there is none.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn next_peak_memory(&self, filter: &PickFilter, room: Room) -> Result<Option<i64>, StoreError> {
        let lanes: Vec<i64> = filter.rounds.iter().map(|round| lane(filter.stage, *round).into()).collect();
        for class in &filter.memory_classes {
            let next = self
                .relaxed
                .statement("next_peak_memory", async |connection: &mut PgConnection| {
                    query_in_picking_order!(
                        query_scalar,
                        r#"SELECT peak_memory_bytes AS "peak!" FROM jobs
                           WHERE status = 'queued' AND queue = $1 AND (id >> 33) & 15 = ANY($2)
                             AND not_before <= now() AND peak_memory_bytes <= $3 AND worker_deaths < $4
                             AND NOT EXISTS (SELECT FROM paused_stages WHERE stage = $5)
                           "#,
                        r#"
                           LIMIT 1"#;
                        queue(filter.version, filter.stage, *class),
                        &lanes,
                        room.total,
                        room.deaths_limit(),
                        filter.stage.as_str() as _
                    )
                    .fetch_optional(connection)
                    .await
                })
                .await?;
            if next.is_some() {
                return Ok(next);
            }
        }
        Ok(None)
    }

    /// The outputs that a job consumes, in order. Fewer than the tree says means that the store was tampered with.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn predecessors(&self, job: &LeasedJob) -> Result<Vec<Predecessor>, StoreError> {
        let rows = self
            .hot
            .statement("predecessors", async |connection: &mut PgConnection| {
                sqlx::query!(
                    r#"SELECT j.id, j.output_key, j.output_checksum, j.output_size_bytes
                       FROM UNNEST((SELECT predecessor_ids FROM jobs WHERE id = $1)::int8[])
                                WITH ORDINALITY AS p (id, place)
                       JOIN jobs j ON j.id = p.id
                       WHERE j.status = 'successful'
                       ORDER BY p.place"#,
                    job.id
                )
                .fetch_all(connection)
                .await
            })
            .await?;
        rows.into_iter()
            .map(|row| {
                let key = job_key(row.id)?;
                let output = artifact(row.output_key, row.output_checksum, row.output_size_bytes)?
                    .ok_or_else(|| StoreError::Schema(format!("the successful job {key} names no output")))?;
                Ok(Predecessor { key, output })
            })
            .collect()
    }
}
