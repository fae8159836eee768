//! Noticing the dead at once.
//!
//! A worker's heartbeat has a connection of its own ([`crate::leases::keeper::LeaseKeeper`]), and the worker's row says which process of the
//! server, its backend, is at the other end. A backend ends within a millisecond of its worker. The watch compares the rows with the
//! server's list of backends, many times a second while jobs are leased: one statement on one connection, however many workers there
//! are. A worker whose backend is gone loses its lease, and its jobs are queued again.
//!
//! **Only what was seen counts.** A backend that is not there at the watch's first look says nothing: the worker may be connecting again
//! after the server restarted. Such a worker, one that hangs, and one that was cut off lose their leases by expiry, as if nobody
//! watched. A server that restarts ends the watch's connection too, and the next one makes its first look.
//!
//! Any number of watches may run. Each looks at all workers, and nothing that others do to the database makes a live one dead.

use crate::database::metrics::STORE_METRICS;
use crate::database::session::Session;
use crate::database::store::JobStore;
use crate::duties::rescue::Rescued;
use crate::model::error::StoreError;
use sqlx::PgConnection;
use std::{
    collections::HashSet,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Between two looks while jobs are leased. A look takes 0.4 ms with 10 workers (0.9 % of one core of the server's), 0.8 ms with 1,000 and
/// 6.5 ms with 5,000.
const LOOK_INTERVAL: Duration = Duration::from_millis(30);
/// A fifth of the time is spent looking at most, however many workers there are: the wait is four times the look.
const LOOK_TIMES: u32 = 4;
/// The question whether anything is leased takes a twentieth of the time at most.
const QUESTION_TIMES: u32 = 20;
/// Between two looks while nothing is leased, and between two questions whether anything is.
const REST_INTERVAL: Duration = Duration::from_millis(250);
/// How long an answer may take before the connection counts as broken.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Pause before a broken watch begins anew.
const RESTART_PAUSE: Duration = Duration::from_millis(500);

/// Watches the workers of a store.
#[derive(Debug)]
pub struct DeathWatch {
    store: JobStore,
    session: Session,
}

/// A worker without its backend: which worker, and which backend.
type Missing = (Uuid, i32);

impl DeathWatch {
    /// A watch over the workers of this store.
    #[must_use]
    pub fn new(store: &JobStore) -> Self {
        Self { store: store.clone(), session: Session::new(&store.url, "death watch", &[("jit", "off")]) }
    }

    /// Watches until the shutdown signal; calls `rescued` with what was put back. Errors are logged, and the watch
    /// begins anew.
    pub async fn run(&self, rescued: impl Fn(&[Rescued]) + Send, shutdown: &CancellationToken) {
        while !shutdown.is_cancelled() {
            tokio::select! {
                () = shutdown.cancelled() => return,
                ended = self.watch(&rescued) => {
                    if let Err(e) = ended {
                        tracing::warn!("the death watch begins anew, leases expire meanwhile: {e}");
                    }
                }
            }
            tokio::time::sleep(RESTART_PAUSE).await;
        }
    }

    /// Looks until the connection breaks.
    async fn watch(&self, rescued: &(impl Fn(&[Rescued]) + Send)) -> Result<(), StoreError> {
        let connecting = self.session.open_when_there_is_room().await;
        let mut connection = connecting.map_err(StoreError::database("watch: connect"))?;
        let unknown: HashSet<Missing> = look(&mut connection).await?.into_iter().collect();
        let mut work = LeasedWork::default();
        loop {
            let begun = Instant::now();
            for missing in look(&mut connection).await? {
                if !unknown.contains(&missing) {
                    self.rescue(missing.0, rescued).await?;
                }
            }
            let took = begun.elapsed();
            let interval = if work.is_there(&self.store).await? {
                LOOK_INTERVAL.max(took * LOOK_TIMES)
            } else {
                REST_INTERVAL
            };
            tokio::time::sleep(interval).await;
        }
    }

    async fn rescue(&self, worker: Uuid, rescued: &(impl Fn(&[Rescued]) + Send)) -> Result<(), StoreError> {
        if self.store.give_up_worker(worker).await? {
            STORE_METRICS.worker_deaths_seen.inc();
            loop {
                let jobs = self.store.rescue_dead(worker).await?;
                if jobs.is_empty() {
                    break;
                }
                rescued(&jobs);
            }
        }
        Ok(())
    }
}

/// The workers whose lease holds and whose backend is gone. The server shows when a backend began only to members of the backend's
/// role; to others its number has to do, which errs towards life.
async fn look(connection: &mut PgConnection) -> Result<Vec<Missing>, StoreError> {
    let looking = sqlx::query!(
        r#"SELECT w.id, w.backend_pid AS "backend_pid!" FROM workers w
         WHERE w.stopped_at IS NULL AND w.expires_at > now() AND w.backend_pid IS NOT NULL AND NOT EXISTS (
             SELECT FROM pg_stat_get_backend_idset() backend
             WHERE pg_stat_get_backend_pid(backend) = w.backend_pid
               AND coalesce(pg_stat_get_backend_start(backend) = w.backend_started_at, TRUE))"#
    )
    .fetch_all(connection);
    // A connection that was cut without a word would be waited on for ever.
    let looked = tokio::time::timeout(ANSWER_LIMIT, looking).await;
    let rows = looked.unwrap_or_else(|_| Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())));
    let rows = rows.map_err(StoreError::database("watch: look for backends"))?;
    Ok(rows.into_iter().map(|row| (row.id, row.backend_pid)).collect())
}

/// Whether any job is leased, asked now and then: behind an old snapshot the answer may take long.
#[derive(Debug, Default)]
struct LeasedWork {
    is_there: bool,
    /// When to ask next.
    due: Option<Instant>,
}

impl LeasedWork {
    async fn is_there(&mut self, store: &JobStore) -> Result<bool, StoreError> {
        if self.due.is_some_and(|due| Instant::now() < due) {
            return Ok(self.is_there);
        }
        let begun = Instant::now();
        self.is_there = store
            .relaxed
            .statement("watch: look for leases", async |connection: &mut PgConnection| {
                sqlx::query_scalar!(
                    r#"SELECT EXISTS (SELECT FROM jobs WHERE status = 'in_progress' AND worker_id IS NOT NULL) AS "is_there!""#
                )
                .fetch_one(connection)
                .await
            })
            .await?;
        // At rest each look asks.
        let wait = if self.is_there { 2 * REST_INTERVAL } else { Duration::ZERO };
        self.due = Some(begun + wait.max(begun.elapsed() * QUESTION_TIMES));
        Ok(self.is_there)
    }
}
