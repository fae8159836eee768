//! The processes that lease jobs.

use crate::metrics::QueryTimer;
use crate::{JobStore, StoreError};
use proving_model::ProtocolVersion;
use serde::Serialize;
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
}

/// A worker as operators see it.
#[derive(Debug, Clone, Serialize)]
pub struct WorkerReport {
    /// Its id.
    pub id: Uuid,
    /// Component name.
    pub component: String,
    /// Host name.
    pub host: String,
    /// Process id on the host.
    pub pid: i32,
    /// Jobs that it holds now.
    pub jobs_held: i64,
    /// Seconds since its last heartbeat.
    pub heartbeat_age_seconds: f64,
    /// Whether it stopped in order.
    pub is_stopped: bool,
}

impl JobStore {
    /// Registers this process; the id goes into every lease.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn register_worker(&self, worker: &NewWorker) -> Result<Uuid, StoreError> {
        let _timer = QueryTimer::start("register_worker");
        let id = Uuid::new_v4();
        sqlx::query!(
            "INSERT INTO workers (id, component, host, pid, capacity, protocol_minor, protocol_patch)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
            id,
            worker.component,
            worker.host,
            i32::try_from(std::process::id()).unwrap_or(i32::MAX),
            worker.capacity.max(1),
            i32::from(worker.version.minor),
            i32::from(worker.version.patch)
        )
        .execute(&self.pool)
        .await
        .map_err(StoreError::database("register_worker"))?;
        Ok(id)
    }

    /// Notes that a worker stopped in order.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn stop_worker(&self, id: Uuid) -> Result<(), StoreError> {
        let _timer = QueryTimer::start("stop_worker");
        sqlx::query!("UPDATE workers SET stopped_at = now() WHERE id = $1", id)
            .execute(&self.pool)
            .await
            .map_err(StoreError::database("stop_worker"))?;
        Ok(())
    }

    /// The workers of the last day, newest first.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn workers(&self) -> Result<Vec<WorkerReport>, StoreError> {
        let _timer = QueryTimer::start("workers");
        sqlx::query_as!(
            WorkerReport,
            r#"SELECT id, component, host, pid,
                      (SELECT count(*) FROM prover_jobs j WHERE j.worker_id = w.id) AS "jobs_held!",
                      EXTRACT(EPOCH FROM now() - heartbeat_at)::float8 AS "heartbeat_age_seconds!",
                      stopped_at IS NOT NULL AS "is_stopped!"
               FROM workers w
               WHERE heartbeat_at > now() - interval '1 day'
               ORDER BY started_at DESC
               LIMIT 1000"#
        )
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::database("workers"))
    }
}
