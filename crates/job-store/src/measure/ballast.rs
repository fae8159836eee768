//! Rows by the million, for benchmarks and tests that ask whether the size of the tables matters. No product calls this.

use crate::database::store::JobStore;
use crate::model::error::StoreError;
use crate::model::ids::{job_id, queue, rank_in_batch};
use proving_model::{AggregationRound, CircuitId, JobKey, MemoryClass, ProtocolVersion, Stage};
use sqlx::PgConnection;

/// Jobs of one circuit of a ballast batch.
const JOBS_OF_A_CIRCUIT: i64 = 1_000_000;

/// Where ballast lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ballast {
    /// Circuits that may be picked.
    Queued,
    /// Circuits that were proven, each in one attempt, and archived.
    Archived,
}

impl JobStore {
    /// Adds a batch of so many light basic circuits, a million to a transaction.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn add_ballast(
        &self,
        version: ProtocolVersion,
        jobs: i64,
        ballast: Ballast,
    ) -> Result<(), StoreError> {
        let (minor, patch) = (i32::from(version.minor), i32::from(version.patch));
        let batch = self.reports.statement("add_ballast", async |connection: &mut PgConnection| {
            sqlx::query_as(
                "INSERT INTO batches (chain_id, number, status, protocol_minor, protocol_patch, input_key,
                                      input_checksum,
                                      input_size_bytes, start_tag, started_at, archived_at)
                 SELECT 4294967295, (SELECT count(*) FROM batches), 'in_progress', $1, $2, 'ballast',
                        decode(repeat('00', 32), 'hex'), 0, 
                        (SELECT coalesce(max(start_tag), 0) FROM batches) + 1, now(),
                        CASE WHEN $3 THEN now() END
                 RETURNING position, start_tag",
            )
            .bind(minor)
            .bind(patch)
            .bind(ballast == Ballast::Archived)
            .fetch_one(connection)
            .await
        });
        let (position, start_tag): (i64, i64) = batch.await?;
        let queue = queue(version, Stage::CircuitProof, MemoryClass::Light);
        let rank = rank_in_batch(AggregationRound::BasicCircuits, 0);
        let (table, status, completed) = match ballast {
            Ballast::Queued => ("jobs", "queued", "NULL"),
            Ballast::Archived => {
                ("jobs_archive", "successful", "'00000000-0000-0000-0000-000000000000'::uuid")
            }
        };
        // All parts are this module's own.
        let insert = format!(
            "INSERT INTO {table} (id, priority, deadline, start_tag, status, dependencies_left, attempts,
                 input_key, input_checksum, input_size_bytes, queued_at, queue, rank_in_batch, not_before, failures,
                 worker_deaths, timeouts, regenerations, progress, predecessor_ids, peak_memory_bytes,
                 completed_by, completed_token)
             SELECT $1 + s, 0, 'infinity', $2, '{status}', 0, 0, 'ballast', decode(repeat('00', 32), 'hex'), 1000,
                    now(), {queue}, {rank} - s % 7, now(), 0, 0, 0, 0, 0, '{{}}', 0, {completed}, {completed}
             FROM generate_series(0, $3::int8 - 1) AS s"
        );
        let mut left = jobs;
        for circuit in 1.. {
            let count = left.min(JOBS_OF_A_CIRCUIT);
            if count <= 0 {
                break;
            }
            left -= count;
            let key = JobKey {
                round: AggregationRound::BasicCircuits,
                stage: Stage::CircuitProof,
                circuit_id: CircuitId(circuit),
                depth: 0,
                sequence: 0,
            };
            let first = job_id(position, &key)?;
            self.reports
                .run("add_ballast", async |connection: &mut PgConnection| {
                    sqlx::query(sqlx::AssertSqlSafe(insert.as_str()))
                        .bind(first)
                        .bind(start_tag)
                        .bind(count)
                        .execute(&mut *connection)
                        .await?;
                    Ok(())
                })
                .await?;
        }
        Ok(())
    }

    /// Brings statistics and visibility up to date, as autovacuum would in time, and writes what is in memory to the disk.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn settle(&self) -> Result<(), StoreError> {
        self.reports
            .statement("settle", async |connection: &mut PgConnection| {
                sqlx::raw_sql("VACUUM ANALYZE jobs").execute(connection).await
            })
            .await?;
        self.reports
            .statement("settle", async |connection: &mut PgConnection| {
                sqlx::raw_sql("VACUUM ANALYZE job_attempts").execute(connection).await
            })
            .await?;
        self.reports
            .statement("settle", async |connection: &mut PgConnection| {
                sqlx::raw_sql("CHECKPOINT").execute(connection).await.map(drop)
            })
            .await
    }

    /// Bytes that the server's write-ahead log has had so far.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn write_ahead_log_bytes(&self) -> Result<i64, StoreError> {
        self.reports
            .statement("write_ahead_log_bytes", async |connection: &mut PgConnection| {
                sqlx::query_scalar("SELECT (pg_current_wal_lsn() - '0/0')::int8").fetch_one(connection).await
            })
            .await
    }

    /// Bytes of the hot table and of its indexes.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn hot_table_bytes(&self) -> Result<(i64, i64), StoreError> {
        self.reports
            .statement("hot_table_bytes", async |connection: &mut PgConnection| {
                sqlx::query_as("SELECT pg_table_size('jobs'), pg_indexes_size('jobs')")
                    .fetch_one(connection)
                    .await
            })
            .await
    }
}
