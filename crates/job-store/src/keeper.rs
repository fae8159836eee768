//! Keeping leases alive: one thread a process, with a runtime and a connection of its own, so that no load on the
//! workers' runtime starves it.

use crate::metrics::{QueryTimer, STORE_METRICS};
use crate::{DatabaseUrl, LeasedJob, StoreError};
use job_runner::Lease;
use sqlx::{ConnectOptions, PgConnection};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::{Duration, Instant},
};
use uuid::Uuid;

/// The leases of this process. Clones share them; the thread ends when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct LeaseKeeper {
    held: Arc<Mutex<HashMap<Uuid, Held>>>,
    _alive: Arc<mpsc::Sender<()>>,
    duration: Duration,
}

#[derive(Debug, Clone)]
struct Held {
    job_id: i64,
    lease: Lease,
    /// When the lease was last known to hold, by this process's clock; only its own passage of time counts.
    confirmed: Instant,
}

impl LeaseKeeper {
    /// Starts the thread: every `interval` it prolongs all leases by `duration`.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] when the interval is not well below the duration, or no thread can be started.
    pub fn start(
        url: &DatabaseUrl,
        worker: Uuid,
        interval: Duration,
        duration: Duration,
    ) -> Result<Self, StoreError> {
        if interval.is_zero() || interval * 2 > duration {
            return Err(StoreError::Invalid(format!(
                "the heartbeat interval ({interval:?}) must be above 0 and at most half of the lease ({duration:?}), \
                 or one late heartbeat loses every lease"
            )));
        }
        let failed =
            |e: std::io::Error| StoreError::Invalid(format!("cannot start the heartbeat thread: {e}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let options = url.options()?.disable_statement_logging();
        let held: Arc<Mutex<HashMap<Uuid, Held>>> = Arc::default();
        let (alive, ended) = mpsc::channel::<()>();
        let keeper = Self { held: held.clone(), _alive: Arc::new(alive), duration };
        let beat = move || {
            let mut connection = None;
            // A timeout is the next beat; a disconnect is the end.
            while ended.recv_timeout(interval) == Err(mpsc::RecvTimeoutError::Timeout) {
                runtime.block_on(async {
                    let limit = duration.saturating_sub(interval);
                    let beat = heartbeat(&mut connection, &options, worker, duration, &held);
                    match tokio::time::timeout(limit, beat).await {
                        Ok(Ok(())) => {}
                        Ok(Err(e)) => {
                            connection = None;
                            tracing::warn!("a heartbeat failed, leases run on until they expire: {e}");
                        }
                        Err(_) => {
                            connection = None;
                            tracing::warn!("a heartbeat had no answer within {limit:?}");
                        }
                    }
                });
                lose_expired(&held, duration);
            }
        };
        std::thread::Builder::new().name("lease-keeper".to_owned()).spawn(beat).map_err(failed)?;
        Ok(keeper)
    }

    /// How long a lease holds without a heartbeat.
    #[must_use]
    pub fn lease_duration(&self) -> Duration {
        self.duration
    }

    /// Takes a freshly picked job into care. `asked` is when the pick was begun: the lease holds from there at least.
    #[must_use]
    pub fn hold(&self, job: &LeasedJob, asked: Instant) -> Lease {
        let lease = Lease::new();
        let held = Held { job_id: job.id, lease: lease.clone(), confirmed: asked };
        let mut all = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(job.token, held);
        STORE_METRICS.leases_held.set(all.len());
        lease
    }

    /// Lets go of a job that was completed, failed or released.
    pub fn forget(&self, token: Uuid) {
        let mut all = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(&token);
        STORE_METRICS.leases_held.set(all.len());
    }
}

/// Without a confirmed heartbeat for a whole duration the database has, or will have, given the job to another.
fn lose_expired(held: &Mutex<HashMap<Uuid, Held>>, duration: Duration) {
    let mut all = held.lock().unwrap_or_else(PoisonError::into_inner);
    all.retain(|_, held| {
        let expired = held.confirmed.elapsed() >= duration;
        if expired {
            held.lease.lose();
            STORE_METRICS.leases_lost.inc();
        }
        !expired
    });
}

async fn heartbeat(
    connection: &mut Option<PgConnection>,
    options: &sqlx::postgres::PgConnectOptions,
    worker: Uuid,
    duration: Duration,
    held: &Mutex<HashMap<Uuid, Held>>,
) -> Result<(), StoreError> {
    let _timer = QueryTimer::start("heartbeat");
    let error = StoreError::database;
    let snapshot: Vec<(Uuid, Held)> = {
        let all = held.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(token, held)| (*token, held.clone())).collect()
    };
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(options.connect().await.map_err(error("heartbeat: connect"))?),
    };
    let asked = Instant::now();
    let ids: Vec<i64> = snapshot.iter().map(|(_, held)| held.job_id).collect();
    let tokens: Vec<Uuid> = snapshot.iter().map(|(token, _)| *token).collect();
    let progress: Vec<f32> = snapshot.iter().map(|(_, held)| held.lease.progress()).collect();
    let kept: Vec<Uuid> = sqlx::query_scalar!(
        r#"WITH alive AS (UPDATE workers SET heartbeat_at = now() WHERE id = $1)
           UPDATE prover_jobs j SET
               lease_expires_at = now() + make_interval(secs => $2), progress = h.progress
           FROM UNNEST($3::int8[], $4::uuid[], $5::float4[]) AS h (id, token, progress)
           WHERE j.id = h.id AND j.lease_token = h.token AND j.status = 'in_progress'
           RETURNING j.lease_token AS "token!""#,
        worker,
        duration.as_secs_f64(),
        &ids,
        &tokens,
        &progress
    )
    .fetch_all(connection)
    .await
    .map_err(error("heartbeat"))?;
    let mut all = held.lock().unwrap_or_else(PoisonError::into_inner);
    for (token, _) in snapshot {
        if kept.contains(&token) {
            if let Some(held) = all.get_mut(&token) {
                held.confirmed = asked;
            }
        } else if let Some(gone) = all.remove(&token) {
            // Finished meanwhile, or taken from us; losing a finished one's lease does nothing.
            gone.lease.lose();
            STORE_METRICS.leases_lost.inc();
        }
    }
    Ok(())
}
