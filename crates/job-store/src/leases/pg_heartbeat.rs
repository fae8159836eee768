//! The heartbeat's connection to PostgreSQL, which is also the worker's sign of life.

use crate::database::metrics::QueryTimer;
use crate::database::notify::Waker;
use crate::database::session::Session;
use crate::leases::attempts::{self, Outcome};
use crate::leases::heartbeat::{LeaseName, Prolonged, Pulse};
use crate::leases::put_back::put_back;
use crate::leases::workers::{NewWorker, register, show_life};
use crate::model::error::StoreError;
use crate::model::ids::job_key;
use async_trait::async_trait;
use proving_model::Stage;
use sqlx::{Connection, PgConnection};
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use uuid::Uuid;

/// The pulse of a process on the database: a connection of its own, which is also its sign of life.
pub(crate) struct Connected {
    pub(crate) session: Session,
    pub(crate) connection: Option<PgConnection>,
    pub(crate) worker: Uuid,
    /// What its row says of it.
    registered: NewWorker,
    /// How often it was written anew.
    registrations: Arc<AtomicU64>,
    pub(crate) duration: Duration,
    pub(crate) waker: Waker,
}

impl Connected {
    pub(crate) async fn start(
        session: Session,
        worker: &NewWorker,
        registrations: Arc<AtomicU64>,
        duration: Duration,
        waker: Waker,
    ) -> Result<Self, StoreError> {
        let mut connection =
            session.open_when_there_is_room().await.map_err(StoreError::database("heartbeat: connect"))?;
        let id = Uuid::new_v4();
        register(&mut connection, id, worker, duration).await?;
        show_life(&mut connection, id).await?;
        let registered = worker.clone();
        Ok(Self {
            session,
            connection: Some(connection),
            worker: id,
            registered,
            registrations,
            duration,
            waker,
        })
    }

    /// The connection, out of its place: what fails, or is given up half way, takes it along.
    async fn take(&mut self) -> Result<PgConnection, StoreError> {
        if let Some(connection) = self.connection.take() {
            return Ok(connection);
        }
        let connected = self.session.open().await;
        let mut fresh = connected.map_err(StoreError::database("heartbeat: connect"))?;
        // A server that another took over from, or that was restored, may never have heard of this worker.
        if register(&mut fresh, self.worker, &self.registered, self.duration).await? {
            self.registrations.fetch_add(1, Ordering::Relaxed);
        }
        show_life(&mut fresh, self.worker).await?;
        Ok(fresh)
    }
}

#[async_trait]
impl Pulse for Connected {
    async fn prolong(&mut self) -> Result<Prolonged, StoreError> {
        let _timer = QueryTimer::start("heartbeat");
        let error = StoreError::database;
        let mut connection = self.take().await?;
        let drain_asked = sqlx::query_scalar!(
            r#"UPDATE workers SET heartbeat_at = now(), expires_at = now() + make_interval(secs => $2),
                   stopped_at = NULL
               WHERE id = $1
               RETURNING drain_asked_at IS NOT NULL AS "drain_asked!""#,
            self.worker,
            self.duration.as_secs_f64()
        )
        .fetch_optional(&mut connection)
        .await
        .map_err(error("heartbeat"))?
        // The next heartbeat opens a connection, and registers.
        .ok_or_else(|| StoreError::Schema(format!("the database no longer knows worker {}", self.worker)))?;
        let leased = sqlx::query!(
            r#"SELECT id, lease_token AS "token!" FROM jobs
               WHERE worker_id = $1 AND status = 'in_progress'"#,
            self.worker
        )
        .fetch_all(&mut connection)
        .await
        .map_err(error("heartbeat: look at the leases"))?;
        self.connection = Some(connection);
        let leases = leased.into_iter().map(|row| (row.id, row.token)).collect();
        Ok(Prolonged { leases, drain_asked })
    }

    async fn tell_progress(&mut self, progress: &[(LeaseName, f32)]) -> Result<(), StoreError> {
        let mut connection = self.take().await?;
        let (ids, tokens): (Vec<i64>, Vec<Uuid>) = progress.iter().map(|(name, _)| *name).unzip();
        let fractions: Vec<f32> = progress.iter().map(|(_, fraction)| *fraction).collect();
        sqlx::query!(
            "UPDATE jobs j SET progress = h.progress
             FROM UNNEST($1::int8[], $2::uuid[], $3::float4[]) AS h (id, token, progress)
             WHERE j.id = h.id AND j.lease_token = h.token",
            &ids,
            &tokens,
            &fractions
        )
        .execute(&mut connection)
        .await
        .map_err(StoreError::database("heartbeat: progress"))?;
        self.connection = Some(connection);
        Ok(())
    }

    async fn hand_back(&mut self, strays: &[LeaseName]) -> Result<(), StoreError> {
        let mut connection = self.take().await?;
        let (ids, tokens): (Vec<i64>, Vec<Uuid>) = strays.iter().copied().unzip();
        let error = StoreError::database;
        let mut transaction = connection.begin().await.map_err(error("heartbeat: hand back strays"))?;
        let ids = sqlx::query_scalar!(
            "SELECT j.id FROM UNNEST($1::int8[], $2::uuid[]) AS s (id, token)
             JOIN jobs j ON j.id = s.id AND j.lease_token = s.token
             -- One that is locked is being ended by a connection that nobody hears of any more.
             ORDER BY j.id FOR UPDATE OF j SKIP LOCKED",
            &ids,
            &tokens
        )
        .fetch_all(&mut *transaction)
        .await
        .map_err(error("heartbeat: hand back strays"))?;
        let reason = "the worker never heard that it had the job, or could not write its end";
        attempts::log(&mut transaction, &ids, Outcome::Released, Some(reason)).await?;
        put_back(&mut transaction, &ids, Duration::ZERO).await?;
        transaction.commit().await.map_err(error("heartbeat: hand back strays"))?;
        self.connection = Some(connection);
        tracing::warn!(jobs = ids.len(), "leases that nobody knew of were handed back");
        let stages: BTreeSet<Stage> =
            ids.into_iter().filter_map(|id| Some(job_key(id).ok()?.stage)).collect();
        stages.into_iter().for_each(|stage| self.waker.wake(stage));
        Ok(())
    }
}
