//! The database URL.

use crate::model::error::StoreError;
use outside::without_secrets;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection};
use std::{fmt, str::FromStr};

/// The search path of every connection. The server looks into `pg_catalog` before it; a session's temporary tables come last, so
/// that none stands before a table of ours.
pub(crate) const SEARCH_PATH: &str = "roundhouse, pg_temp";

/// What every connection asks the server for when it starts.
pub(crate) const NAMES: [(&str, &str); 1] = [("search_path", SEARCH_PATH)];

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
