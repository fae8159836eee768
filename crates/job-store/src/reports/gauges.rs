//! The system's vital signs, in a few numbers: what the job monitor reports.

use crate::batches::find::find_batch;
use crate::database::store::JobStore;
use crate::database::unreadable::readable;
use crate::model::error::StoreError;
use crate::model::ids::POSITION_MAX;
use crate::model::rows::batch_id;
use crate::reports::time_left::{circuit_progress, estimate_seconds};
use proving_model::BatchId;
use sqlx::PgConnection;

/// Batches in progress whose end is estimated.
const ESTIMATED_MAX: i64 = 10;

/// A table's size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSize {
    /// Its name.
    pub name: String,
    /// Bytes, with its indexes.
    pub bytes: i64,
    /// Rows that are dead and not cleaned away yet, as the server estimates.
    pub dead_rows: i64,
}

/// The system's vital signs.
#[derive(Debug, Clone, PartialEq)]
pub struct Vitals {
    /// Batches that nobody has started.
    pub batches_queued: i64,
    /// Batches that are being proven.
    pub batches_in_progress: i64,
    /// Batches that failed, and were not requeued or cancelled.
    pub batches_failed: i64,
    /// Age of the oldest batch that is queued or in progress, in seconds.
    pub oldest_batch_seconds: Option<f64>,
    /// Batches whose deadline has passed and that are not proven.
    pub late_batches: i64,
    /// Batches that were proven in the last hour.
    pub batches_last_hour: i64,
    /// Circuits that were proven in the last hour.
    pub proofs_last_hour: i64,
    /// The longest estimate of the time left to a batch in progress, in seconds.
    pub time_left_seconds: Option<f64>,
    /// The share of the positions for batches that is used up, from 0 to 1; a database that has used all takes no more batches.
    pub positions_used: f64,
    /// Bytes of the database.
    pub database_bytes: i64,
    /// Its tables, the largest first.
    pub tables: Vec<TableSize>,
}

impl JobStore {
    /// The system's vital signs.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn vitals(&self) -> Result<Vitals, StoreError> {
        let row = self
            .reports
            .statement("vitals", async |connection: &mut PgConnection| {
                sqlx::query!(
                    r#"SELECT count(*) FILTER (WHERE status = 'queued') AS "queued!",
                              count(*) FILTER (WHERE status = 'in_progress') AS "in_progress!",
                              count(*) FILTER (WHERE status = 'failed') AS "failed!",
                              EXTRACT(EPOCH FROM now() - min(created_at) FILTER (
                                  WHERE status <> 'failed'))::float8 AS oldest_seconds,
                              count(*) FILTER (WHERE deadline < now()) AS "late!",
                              (SELECT count(*) FROM batches
                               WHERE finished_at > now() - interval '1 hour'
                                 AND status = 'successful') AS "batches_last_hour!",
                              (SELECT count(*) FROM all_prover_jobs
                               WHERE finished_at > now() - interval '1 hour' AND status = 'successful'
                                 AND stage = 'circuit_proof') AS "proofs_last_hour!",
                              (SELECT last_value FROM batches_position_seq) AS "last_position!",
                              pg_database_size(current_database()) AS "database_bytes!"
                       FROM batches WHERE status IN ('queued', 'in_progress', 'failed')"#
                )
                .fetch_one(connection)
                .await
            })
            .await?;
        let tables = self
            .reports
            .statement("vitals", async |connection: &mut PgConnection| {
                sqlx::query_as!(
                    TableSize,
                    r#"SELECT relname::text AS "name!", pg_total_relation_size(relid) AS "bytes!",
                              n_dead_tup AS "dead_rows!"
                       FROM pg_stat_user_tables WHERE schemaname = current_schema() AND relname NOT LIKE '\_%'
                       ORDER BY 2 DESC"#
                )
                .fetch_all(connection)
                .await
            })
            .await?;
        let mut time_left_seconds: Option<f64> = None;
        for id in self.batches_in_progress().await? {
            let left = self.time_left(id).await?;
            time_left_seconds = [time_left_seconds, left].into_iter().flatten().reduce(f64::max);
        }
        Ok(Vitals {
            batches_queued: row.queued,
            batches_in_progress: row.in_progress,
            batches_failed: row.failed,
            oldest_batch_seconds: row.oldest_seconds,
            late_batches: row.late,
            batches_last_hour: row.batches_last_hour,
            proofs_last_hour: row.proofs_last_hour,
            time_left_seconds,
            positions_used: row.last_position as f64 / POSITION_MAX as f64,
            database_bytes: row.database_bytes,
            tables,
        })
    }

    /// An estimate of the time to a batch's final proof, in seconds; `None` where there is nothing to go by, or no such batch.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn time_left(&self, id: BatchId) -> Result<Option<f64>, StoreError> {
        let progress =
            self.reports.run("time_left", async |connection: &mut PgConnection| {
                match find_batch(connection, id).await? {
                    Some(batch) => circuit_progress(connection, &batch).await.map(Some),
                    None => Ok(None),
                }
            });
        Ok(progress.await?.and_then(|circuits| estimate_seconds(&circuits)))
    }

    /// The batches that are being proven, the oldest ten.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn batches_in_progress(&self) -> Result<Vec<BatchId>, StoreError> {
        let rows = self
            .reports
            .statement("batches_in_progress", async |connection: &mut PgConnection| {
                sqlx::query!(
                    "SELECT chain_id, number FROM batches WHERE status = 'in_progress'
                     ORDER BY position LIMIT $1",
                    ESTIMATED_MAX
                )
                .fetch_all(connection)
                .await
            })
            .await?;
        Ok(readable("batches_in_progress", rows, |row| batch_id(row.chain_id, row.number)))
    }
}
