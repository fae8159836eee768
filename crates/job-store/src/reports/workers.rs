//! Workers as operators see them.

use crate::database::store::JobStore;
use crate::model::error::StoreError;
use schemars::JsonSchema;
use serde::Serialize;
use sqlx::PgConnection;
use uuid::Uuid;

/// A worker as operators see it.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct WorkerReport {
    /// Its id.
    pub id: Uuid,
    /// Component name.
    pub component: String,
    /// Host name.
    pub host: String,
    /// Process id on the host.
    pub pid: i32,
    /// Protocol version, minor part.
    pub protocol_minor: i32,
    /// Protocol version, patch part.
    pub protocol_patch: i32,
    /// Jobs that it holds now.
    pub jobs_held: i64,
    /// Jobs that it works on at the same time.
    pub capacity: i32,
    /// What its jobs may take of memory, in bytes; `None` is no limit.
    pub memory_budget_bytes: Option<i64>,
    /// Seconds since it began.
    pub age_seconds: f64,
    /// Seconds since its last heartbeat.
    pub heartbeat_age_seconds: f64,
    /// `live`; `draining`; `expired`, when its lease is over and it did not stop in order; `stopped`.
    pub state: String,
}

impl JobStore {
    /// The workers that did not stop in order, newest first, a thousand at most; with those that did, when asked for.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn workers(&self, with_stopped: bool) -> Result<Vec<WorkerReport>, StoreError> {
        self.reports
            .statement("workers", async |connection: &mut PgConnection| {
                sqlx::query_as!(
                    WorkerReport,
                    r#"SELECT id, component, host, pid,
                              protocol_minor, protocol_patch, capacity,
                              memory_budget_bytes::int8 AS memory_budget_bytes,
                              (SELECT count(*) FROM jobs j
                               WHERE j.worker_id = w.id AND j.status = 'in_progress') AS "jobs_held!",
                              EXTRACT(EPOCH FROM now() - started_at)::float8 AS "age_seconds!",
                              EXTRACT(EPOCH FROM now() - heartbeat_at)::float8 AS "heartbeat_age_seconds!",
                              CASE WHEN stopped_at IS NOT NULL THEN 'stopped'
                                   WHEN expires_at <= now() THEN 'expired'
                                   WHEN drain_asked_at IS NOT NULL THEN 'draining' ELSE 'live' END AS "state!"
                       FROM workers w
                       WHERE $1 OR (stopped_at IS NULL AND heartbeat_at > now() - interval '1 day')
                       ORDER BY stopped_at IS NULL DESC, started_at DESC
                       LIMIT 1000"#,
                    with_stopped
                )
                .fetch_all(connection)
                .await
            })
            .await
    }
}
