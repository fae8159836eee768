//! A few connections that operations borrow one at a time.
//!
//! Other than a general pool this one asks the server nothing on its own account: a connection is tested by its next
//! statement. An operation that has no answer within [`OPERATION_LIMIT`] ends with an error, and its connection with it: a
//! connection that was cut without a word would hold its caller for as long as TCP cares to. The same happens to the connection
//! of an operation that is cancelled half way, so that none comes back in the middle of something.

use crate::database::metrics::QueryTimer;
use crate::database::session::{Session, keep_their_sessions};
use crate::database::url::DatabaseUrl;
use crate::model::error::StoreError;
use sqlx::{Connection, PgConnection};
use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;

/// How long an operation may take, with the wait for a connection: half of the usual lease, so that one that is tried again can
/// still be in time.
const OPERATION_LIMIT: Duration = Duration::from_secs(10);
/// The same for reports and duties, which may read or move a whole batch.
const REPORT_LIMIT: Duration = Duration::from_secs(120);

/// How long a connection uses the plans that it made. A plan is kept until the server hears of other statistics, which may take a minute; one that
/// was made while the table held ten rows reads the whole of it then, whatever it has grown to.
const PLANS_LAST: Duration = Duration::from_secs(1);

/// A connection that nobody used for so long is closed: a server has few, and a fleet at rest needs none of them.
const UNUSED_LIMIT: Duration = Duration::from_secs(30);

/// An operation that takes more than this part of its limit is told.
const SLOW_SHARE: u32 = 10;

/// What to do where a pooler hands every transaction to another session.
const TRANSACTION_POOLING: &str = "the pooler before the database hands every transaction, or statement, to another session (in pgbouncer: pool_mode = \
     transaction), and a worker needs one that lasts: LISTEN for wake-ups, an advisory lock as its sign of life, prepared statements, settings. \
     Set pool_mode = session for this database, or connect to the server itself";

/// A transaction on one of the connections.
pub(crate) type Transaction<'a> = sqlx::Transaction<'a, sqlx::Postgres>;

/// What a connection's commits wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// For the disk, as the server is set.
    Durable,
    /// For nothing: what a crash of the server may forget, and what was lost then costs a repetition. Order is kept: a later
    /// durable commit brings all earlier ones to the disk.
    Relaxed,
}

/// A commit that waits for nothing.
pub(crate) const RELAXED: (&str, &str) = ("synchronous_commit", "off");

/// Settings under which short statements are planned the same way at every table size: along an index, by nested loops. The planner's
/// choice flips with its estimates to hash joins and scans of a table that is mostly history.
const PLANS: [(&str, &str); 7] = [
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("enable_bitmapscan", "off"),
    // It keeps each row that it looks up, for a second look that never comes: no statement names a job twice.
    ("enable_memoize", "off"),
    ("plan_cache_mode", "force_generic_plan"),
    ("jit", "off"),
];

/// Connections, opened when needed. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Connections {
    session: Session,
    limit: Duration,
    idle: Arc<Mutex<Vec<Idle>>>,
    places: Arc<Semaphore>,
    most: u32,
}

/// A connection that nobody uses.
#[derive(Debug)]
struct Idle {
    connection: PgConnection,
    /// Its plans are not older than this.
    planned: Instant,
    used: Instant,
}

/// Closes what nobody uses, until the last clone of the connections is gone.
async fn close_unused(idle: Weak<Mutex<Vec<Idle>>>) {
    loop {
        tokio::time::sleep(UNUSED_LIMIT / 3).await;
        let Some(idle) = idle.upgrade() else { return };
        let unused: Vec<Idle> = {
            let mut idle = idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.extract_if(.., |idle| idle.used.elapsed() > UNUSED_LIMIT).collect()
        };
        drop(idle);
        for unused in unused {
            let _ = unused.connection.close().await;
        }
    }
}

/// How the connections for short statements are opened.
pub(crate) fn session(url: &DatabaseUrl, purpose: &str, durability: Durability) -> Session {
    let relaxed: &[_] = match durability {
        Durability::Durable => &[],
        Durability::Relaxed => &[RELAXED],
    };
    Session::new(url, purpose, &[&PLANS, relaxed].concat())
}

impl Connections {
    /// At most so many for short statements.
    pub(crate) fn new(url: &DatabaseUrl, durability: Durability, most: u32) -> Self {
        let purpose = match durability {
            Durability::Durable => "writes",
            Durability::Relaxed => "claims",
        };
        Self::of(session(url, purpose, durability), OPERATION_LIMIT, most)
    }

    /// At most so many for reports and duties, planned as the server sees fit.
    pub(crate) fn for_reports(url: &DatabaseUrl, most: u32) -> Self {
        Self::of(Session::new(url, "reports", &[]), REPORT_LIMIT, most)
    }

    fn of(session: Session, limit: Duration, most: u32) -> Self {
        let places = Arc::new(Semaphore::new(most as usize));
        let idle = Arc::default();
        tokio::spawn(close_unused(Arc::downgrade(&idle)));
        Self { session, limit, idle, places, most }
    }

    /// Opens the first connection, says at once why there is none, and finds out whether the connections keep their sessions.
    ///
    /// # Errors
    /// As [`JobStore::connect`](crate::database::store::JobStore::connect).
    pub(crate) async fn open_first(&self, limit: Duration) -> Result<(), StoreError> {
        let failed = StoreError::database;
        let [mut first, mut second] = self.session.open_two(limit).await.map_err(failed("connect"))?;
        let keeps = keep_their_sessions(&mut first, &mut second).await.map_err(failed("connect"))?;
        second.close().await.map_err(failed("connect"))?;
        if !keeps {
            return Err(StoreError::Invalid(TRANSACTION_POOLING.to_owned()));
        }
        self.idle().push(Idle { connection: first, planned: Instant::now(), used: Instant::now() });
        Ok(())
    }

    /// Works with a connection; `action` names the operation in errors and in the metric of its time.
    ///
    /// # Errors
    /// The work's, and [`StoreError::Database`] when there is no connection or no answer in time.
    pub(crate) async fn run<T>(
        &self,
        action: &'static str,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let _timer = QueryTimer::start(action);
        let all = async {
            let closed = |_| StoreError::database(action)(sqlx::Error::PoolClosed);
            let _place = self.places.acquire().await.map_err(closed)?;
            let idle = self.idle().pop();
            let Idle { mut connection, mut planned, .. } = match idle {
                Some(idle) => idle,
                None => {
                    let connection =
                        self.session.open_when_there_is_room().await.map_err(StoreError::database(action))?;
                    Idle { connection, planned: Instant::now(), used: Instant::now() }
                }
            };
            if planned.elapsed() > PLANS_LAST {
                let discarded = sqlx::raw_sql("DISCARD PLANS").execute(&mut connection).await;
                discarded.map_err(StoreError::database(action))?;
                planned = Instant::now();
            }
            let result = work(&mut connection).await.map_err(|e| e.of(action));
            // A transaction that was left on the way is rolled back by the connection's next statement, which may be long in
            // coming; what is not sent yet is sent now.
            let is_sound = !matches!(result, Err(StoreError::Database { .. }))
                && (!connection.should_flush() || connection.flush().await.is_ok());
            if is_sound {
                self.idle().push(Idle { connection, planned, used: Instant::now() });
            }
            result
        };
        let begun = Instant::now();
        let late = || StoreError::database(action)(sqlx::Error::Io(io::ErrorKind::TimedOut.into()));
        let result = tokio::time::timeout(self.limit, all).await.unwrap_or_else(|_| Err(late()));
        if matches!(result, Err(StoreError::Database { .. })) {
            // Where one broke, the others are no better: the next operations open new ones.
            self.idle().clear();
        }
        if begun.elapsed() * SLOW_SHARE > self.limit {
            tracing::warn!(action, took = ?begun.elapsed(), "the database is slow");
        }
        result
    }

    /// As [`Connections::run`], for one statement.
    ///
    /// # Errors
    /// As [`Connections::run`].
    pub(crate) async fn statement<T>(
        &self,
        action: &'static str,
        work: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>,
    ) -> Result<T, StoreError> {
        self.run(action, async |connection: &mut PgConnection| Ok(work(connection).await?)).await
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for those in use, and closes all.
    pub(crate) async fn close(&self) {
        let _ = self.places.acquire_many(self.most).await;
        self.places.close();
        let idle = std::mem::take(&mut *self.idle());
        for idle in idle {
            let _ = idle.connection.close().await;
        }
    }
}
