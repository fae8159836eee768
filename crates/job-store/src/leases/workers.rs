//! The processes that lease jobs.

use crate::database::store::JobStore;
use crate::database::text::stored_name;
use crate::model::error::StoreError;
use proving_model::ProtocolVersion;
use sqlx::PgConnection;
use std::time::Duration;
use uuid::Uuid;

/// A process that is about to lease jobs.
#[derive(Debug, Clone)]
pub struct NewWorker {
    /// Component name.
    pub component: String,
    /// Host name.
    pub host: String,
    /// Jobs at the same time.
    pub capacity: i32,
    /// The version whose jobs it takes.
    pub version: ProtocolVersion,
    /// What its jobs may take of memory at the same time, in bytes; `None` is no limit.
    pub memory_budget_bytes: Option<u64>,
}

impl JobStore {
    /// Registers a worker, whose leases hold for so long without a heartbeat. Components let
    /// [`LeaseKeeper::start`](crate::leases::keeper::LeaseKeeper::start) do so, which also sends the heartbeats.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn register_worker(&self, worker: &NewWorker, lease: Duration) -> Result<Uuid, StoreError> {
        let registered = self.hot.run("register_worker", async |connection: &mut PgConnection| {
            let id = Uuid::new_v4();
            register(connection, id, worker, lease).await?;
            Ok(id)
        });
        registered.await
    }

    /// Notes that a worker stopped in order. One that left leases behind stays on the books until they are rescued.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn stop_worker(&self, id: Uuid) -> Result<(), StoreError> {
        self.hot
            .statement("stop_worker", async |connection: &mut PgConnection| {
                sqlx::query!(
                    "UPDATE workers SET expires_at = now(), stopped_at = CASE WHEN NOT EXISTS (
                         SELECT FROM jobs WHERE worker_id = $1
                           AND status = 'in_progress') THEN now() END
                     WHERE id = $1",
                    id
                )
                .execute(&mut *connection)
                .await
            })
            .await?;
        Ok(())
    }

    /// Ends the lease of a worker whose process was seen to die; [`JobStore::rescue_expired`] then puts its jobs back.
    /// Returns whether it was not known yet. A worker whose connection the server still serves is not given up.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn give_up_worker(&self, worker: Uuid) -> Result<bool, StoreError> {
        let given_up = self
            .hot
            .statement("give_up_worker", async |connection: &mut PgConnection| {
                sqlx::query!(
                    "UPDATE workers SET expires_at = now()
                     WHERE id = $1 AND stopped_at IS NULL AND expires_at > now()
                       AND NOT EXISTS (
                         SELECT FROM pg_stat_get_activity(backend_pid) a
                         WHERE backend_pid IS NOT NULL
                           AND (a.backend_start IS NULL OR a.backend_start = backend_started_at))",
                    worker
                )
                .execute(&mut *connection)
                .await
            })
            .await?;
        Ok(given_up.rows_affected() == 1)
    }

    /// Closes the books of workers that expired a while ago and hold nothing. One that comes back opens them again.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn bury_workers(&self, after: Duration) -> Result<u64, StoreError> {
        let buried = self
            .hot
            .statement("bury_workers", async |connection: &mut PgConnection| {
                sqlx::query!(
                    "UPDATE workers w SET stopped_at = now()
                     WHERE stopped_at IS NULL AND expires_at < now() - make_interval(secs => $1)
                       AND NOT EXISTS (
                         SELECT FROM jobs j WHERE j.worker_id = w.id AND j.status = 'in_progress')",
                    after.as_secs_f64()
                )
                .execute(&mut *connection)
                .await
            })
            .await?;
        Ok(buried.rows_affected())
    }
}

/// Writes a worker's row, where there is none yet; returns whether there was none.
pub(crate) async fn register(
    connection: &mut PgConnection,
    id: Uuid,
    worker: &NewWorker,
    lease: Duration,
) -> Result<bool, StoreError> {
    let written = sqlx::query!(
        "INSERT INTO workers (id, component, host, pid, capacity, protocol_minor, protocol_patch,
                              expires_at, memory_budget_bytes)
         VALUES ($9, $1, $2, $3, $4, $5, $6, now() + make_interval(secs => $7), $8)
         ON CONFLICT (id) DO NOTHING",
        &*stored_name(&worker.component),
        &*stored_name(&worker.host),
        i32::try_from(std::process::id()).unwrap_or(i32::MAX),
        worker.capacity.max(0),
        i32::from(worker.version.minor),
        i32::from(worker.version.patch),
        lease.as_secs_f64(),
        worker.memory_budget_bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
        id
    )
    .execute(connection)
    .await
    .map_err(StoreError::database("register_worker"))?;
    Ok(written.rows_affected() == 1)
}

/// Writes down which process of the server is at the other end of this connection, the worker's heartbeat's: while it is there, the
/// worker is not dead.
pub(crate) async fn show_life(connection: &mut PgConnection, id: Uuid) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE workers SET backend_pid = a.pid, backend_started_at = a.backend_start
         FROM pg_stat_get_activity(pg_backend_pid()) a WHERE id = $1",
        id
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(StoreError::database("heartbeat: sign of life"))
}
