//! Connecting.

use crate::commit::Committer;
use crate::connections::{Connections, Durability, LIVELINESS};
use crate::learn::Knowledge;
use crate::metrics::QueryTimer;
use crate::schema::{NAMES, SEARCH_PATH};
use crate::wake::Waker;
use crate::{RetryPolicy, StoreError};
use outside::without_secrets;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};
use std::{fmt, str::FromStr, time::Duration};

/// Connections of a process, opened when needed: few beat many, since each statement is short. Writes that wait for the disk;
/// claims and notifications, which do not; reports.
const HOT_CONNECTIONS_MAX: u32 = 4;
const RELAXED_CONNECTIONS_MAX: u32 = 3;
const REPORT_CONNECTIONS_MAX: u32 = 2;
/// How long to wait for a connection before an operation counts as failed.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// The parameters of a database URL's query that the driver knows, beside `options[NAME]`.
const PARAMETERS: [&str; 18] = [
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
    "ssl-mode",
    "ssl-root-cert",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "statement-cache-capacity",
    "user",
];

/// Where the database is. Its text holds a password, so it is never printed.
#[derive(Clone)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    /// Takes a URL, `postgres://USER:PASSWORD@HOST:PORT/DATABASE`.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] when it is none; the message does not repeat it.
    pub fn new(url: &str) -> Result<Self, StoreError> {
        let checked = Self(url.to_owned());
        checked.check_parameters()?;
        checked.options()?;
        Ok(checked)
    }

    /// Refuses what the driver would leave out with a warning that shows the value, which may be a misspelt password.
    fn check_parameters(&self) -> Result<(), StoreError> {
        let url = self.parse()?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err(invalid_url("it does not begin with postgres://"));
        }
        for (key, _) in url.query_pairs() {
            let is_option = key.strip_prefix("options[").is_some_and(|rest| rest.ends_with(']'));
            if !is_option && !PARAMETERS.contains(&&*key) {
                let known = PARAMETERS.join(", ");
                let key = shown_key(&key);
                return Err(invalid_url(&format!(
                    "it has a parameter {key}, which is none; these are: {known}"
                )));
            }
        }
        Ok(())
    }

    /// How every connection is opened: what looks up a name, looks in our schema.
    pub(crate) fn options(&self) -> Result<PgConnectOptions, StoreError> {
        let options = PgConnectOptions::from_str(&self.0).map_err(|e| match e {
            // A parser quotes what it cannot read, and that may be a password.
            sqlx::Error::Configuration(_) => invalid_url(
                "a part of it cannot be read; it should be postgres://USER:PASSWORD@HOST:PORT/DATABASE, with / ? # @ and % in the \
                 password written as %2F %3F %23 %40 %25",
            ),
            e => invalid_url(&without_secrets(&e.to_string(), &self.0)),
        })?;
        Ok(options.options(NAMES))
    }

    /// A connection of the caller's own, as the store's are: for tests, which look into the tables.
    ///
    /// # Errors
    /// [`StoreError::Invalid`], [`StoreError::Database`].
    pub async fn connect(&self) -> Result<PgConnection, StoreError> {
        self.options()?.connect().await.map_err(StoreError::database("connect"))
    }

    /// The same database for another user, who has no password.
    ///
    /// # Errors
    /// [`StoreError::Invalid`].
    pub fn with_user(&self, name: &str) -> Result<Self, StoreError> {
        let mut url = self.parse()?;
        if url.set_username(name).is_err() || url.set_password(None).is_err() {
            return Err(StoreError::Invalid(format!("{name:?} is no user of a database")));
        }
        Ok(Self(url.into()))
    }

    /// The same server's database of this name.
    ///
    /// # Errors
    /// [`StoreError::Invalid`].
    pub fn with_database(&self, name: &str) -> Result<Self, StoreError> {
        let mut url = self.parse()?;
        url.set_path(name);
        Ok(Self(url.into()))
    }

    /// The same database by way of another address, such as a proxy's; settings in the query part are dropped.
    ///
    /// # Errors
    /// [`StoreError::Invalid`].
    pub fn with_host_and_port(&self, host: &str, port: u16) -> Result<Self, StoreError> {
        let mut url = self.parse()?;
        url.set_query(None);
        let set = url.set_host(Some(host)).is_ok() && url.set_port(Some(port)).is_ok();
        if set {
            Ok(Self(url.into()))
        } else {
            Err(StoreError::Invalid(format!("{host}:{port} is no address")))
        }
    }

    fn parse(&self) -> Result<url::Url, StoreError> {
        // The error says what is wrong and quotes nothing.
        url::Url::parse(&self.0).map_err(|e| invalid_url(&e.to_string()))
    }

    /// The URL itself, for handing it to another process.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

fn invalid_url(reason: &str) -> StoreError {
    StoreError::Invalid(format!("the database URL is not valid: {reason}"))
}

/// An unknown parameter's name, where it looks like one: an unescaped `?` or `&` in a password makes the rest of it a name.
fn shown_key(key: &str) -> &str {
    let is_name = key.len() <= 32 && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b == b'-');
    if is_name { key } else { "of another form (hidden)" }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DatabaseUrl(hidden)")
    }
}

/// The job store. Clones share one pool.
#[derive(Debug, Clone)]
pub struct JobStore {
    pub(crate) url: DatabaseUrl,
    /// Short statements along indexes, durable.
    pub(crate) hot: Connections,
    /// The same, for what a crash of the server may forget.
    pub(crate) relaxed: Connections,
    /// Everything else, planned as the server sees fit.
    pub(crate) reports: Connections,
    pub(crate) committer: Committer,
    pub(crate) knowledge: Knowledge,
    pub(crate) policy: RetryPolicy,
    pub(crate) waker: Waker,
}

impl JobStore {
    /// Connects. The schema is not looked at; see [`JobStore::check_schema`] and [`JobStore::migrate`].
    ///
    /// # Errors
    /// [`StoreError::Database`] when the server cannot be reached.
    pub async fn connect(url: &DatabaseUrl) -> Result<Self, StoreError> {
        let options = url.options()?.options(LIVELINESS);
        // The pool would try until its timeout and then say no more than that; one connection says why at once.
        let first = tokio::time::timeout(ACQUIRE_TIMEOUT, options.connect()).await;
        let first = first.unwrap_or_else(|_| Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())));
        let mut first = first.map_err(StoreError::database("connect"))?;
        let found: String = sqlx::query_scalar("SELECT current_setting('search_path')")
            .fetch_one(&mut first)
            .await
            .map_err(StoreError::database("connect"))?;
        first.close().await.map_err(StoreError::database("connect"))?;
        if found != SEARCH_PATH {
            // A pooler between that ignores what a connection asks for: names would be looked up where other roles may create things.
            return Err(StoreError::Invalid(format!(
                "the search path of the connection is {found:?} and not {SEARCH_PATH:?}: let the pooler before the server pass the \
                 startup parameter `options`, or connect to the server itself"
            )));
        }
        let reports = Connections::for_reports(url, REPORT_CONNECTIONS_MAX)?;
        let hot = Connections::new(url, Durability::Durable, HOT_CONNECTIONS_MAX)?;
        let relaxed = Connections::new(url, Durability::Relaxed, RELAXED_CONNECTIONS_MAX)?;
        let waker = Waker::start(relaxed.clone());
        let committer = Committer::start(hot.clone(), waker.clone());
        Ok(Self {
            url: url.clone(),
            hot,
            relaxed,
            reports,
            policy: RetryPolicy::default(),
            waker,
            committer,
            knowledge: Knowledge::default(),
        })
    }

    /// The same store with other retry budgets.
    #[must_use]
    pub fn with_retry_policy(mut self, policy: RetryPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Asks the database for a sign of life.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn ping(&self) -> Result<(), StoreError> {
        let _timer = QueryTimer::start("ping");
        self.reports
            .run("ping", async |connection: &mut PgConnection| {
                sqlx::query("SELECT 1")
                    .execute(connection)
                    .await
                    .map(drop)
                    .map_err(StoreError::database("ping"))
            })
            .await
    }

    /// Creates an empty database on the server of `url`; the name is taken as it is.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for a name that is not letters, digits and underscores, else [`StoreError::Database`].
    pub async fn create_database(url: &DatabaseUrl, name: &str) -> Result<(), StoreError> {
        Self::on_server(url, "CREATE DATABASE", name).await
    }

    /// Drops a database, and the connections to it.
    ///
    /// # Errors
    /// As [`JobStore::create_database`].
    pub async fn drop_database(url: &DatabaseUrl, name: &str) -> Result<(), StoreError> {
        Self::on_server(url, "DROP DATABASE IF EXISTS", name).await
    }

    async fn on_server(url: &DatabaseUrl, verb: &'static str, name: &str) -> Result<(), StoreError> {
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err(StoreError::Invalid(format!("{name:?} is not a name for a database")));
        }
        let error = StoreError::database;
        let mut connection = url.options()?.connect().await.map_err(error(verb))?;
        // These statements take no parameters; the name was checked above.
        let force = if verb.starts_with("DROP") { " WITH (FORCE)" } else { "" };
        let statement = sqlx::AssertSqlSafe(format!("{verb} {name}{force}"));
        sqlx::raw_sql(statement).execute(&mut connection).await.map_err(error(verb))?;
        Ok(())
    }

    /// Brings the planner's statistics up to date, after many rows came at once.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn analyze(&self) -> Result<(), StoreError> {
        let _timer = QueryTimer::start("analyze");
        self.reports
            .run("analyze", async |connection: &mut PgConnection| {
                sqlx::raw_sql("ANALYZE")
                    .execute(connection)
                    .await
                    .map(drop)
                    .map_err(StoreError::database("analyze"))
            })
            .await
    }

    /// Closes all connections.
    pub async fn close(&self) {
        self.waker.flush().await;
        self.hot.close().await;
        self.relaxed.close().await;
        self.reports.close().await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn a_database_url_is_refused_without_its_secrets() {
        for (url, named) in [
            ("postgres://me@host/db?pasword=swordfish", "pasword"),
            ("postgres://me:12?swordfish@host/db", "hidden"),
            ("postgres://me:pass?swordfish@host/db", "not valid"),
            ("postgres://me:pass&swordfish=1@host/db?pass&swordfish=1", "not valid"),
            ("postgres://me:swordfish/1@host/db", "not valid"),
            ("postgres://me@host/db?sslmode=swordfish", "not valid"),
            ("postgres://me@host/db?port=swordfish", "not valid"),
            ("mysql://me:swordfish@host/db", "postgres://"),
            ("swordfish", "not valid"),
        ] {
            let refused = DatabaseUrl::new(url).unwrap_err().to_string();
            assert!(refused.contains(named) && !refused.contains("swordfish"), "{url}: {refused}");
        }
    }

    #[test]
    fn every_parameter_that_the_driver_knows_is_taken() {
        let url = "postgresql://me@%2Frun%2Fpg:1/db?sslmode=disable&application_name=x&options=-c%20a%3Db&options[jit]=off&user=u\
                   &statement-cache-capacity=3&hostaddr=127.0.0.1&password=p&dbname=d&port=5&host=h";
        DatabaseUrl::new(url).unwrap();
    }
}
