//! Noticing the dead at once.
//!
//! Every worker's process holds an advisory lock ([`crate::LeaseKeeper`]). For each worker one connection of one watch waits
//! for that lock: it costs the server a sleeping backend and no work at all, and it is granted within a millisecond of the
//! process's end. Then the worker's lease ends and its jobs are queued again.
//!
//! **Only what was seen counts.** A lock that is free when the watch looks for the first time says nothing: the worker may be
//! connecting again after the server restarted. Such a worker, one that hangs, and one that was cut off lose their leases by
//! expiry, as if nobody watched.
//!
//! Any number of watches may run; each worker is watched by one of them, and by another when that one ends.

use crate::connections::LIVELINESS;
use crate::keeper::ALIVE_LOCKS;
use crate::metrics::STORE_METRICS;
use crate::{JobStore, Rescued, StoreError};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};
use std::{collections::HashMap, time::Duration};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

/// The first half of the names of the locks that say who watches whom.
const WATCH_LOCKS: i32 = 0x776f_7463;
/// How often the watch looks for new workers.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How long one wait lasts before it is begun anew. A statement that waits keeps its snapshot, and no row that died since is cleaned
/// away, nor its place in the queue's index: pickers would walk over everything that was picked meanwhile.
const WAIT_LIMIT: Duration = Duration::from_secs(1);
/// How long an answer may take beyond that before the connection counts as broken.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Watches the workers of a store.
#[derive(Debug)]
pub struct DeathWatch {
    store: JobStore,
    options: PgConnectOptions,
}

/// What became of one wait.
enum Seen {
    /// The lock was held, and then it was not.
    Death,
    /// Nothing that can be told: the lock was free from the start.
    Nothing,
}

impl DeathWatch {
    /// A watch over the workers of this store.
    ///
    /// # Errors
    /// [`StoreError::Invalid`].
    pub fn new(store: &JobStore) -> Result<Self, StoreError> {
        let options = store
            .url
            .options()?
            .disable_statement_logging()
            .options([("lock_timeout", WAIT_LIMIT.as_millis().to_string())])
            .options(LIVELINESS);
        Ok(Self { store: store.clone(), options })
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
        let mut books = self.options.connect().await.map_err(error("watch: connect"))?;
        let mut waits: JoinSet<(i32, Result<Seen, StoreError>)> = JoinSet::new();
        let mut watched: HashMap<i32, AbortHandle> = HashMap::new();
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = looks.tick() => {
                    let living = sqlx::query_scalar!(
                        "SELECT number FROM workers WHERE stopped_at IS NULL AND expires_at > now()"
                    )
                    .fetch_all(&mut books)
                    .await
                    .map_err(error("watch: look for workers"))?;
                    let fresh: Vec<i32> = living.into_iter().filter(|number| !watched.contains_key(number)).collect();
                    if fresh.is_empty() {
                        continue;
                    }
                    let fresh = sqlx::query_scalar!(
                        r#"SELECT number AS "number!" FROM UNNEST($2::int4[]) AS fresh (number)
                           WHERE pg_try_advisory_lock($1, number)"#,
                        WATCH_LOCKS,
                        &fresh
                    )
                    .fetch_all(&mut books)
                    .await
                    .map_err(error("watch: take on workers"))?;
                    for number in fresh {
                        let options = self.options.clone();
                        let wait = waits.spawn(async move { (number, wait(&options, number).await) });
                        watched.insert(number, wait);
                    }
                }
                Some(ended) = waits.join_next(), if !waits.is_empty() => {
                    let Ok((number, seen)) = ended else { continue };
                    watched.remove(&number);
                    match seen {
                        Ok(Seen::Death) => self.rescue(number, rescued).await?,
                        Ok(Seen::Nothing) => {}
                        Err(e) => tracing::debug!(number, "a worker's watch begins anew: {e}"),
                    }
                    // Whoever looks next may watch it again, if it comes back.
                    sqlx::query_scalar!("SELECT pg_advisory_unlock($1, $2)", WATCH_LOCKS, number)
                        .fetch_one(&mut books)
                        .await
                        .map_err(error("watch: unlock"))?;
                }
            }
        }
    }

    async fn rescue(&self, number: i32, rescued: &(impl Fn(&[Rescued]) + Send)) -> Result<(), StoreError> {
        if self.store.give_up_worker(number).await? {
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

/// Waits on a connection of its own until a worker's lock is free.
async fn wait(options: &PgConnectOptions, number: i32) -> Result<Seen, StoreError> {
    let error = StoreError::database;
    let mut connection: PgConnection = options.connect().await.map_err(error("watch: connect"))?;
    let is_free = sqlx::query_scalar!(
        r#"SELECT pg_try_advisory_lock_shared($1, $2) AS "is_free!""#,
        ALIVE_LOCKS,
        number
    )
    .fetch_one(&mut connection)
    .await
    .map_err(error("watch: look"))?;
    let seen = if is_free {
        Seen::Nothing
    } else {
        loop {
            let waiting = sqlx::query!("SELECT pg_advisory_lock_shared($1, $2)", ALIVE_LOCKS, number)
                .fetch_one(&mut connection);
            // A connection that was cut without a word would be waited on for ever.
            let waited = tokio::time::timeout(WAIT_LIMIT + ANSWER_LIMIT, waiting).await;
            match waited.unwrap_or_else(|_| Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()))) {
                Ok(_) => break Seen::Death,
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
