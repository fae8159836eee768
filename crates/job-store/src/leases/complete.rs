//! Completing jobs, many to a transaction.
//!
//! What completes while one transaction is on its way to the disk shares the next: under load a commit's wait is divided among
//! hundreds of jobs, and a single one waits for nobody. Each completion is still fenced by its own token, and each caller
//! hears of its own.

use crate::batches::chains::release_next;
use crate::batches::progress::{begin_batches, finish_batch};
use crate::database::connections::{Connections, Transaction};
use crate::database::metrics::STORE_METRICS;
use crate::database::notify::Waker;
use crate::database::store::JobStore;
use crate::leases::put_back::run_again;
use crate::model::completion::{Attempt, Completion};
use crate::model::error::StoreError;
use crate::model::ids::{GENERATOR, ids_of_basic_circuits, job_key, position_of};
use crate::model::rows::{LeasedJob, size};
use proving_model::{ArtifactRef, JobStatus, Stage};
use sqlx::{Connection, PgConnection};
use std::collections::{BTreeSet, HashMap};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use uuid::Uuid;

/// Completions of one transaction at most: beyond this the share of the commit's wait in each is negligible.
const COMMIT_MAX: usize = 512;

/// Completions that may wait; more wait with their callers.
const INBOX_CAPACITY: usize = 2 * COMMIT_MAX;

/// Transactions at once: while one waits for the disk, the server works on the other.
const COMMITS_AT_ONCE: usize = 2;

/// Starts the task that commits; it ends when the last sender is dropped.
pub(crate) fn start_committer(hot: Connections, waker: Waker) -> mpsc::Sender<Completion> {
    let (inbox, mut completions) = mpsc::channel(INBOX_CAPACITY);
    tokio::spawn(async move {
        let mut commits = JoinSet::new();
        let mut together = Vec::new();
        while completions.recv_many(&mut together, COMMIT_MAX).await > 0 {
            let all = std::mem::take(&mut together);
            STORE_METRICS.completions_together.observe(all.len());
            let (hot, waker) = (hot.clone(), waker.clone());
            commits.spawn(async move { commit(&hot, &waker, all).await });
            while commits.len() >= COMMITS_AT_ONCE {
                commits.join_next().await;
            }
        }
    });
    inbox
}

impl JobStore {
    /// Completes a job: it becomes successful with this output, its successor misses one less, the batch moves on.
    /// Returns when that is on the disk. Asked again about the same attempt, it answers the same: a caller that
    /// lost the answer may ask once more.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`]; nothing is changed then.
    pub async fn complete(&self, job: &LeasedJob, output: Option<&ArtifactRef>) -> Result<(), StoreError> {
        self.complete_measured(job, output, None).await
    }

    /// As [`JobStore::complete`], with what the attempt was seen to take of memory.
    ///
    /// # Errors
    /// As [`JobStore::complete`].
    pub async fn complete_measured(
        &self,
        job: &LeasedJob,
        output: Option<&ArtifactRef>,
        peak_memory_bytes: Option<u64>,
    ) -> Result<(), StoreError> {
        if job.key.stage == Stage::Compression && output.is_none() {
            return Err(StoreError::Invalid("a compression completes with a final proof".to_owned()));
        }
        let (answer, answered) = oneshot::channel();
        let completion = Completion {
            attempt: (job.id, job.token),
            batch: job.batch,
            key: job.key,
            output: output.cloned(),
            peak_memory_bytes,
            answer,
        };
        let closed = || StoreError::database("complete")(sqlx::Error::PoolClosed);
        self.completions.send(completion).await.map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }
}

/// Commits them together and answers each.
async fn commit(hot: &Connections, waker: &Waker, mut all: Vec<Completion>) {
    // Rows are locked in the order of their ids, here as in `extend_batch`: two that meet wait, and do not deadlock.
    all.sort_unstable_by_key(|completion| completion.attempt);
    let together =
        hot.run("complete", async |connection: &mut PgConnection| in_one_transaction(connection, &all).await);
    match together.await {
        Ok(Committed { done, woken }) => {
            woken.into_iter().for_each(|stage| waker.wake(stage));
            for Completion { attempt, answer, .. } in all {
                let is_done = done.as_ref().is_none_or(|done| done.contains_key(&attempt));
                let lost = StoreError::LeaseLost { job_id: attempt.0 };
                let _ = answer.send(if is_done { Ok(()) } else { Err(lost) });
            }
        }
        // A row of one of them is at fault, and the others must not suffer for it.
        Err(error) if !error.is_transient() && all.len() > 1 => {
            for completion in all {
                Box::pin(commit(hot, waker, vec![completion])).await;
            }
        }
        Err(error) => {
            for completion in all {
                let _ = completion.answer.send(Err(error.clone()));
            }
        }
    }
}

struct Committed {
    /// Those that are completed, and whether by this transaction; `None` is all of them, by this one.
    done: Option<HashMap<Attempt, bool>>,
    woken: BTreeSet<Stage>,
}

async fn in_one_transaction(
    connection: &mut PgConnection,
    all: &[Completion],
) -> Result<Committed, StoreError> {
    let mut transaction = connection.begin().await?;
    let Marked { jobs, successors } = mark_successful(&mut transaction, all).await?;
    let done = if jobs == all.len() { None } else { Some(look_for(&mut transaction, all).await?) };
    let mut woken = unlock(&mut transaction, &successors).await?;
    let is_fresh = |attempt| done.as_ref().is_none_or(|done| done.get(&attempt) == Some(&true));
    for Completion { attempt, batch, key, output, .. } in all.iter().filter(|c| is_fresh(c.attempt)) {
        if let (Stage::Compression, Some(output)) = (key.stage, output) {
            finish_batch(&mut transaction, *batch, output).await?;
            if release_next(&mut transaction, batch.chain_id).await? {
                woken.insert(Stage::WitnessGeneration);
            }
        }
        if *key == GENERATOR {
            // Its pick says so as well, and may have been cut short.
            begin_batches(&mut *transaction, &[*batch]).await?;
            woken.extend(requeue_if_circuits_are_missing(&mut transaction, attempt.0).await?);
        }
    }
    transaction.commit().await?;
    Ok(Committed { done, woken })
}

struct Marked {
    /// How many leases held.
    jobs: usize,
    /// Whom they were for, and how many of them, in the order of the ids.
    successors: Vec<(i64, i32)>,
}

/// Marks those whose lease holds. Their rows keep what is known of the attempt.
async fn mark_successful(
    transaction: &mut Transaction<'_>,
    all: &[Completion],
) -> Result<Marked, StoreError> {
    let (ids, tokens): (Vec<i64>, Vec<Uuid>) = all.iter().map(|completion| completion.attempt).unzip();
    let outputs = || all.iter().map(|completion| completion.output.as_ref());
    let keys: Vec<Option<&str>> = outputs().map(|output| output.map(|o| o.key.as_str())).collect();
    let checksums: Vec<Option<&[u8]>> =
        outputs().map(|output| output.map(|o| o.checksum.as_slice())).collect();
    let sizes: Vec<Option<i64>> = outputs().map(|output| output.map(size)).collect();
    let peaks: Vec<Option<i64>> =
        all.iter().map(|c| c.peak_memory_bytes.map(|peak| i64::try_from(peak).unwrap_or(i64::MAX))).collect();
    let rows = sqlx::query!(
        // A row with the token is in progress, by a CHECK. Said here too, it would offer the planner the small index of leased
        // jobs, which it then scans whole for each row.
        r#"WITH done AS (
               UPDATE jobs j SET
                   status = 'successful', finished_at = now(), progress = 1, error = NULL,
                   completed_by = worker_id, completed_token = lease_token, measured_memory_bytes = c.peak,
                   worker_id = NULL, lease_token = NULL,
                   output_key = c.key, output_checksum = c.checksum, output_size_bytes = c.size
               FROM UNNEST($1::int8[], $2::uuid[], $3::text[], $4::bytea[], $5::int8[], $6::int8[])
                        AS c (id, token, key, checksum, size, peak)
               WHERE j.id = c.id AND j.lease_token = c.token
               RETURNING j.successor_id
           )
           SELECT successor_id, count(*)::int4 AS "count!" FROM done
           GROUP BY successor_id ORDER BY successor_id"#,
        &ids,
        &tokens,
        &keys as &[Option<&str>],
        &checksums as &[Option<&[u8]>],
        &sizes as &[Option<i64>],
        &peaks as &[Option<i64>]
    )
    .fetch_all(&mut **transaction)
    .await?;
    Ok(Marked {
        jobs: rows.iter().map(|row| usize::try_from(row.count).unwrap_or(0)).sum(),
        successors: rows.into_iter().filter_map(|row| Some((row.successor_id?, row.count))).collect(),
    })
}

/// So many proofs less for each to wait for. Returns the stages of those that miss nothing now.
///
/// A statement of its own, after the rows of the completed were locked: a successor that another transaction inserted
/// meanwhile is not in the snapshot of the statement that waited for it.
async fn unlock(
    transaction: &mut Transaction<'_>,
    successors: &[(i64, i32)],
) -> Result<BTreeSet<Stage>, StoreError> {
    if successors.is_empty() {
        return Ok(BTreeSet::new());
    }
    let (successors, counts): (Vec<i64>, Vec<i32>) = successors.iter().copied().unzip();
    let queued = sqlx::query_scalar!(
        r#"UPDATE jobs s SET
               dependencies_left = greatest(dependencies_left - done.count, 0),
               status = CASE WHEN status = 'waiting_for_proofs' AND dependencies_left <= done.count
                             THEN 'queued' ELSE status END,
               queued_at = CASE WHEN dependencies_left <= done.count THEN now() END
           FROM UNNEST($1::int8[], $2::int4[]) AS done (id, count)
           WHERE s.id = done.id
           RETURNING CASE WHEN status = $3 THEN s.id END"#,
        &successors,
        &counts,
        JobStatus::Queued.as_str()
    )
    .fetch_all(&mut **transaction)
    .await?;
    queued.into_iter().flatten().map(|id| Ok(job_key(id)?.stage)).collect()
}

/// A circuit whose artifact was lost while its generator still ran, or after it handed the circuit out for good:
/// the generator runs again at once.
async fn requeue_if_circuits_are_missing(
    transaction: &mut Transaction<'_>,
    generator_id: i64,
) -> Result<Option<Stage>, StoreError> {
    let (first, end) = ids_of_basic_circuits(position_of(generator_id))?;
    let is_missing = sqlx::query_scalar!(
        r#"SELECT EXISTS (
               SELECT FROM jobs
               WHERE id >= $1 AND id < $2 AND status = 'waiting_for_proofs' AND input_key IS NULL) AS "is_missing!""#,
        first,
        end
    )
    .fetch_one(&mut **transaction)
    .await?;
    let runs_again = is_missing && run_again(transaction, &[generator_id], 0, None).await? == 1;
    Ok(runs_again.then_some(Stage::WitnessGeneration))
}

/// Which of these attempts are completed, and whether by this transaction: not all leases held. An attempt that was completed before
/// lost its answer, and asks again; its job may have been queued again since.
async fn look_for(
    transaction: &mut Transaction<'_>,
    all: &[Completion],
) -> Result<HashMap<Attempt, bool>, StoreError> {
    let (ids, tokens): (Vec<i64>, Vec<Uuid>) = all.iter().map(|completion| completion.attempt).unzip();
    let rows = sqlx::query!(
        r#"SELECT a.job_id AS "id!", a.lease_token AS "token!",
                  EXISTS (SELECT FROM jobs j WHERE j.id = a.job_id AND j.completed_token = a.lease_token
                          AND j.xmin = pg_current_xact_id()::xid) AS "is_fresh!"
           FROM UNNEST($1::int8[], $2::uuid[]) AS asked (id, token)
           JOIN attempts a ON a.job_id = asked.id AND a.lease_token = asked.token
           WHERE a.outcome = 'successful'"#,
        &ids,
        &tokens
    )
    .fetch_all(&mut **transaction)
    .await?;
    Ok(rows.into_iter().map(|row| ((row.id, row.token), row.is_fresh)).collect())
}
