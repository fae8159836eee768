//! Noticing the dead at once.
//!
//! Every worker's process holds an advisory lock ([`crate::leases::keeper::LeaseKeeper`]). For each worker one connection of one watch waits
//! for that lock: it costs the server a sleeping backend and no work at all, and it is granted within a millisecond of the
//! process's end. Then the worker's lease ends and its jobs are queued again.
//!
//! **Only what was seen counts.** A lock that is free when the watch looks for the first time says nothing: the worker may be
//! connecting again after the server restarted. Such a worker, one that hangs, and one that was cut off lose their leases by
//! expiry, as if nobody watched.
//!
//! **Only the server's word counts.** Others who may connect can hold a lock and let it go. So a death is one only when the server's
//! process that held the worker's lock is gone, by the server's own list.
//!
//! Any number of watches may run; each worker is watched by one of them, and by another when that one ends.

use crate::database::metrics::STORE_METRICS;
use crate::database::session::Session;
use crate::database::store::JobStore;
use crate::duties::rescue::Rescued;
use crate::model::error::StoreError;
use sqlx::{Connection, PgConnection};
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How often the watch looks for new workers.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How long one wait lasts before it is begun anew. A statement that waits keeps its snapshot, and no row that died since is cleaned
/// away, nor its place in the queue's index: pickers would walk over everything that was picked meanwhile.
const WAIT_LIMIT: Duration = Duration::from_secs(1);
/// How long an answer may take beyond that before the connection counts as broken.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// The server lets the locks of a connection that ends go, and a moment later strikes it from its list: how long to look at most, and
/// how often.
const ENDING_LIMIT: Duration = Duration::from_secs(1);
const ENDING_LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// Watches the workers of a store.
#[derive(Debug)]
pub struct DeathWatch {
    store: JobStore,
    session: Session,
}

/// What became of one wait.
enum Seen {
    /// The lock was held, and then it was not, and its holder is gone.
    Death,
    /// Nothing that can be told: the lock was free from the start, or the worker has another by now.
    Nothing,
}

/// A worker's sign of life: whose it is, and the keys of its lock and of its watch's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Sign {
    worker: Uuid,
    lock_key: i64,
    watch_key: i64,
}

impl DeathWatch {
    /// A watch over the workers of this store.
    #[must_use]
    pub fn new(store: &JobStore) -> Self {
        let limit = WAIT_LIMIT.as_millis().to_string();
        Self {
            store: store.clone(),
            session: Session::new(&store.url, "death watch", &[("lock_timeout", &limit)]),
        }
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
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// One connection says whom this watch watches; when it breaks, all waits end with it.
    async fn watch(&self, rescued: &(impl Fn(&[Rescued]) + Send)) -> Result<(), StoreError> {
        let error = StoreError::database;
        let mut books = self.session.open().await.map_err(error("watch: connect"))?;
        let mut waits: JoinSet<(Sign, Result<Seen, StoreError>)> = JoinSet::new();
        let mut watched: HashMap<Sign, AbortHandle> = HashMap::new();
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = looks.tick() => {
                    let living = sqlx::query_as!(
                        Sign,
                        "SELECT s.worker_id AS worker, s.lock_key, s.watch_key FROM signs_of_life s
                         JOIN workers w ON w.id = s.worker_id
                         WHERE w.stopped_at IS NULL AND w.expires_at > now()"
                    )
                    .fetch_all(&mut books)
                    .await
                    .map_err(error("watch: look for workers"))?;
                    let mut fresh: HashMap<i64, Sign> =
                        living.into_iter().filter(|sign| !watched.contains_key(sign)).map(|sign| (sign.watch_key, sign)).collect();
                    if fresh.is_empty() {
                        continue;
                    }
                    let keys: Vec<i64> = fresh.keys().copied().collect();
                    let ours = sqlx::query_scalar!(
                        r#"SELECT watch_key AS "watch_key!" FROM UNNEST($1::int8[]) AS fresh (watch_key)
                           WHERE pg_try_advisory_lock(watch_key)"#,
                        &keys
                    )
                    .fetch_all(&mut books)
                    .await
                    .map_err(error("watch: take on workers"))?;
                    for sign in ours.into_iter().filter_map(|key| fresh.remove(&key)) {
                        let session = self.session.clone();
                        let wait = waits.spawn(async move { (sign, wait(&session, sign).await) });
                        watched.insert(sign, wait);
                    }
                }
                Some(ended) = waits.join_next(), if !waits.is_empty() => {
                    let Ok((sign, seen)) = ended else { continue };
                    watched.remove(&sign);
                    match seen {
                        Ok(Seen::Death) => self.rescue(sign.worker, rescued).await?,
                        Ok(Seen::Nothing) => {}
                        Err(e) => tracing::debug!(worker = %sign.worker, "a worker's watch begins anew: {e}"),
                    }
                    // Whoever looks next may watch it again, if it comes back.
                    sqlx::query_scalar!("SELECT pg_advisory_unlock($1)", sign.watch_key)
                        .fetch_one(&mut books)
                        .await
                        .map_err(error("watch: unlock"))?;
                }
            }
        }
    }

    async fn rescue(&self, worker: Uuid, rescued: &(impl Fn(&[Rescued]) + Send)) -> Result<(), StoreError> {
        if self.store.give_up_worker(worker).await? {
            STORE_METRICS.worker_deaths_seen.inc();
            loop {
                let jobs = self.store.rescue_expired().await?;
                if jobs.is_empty() {
                    break;
                }
                rescued(&jobs);
            }
        }
        Ok(())
    }
}

/// Waits on a connection of its own until a worker's lock is free and its holder gone.
async fn wait(session: &Session, sign: Sign) -> Result<Seen, StoreError> {
    let error = StoreError::database;
    let mut connection: PgConnection = session.open().await.map_err(error("watch: connect"))?;
    let is_free =
        sqlx::query_scalar!(r#"SELECT pg_try_advisory_lock_shared($1) AS "is_free!""#, sign.lock_key)
            .fetch_one(&mut connection)
            .await
            .map_err(error("watch: look"))?;
    let seen = if is_free {
        Seen::Nothing
    } else {
        loop {
            let waiting =
                sqlx::query!("SELECT pg_advisory_lock_shared($1)", sign.lock_key).fetch_one(&mut connection);
            // A connection that was cut without a word would be waited on for ever.
            let waited = tokio::time::timeout(WAIT_LIMIT + ANSWER_LIMIT, waiting).await;
            match waited.unwrap_or_else(|_| Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()))) {
                Ok(_) => break until_gone(&mut connection, sign.worker).await?,
                // 55P03: the wait's limit; it is begun anew.
                Err(sqlx::Error::Database(e)) if e.code().as_deref() == Some("55P03") => {}
                Err(e) => return Err(error("watch: wait")(e)),
            }
        }
    };
    // The lock goes with the connection.
    let _ = connection.close().await;
    Ok(seen)
}

/// Whether the server's process behind the worker's connection ends now. The server shows its start only to its own role's members;
/// to others its number has to do, which errs towards life.
async fn until_gone(connection: &mut PgConnection, worker: Uuid) -> Result<Seen, StoreError> {
    let begun = Instant::now();
    while begun.elapsed() < ENDING_LIMIT {
        let is_there = sqlx::query_scalar!(
            r#"SELECT EXISTS (
                   SELECT FROM signs_of_life s, pg_stat_get_activity(s.backend_pid) a
                   WHERE s.worker_id = $1
                     AND (a.backend_start IS NULL OR a.backend_start = s.backend_started_at)) AS "is_there!""#,
            worker
        )
        .fetch_one(&mut *connection)
        .await
        .map_err(StoreError::database("watch: look for the lock's holder"))?;
        if !is_there {
            return Ok(Seen::Death);
        }
        tokio::time::sleep(ENDING_LOOK_INTERVAL).await;
    }
    Ok(Seen::Nothing)
}
