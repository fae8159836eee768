//! Opening connections.
//!
//! Every connection makes its own settings once it is open, whatever the server, the database or the role have as theirs. They are not in
//! its first message: poolers refuse what they do not know there, or leave it out without a word.

use crate::database::encryption::with_advice;
use crate::database::url::DatabaseUrl;
use crate::model::error::StoreError;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgConnection, Row};
use std::{
    fmt::Write,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use uuid::Uuid;

/// The search path of every connection. The server looks into `pg_catalog` before it; a session's temporary tables come last, so
/// that none stands before a table of ours.
pub(crate) const SEARCH_PATH: &str = "roundhouse, pg_temp";

/// What holds for every connection. Limits that a role or a database sets for its people would end waits that are meant to be long; ours are in
/// the program.
const EVERYWHERE: &[(&str, &str)] = &[
    ("search_path", SEARCH_PATH),
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_session_timeout", "0"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_deferrable", "off"),
    // A process that is gone without a word, with its machine or its network, keeps neither locks nor a session for long: the server ends a
    // transaction whose next statement does not come, and finds out that nobody is there.
    ("idle_in_transaction_session_timeout", "10s"),
    ("tcp_keepalives_idle", "10"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "20s"),
];

/// The same, from this version of the server on.
const SINCE_17: (u32, &str) = (170_000, "SET transaction_timeout = 0;");

/// How long one of several servers may take before the next is tried.
const SERVER_LIMIT: Duration = Duration::from_secs(3);

/// The server's codes for: no connection left, and starting up.
const NO_ROOM: [&str; 2] = ["53300", "57P03"];
/// How long to wait for either, about; and how often it is told.
const ROOM_PAUSE: Duration = Duration::from_millis(500);
const TOLD_EVERY: Duration = Duration::from_mins(1);

/// How often two connections are compared to find a pooler, and how long one of them may be without a session.
const POOLER_LOOKS: usize = 2;
const POOLER_LIMIT: Duration = Duration::from_secs(5);

/// How connections of one purpose are opened. Clones share what they learn of the servers.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    servers: Arc<[PgConnectOptions]>,
    wants_writer: bool,
    /// Statements that make the settings.
    settings: Arc<str>,
    /// The server that was good last.
    last_good: Arc<AtomicUsize>,
}

impl Session {
    /// Connections of this purpose, which the server's list of sessions shows, with these settings.
    pub(crate) fn new(url: &DatabaseUrl, purpose: &str, settings: &[(&str, &str)]) -> Self {
        let named = |server: &PgConnectOptions| {
            let name = server.get_application_name().unwrap_or_default();
            server.clone().application_name(format!("{name} {purpose}").trim_end())
        };
        let mut statements = String::new();
        for (name, value) in EVERYWHERE.iter().chain(settings) {
            // `search_path` alone is a list, and its value is ours.
            let value = if *name == "search_path" { (*value).to_owned() } else { format!("'{value}'") };
            let _ = write!(statements, "SET {name} = {value};");
        }
        Self {
            servers: url.servers().iter().map(named).collect(),
            wants_writer: url.wants_writer(),
            settings: statements.into(),
            last_good: Arc::default(),
        }
    }

    /// Two connections at the same time, as [`Session::open_when_there_is_room`]; each may take this long. While there is room for one only, none
    /// is held: processes that start together would else wait for each other's.
    pub(crate) async fn open_two(&self, limit: Duration) -> sqlx::Result<[PgConnection; 2]> {
        let open = async || {
            let late = || sqlx::Error::Io(io::ErrorKind::TimedOut.into());
            tokio::time::timeout(limit, self.open()).await.unwrap_or_else(|_| Err(late()))
        };
        loop {
            let full = match open().await {
                Ok(first) => match open().await {
                    Ok(second) => return Ok([first, second]),
                    Err(e) => e,
                },
                Err(e) => e,
            };
            if !will_have_room(&full) {
                return Err(full);
            }
            wait_for_room(&full).await;
        }
    }

    /// As [`Session::open`]; waits while the server starts up, or has no connection left.
    pub(crate) async fn open_when_there_is_room(&self) -> sqlx::Result<PgConnection> {
        loop {
            match self.open().await {
                Err(e) if will_have_room(&e) => wait_for_room(&e).await,
                opened => return opened,
            }
        }
    }

    /// Opens a connection and makes its settings; of several servers to the first that answers and takes writes.
    pub(crate) async fn open(&self) -> sqlx::Result<PgConnection> {
        self.open_any().await.map(|(connection, _)| connection)
    }

    /// The server to which [`Session::open`] would connect.
    async fn find_server(&self) -> sqlx::Result<PgConnectOptions> {
        if let ([only], false) = (&*self.servers, self.wants_writer) {
            return Ok(only.clone());
        }
        let (connection, server) = self.open_any().await?;
        connection.close().await?;
        Ok(server)
    }

    /// Listens to a channel, on a connection of its own. One that breaks is not made again: the writer may be another server by then.
    pub(crate) async fn listen(&self, channel: &str) -> sqlx::Result<PgListener> {
        let mut listener = loop {
            let server = self.find_server().await?;
            let session = self.clone();
            // A listener takes its connection from a pool.
            let pool = PgPoolOptions::new()
                .max_connections(1)
                .acquire_timeout(SERVER_LIMIT)
                .after_connect(move |connection, _| {
                    let session = session.clone();
                    Box::pin(async move { session.make_settings(connection).await })
                })
                .connect_lazy_with(server);
            match PgListener::connect_with(&pool).await {
                // The pool tried until its timeout, as it does with a server that has no room; the writer may be another by now.
                Err(e @ sqlx::Error::PoolTimedOut) => wait_for_room(&e).await,
                connected => break connected?,
            }
        };
        listener.eager_reconnect(false);
        listener.listen(channel).await?;
        Ok(listener)
    }

    async fn open_any(&self) -> sqlx::Result<(PgConnection, PgConnectOptions)> {
        let count = self.servers.len();
        let first = self.last_good.load(Ordering::Relaxed);
        let mut failed = None;
        for place in (0..count).map(|step| (first + step) % count) {
            let server = &self.servers[place];
            let opened = async {
                if count == 1 {
                    return self.open_at(server).await;
                }
                let late = || sqlx::Error::Io(io::ErrorKind::TimedOut.into());
                tokio::time::timeout(SERVER_LIMIT, self.open_at(server)).await.unwrap_or_else(|_| Err(late()))
            };
            match opened.await {
                Ok(connection) => {
                    self.last_good.store(place, Ordering::Relaxed);
                    return Ok((connection, server.clone()));
                }
                // A server's own refusal says more than that another cannot be reached.
                Err(e) if failed.is_none() || matches!(e, sqlx::Error::Database(_)) => failed = Some(e),
                Err(_) => {}
            }
        }
        Err(failed.unwrap_or(sqlx::Error::PoolClosed))
    }

    async fn open_at(&self, server: &PgConnectOptions) -> sqlx::Result<PgConnection> {
        let mut connection = server.connect().await.map_err(with_advice)?;
        self.make_settings(&mut connection).await?;
        if self.wants_writer && is_read_only(&mut connection).await? {
            return Err(read_only());
        }
        Ok(connection)
    }

    /// Makes the settings of a connection that was opened otherwise.
    pub(crate) async fn make_settings(&self, connection: &mut PgConnection) -> sqlx::Result<()> {
        let (since, statement) = SINCE_17;
        let is_new = connection.server_version_num().is_some_and(|version| version >= since);
        let settings = format!("{}{}", self.settings, if is_new { statement } else { "" });
        sqlx::raw_sql(sqlx::AssertSqlSafe(settings)).execute(connection).await.map(drop)
    }
}

/// Whether a server that answers will take connections in time: it is full, or it starts up.
fn will_have_room(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| NO_ROOM.contains(&&*code))
}

/// Waits a little, and says so once in a while: a fleet that waits must not fill its logs.
async fn wait_for_room(error: &sqlx::Error) {
    static TOLD: Mutex<Option<Instant>> = Mutex::new(None);
    {
        let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|at| at.elapsed() > TOLD_EVERY) {
            *told = Some(Instant::now());
            tracing::warn!("the database takes no further connection, waiting: {error}");
        }
    }
    // Not all at the same time.
    let share = f64::from(Uuid::new_v4().as_bytes()[0]) / 255.0;
    tokio::time::sleep(ROOM_PAUSE.mul_f64(0.5 + share)).await;
}

/// Whether these two connections have each a session of its own, which lasts from one transaction to the next. Prepares nothing, which a pooler
/// may not carry over.
pub(crate) async fn keep_their_sessions(
    one: &mut PgConnection,
    other: &mut PgConnection,
) -> sqlx::Result<bool> {
    let first = process(one).await?;
    for _ in 0..POOLER_LOOKS {
        // While this one holds a session, a pooler has to give the other another one.
        match sqlx::raw_sql("BEGIN").execute(&mut *other).await {
            // No server does so; a pooler of single statements does.
            Err(sqlx::Error::Database(_)) => return Ok(false),
            begun => begun.map(drop)?,
        }
        let held = process(other).await?;
        let now = tokio::time::timeout(POOLER_LIMIT, process(one)).await;
        sqlx::raw_sql("ROLLBACK").execute(&mut *other).await?;
        // A pooler that has one session only gives the other none at all.
        let Ok(now) = now else { return Ok(false) };
        if now? != first || held == first {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The server's process behind a connection.
async fn process(connection: &mut PgConnection) -> sqlx::Result<i32> {
    sqlx::raw_sql("SELECT pg_backend_pid()").fetch_one(connection).await?.try_get(0)
}

/// Whether the server takes no writes from this session: it is a standby, or was made read-only.
pub(crate) async fn is_read_only(connection: &mut PgConnection) -> sqlx::Result<bool> {
    let is = sqlx::query_scalar("SELECT current_setting('transaction_read_only')::bool");
    is.fetch_one(connection).await
}

/// A server that answers and takes no writes.
pub(crate) fn read_only() -> sqlx::Error {
    sqlx::Error::Protocol("the server takes no writes: it is a standby, or was made read-only".to_owned())
}

impl DatabaseUrl {
    /// A connection of the caller's own, as the store's are: for tests, which look into the tables.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn connect(&self) -> Result<PgConnection, StoreError> {
        Session::new(self, "", &[]).open().await.map_err(StoreError::database("connect"))
    }
}
