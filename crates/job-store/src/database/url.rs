//! The database URL: one server, or several of which one takes writes.

use crate::database::encryption::{encrypted, invalid_url, parameter};
use crate::model::error::StoreError;
use outside::without_secrets;
use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;
use std::{fmt, sync::Arc};
use url::Url;

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

/// Ours: which of several servers will do, in the words of PostgreSQL's own library.
const SESSION_ATTRIBUTES: &str = "target_session_attrs";

/// The name under which the server lists a connection whose URL gives none.
const APPLICATION: &str = "roundhouse";

/// Where the database is. Its text holds a password, so it is never printed.
#[derive(Clone)]
pub struct DatabaseUrl {
    text: String,
    /// In the order in which they are tried; at least one.
    servers: Arc<[PgConnectOptions]>,
    /// Whether a server that takes no writes is passed over.
    wants_writer: bool,
}

/// A URL's text around its hosts.
struct Parts<'a> {
    /// Scheme, user and password.
    before: &'a str,
    hosts: Vec<&'a str>,
    /// Database and parameters.
    after: &'a str,
}

impl<'a> Parts<'a> {
    fn of(text: &'a str) -> Self {
        let authority = text.find("://").map_or(0, |at| at + 3);
        let end = text[authority..].find(['/', '?', '#']).map_or(text.len(), |at| authority + at);
        let hosts = text[..end].rfind('@').map_or(authority, |at| (at + 1).max(authority));
        Self { before: &text[..hosts], hosts: text[hosts..end].split(',').collect(), after: &text[end..] }
    }

    fn with_host(&self, host: &str) -> String {
        format!("{}{host}{}", self.before, self.after)
    }
}

impl DatabaseUrl {
    /// Takes a URL, `postgres://USER:PASSWORD@HOST:PORT/DATABASE`; several hosts are parted by commas.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] when it is none, or would send data in clear to another machine without saying so; the message does not
    /// repeat it.
    pub fn new(url: &str) -> Result<Self, StoreError> {
        if !url.contains("://") && url.contains('=') {
            return Err(invalid_url(&format!("it is a list of key=value pairs; {FORM}")));
        }
        let parts = Parts::of(url);
        check_user(parts.before)?;
        let mut servers = Vec::new();
        let mut wants_writer = parts.hosts.len() > 1;
        for host in &parts.hosts {
            let url = parse(&parts.with_host(host))?;
            check_parameters(&url)?;
            // The driver would take the user's name for the database's.
            if url.path().trim_start_matches('/').is_empty() && parameter(&url, "dbname").is_none() {
                return Err(invalid_url(&format!("it names no database; {FORM}")));
            }
            if let Some(wanted) = parameter(&url, SESSION_ATTRIBUTES) {
                wants_writer = wants_writing(&wanted)?;
            }
            servers.push(server(&url)?);
        }
        Ok(Self { text: url.to_owned(), servers: servers.into(), wants_writer })
    }

    /// The same, under a name by which the server's administrator knows its connections, where the URL gives none.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        let is_ours = |server: &PgConnectOptions| server.get_application_name() == Some(APPLICATION);
        self.servers = self
            .servers
            .iter()
            .map(
                |server| {
                    if is_ours(server) { server.clone().application_name(name) } else { server.clone() }
                },
            )
            .collect();
        self
    }

    /// The servers, in the order in which they are tried.
    pub(crate) fn servers(&self) -> &[PgConnectOptions] {
        &self.servers
    }

    /// Whether a server that takes no writes is passed over.
    pub(crate) fn wants_writer(&self) -> bool {
        self.wants_writer
    }

    /// The same database for another user, who has no password.
    ///
    /// # Errors
    /// [`StoreError::Invalid`].
    pub fn with_user(&self, name: &str) -> Result<Self, StoreError> {
        self.edited(|url| url.set_username(name).is_ok() && url.set_password(None).is_ok())
    }

    /// The same server's database of this name.
    ///
    /// # Errors
    /// [`StoreError::Invalid`].
    pub fn with_database(&self, name: &str) -> Result<Self, StoreError> {
        self.edited(|url| {
            url.set_path(name);
            true
        })
    }

    /// The same database by way of another address, such as a proxy's; settings in the query part are dropped.
    ///
    /// # Errors
    /// [`StoreError::Invalid`].
    pub fn with_host_and_port(&self, host: &str, port: u16) -> Result<Self, StoreError> {
        let parts = Parts::of(&self.text);
        let mut url = parse(&parts.with_host(parts.hosts[0]))?;
        url.set_query(None);
        if url.set_host(Some(host)).is_ok() && url.set_port(Some(port)).is_ok() {
            Self::new(url.as_str())
        } else {
            Err(StoreError::Invalid(format!("{host}:{port} is no address")))
        }
    }

    /// The same hosts in another URL.
    fn edited(&self, edit: impl Fn(&mut Url) -> bool) -> Result<Self, StoreError> {
        let parts = Parts::of(&self.text);
        let mut url = parse(&parts.with_host(parts.hosts[0]))?;
        if !edit(&mut url) {
            return Err(invalid_url("it cannot be given another user or database"));
        }
        let edited = Parts::of(url.as_str());
        Self::new(&edited.with_host(&parts.hosts.join(",")))
    }

    /// The URL itself, for handing it to another process.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.text
    }
}

fn parse(text: &str) -> Result<Url, StoreError> {
    // The error says what is wrong and quotes nothing.
    Url::parse(text).map_err(|e| invalid_url(&format!("{e}; {FORM}")))
}

/// What a URL looks like.
const FORM: &str = "it should be postgres://USER:PASSWORD@HOST:PORT/DATABASE, with @ : / ? # % [ and ] in the password written as %40 %3A \
                    %2F %3F %23 %25 %5B and %5D";

/// Refuses a % in user or password that begins no escape: the driver takes it as it is, and `%41` beside it as an A.
fn check_user(before: &str) -> Result<(), StoreError> {
    let is_escape = |rest: &str| rest.len() >= 2 && rest.bytes().take(2).all(|b| b.is_ascii_hexdigit());
    if before.split('%').skip(1).all(is_escape) {
        return Ok(());
    }
    Err(invalid_url(&format!(
        "a % in its user or password is not followed by two hexadecimal digits; {FORM}"
    )))
}

/// Refuses what the driver would leave out with a warning that shows the value, which may be a misspelt password.
fn check_parameters(url: &Url) -> Result<(), StoreError> {
    if !matches!(url.scheme(), "postgres" | "postgresql") {
        return Err(invalid_url(&format!("it does not begin with postgres://; {FORM}")));
    }
    for (key, _) in url.query_pairs() {
        let is_option = key.strip_prefix("options[").is_some_and(|rest| rest.ends_with(']'));
        if !is_option && key != SESSION_ATTRIBUTES && !PARAMETERS.contains(&&*key) {
            let known = PARAMETERS.join(", ");
            let key = shown_key(&key);
            return Err(invalid_url(&format!(
                "it has a parameter {key}, which is none; these are: {known}, {SESSION_ATTRIBUTES}"
            )));
        }
    }
    Ok(())
}

/// Whether only a server that takes writes will do.
fn wants_writing(attributes: &str) -> Result<bool, StoreError> {
    match attributes {
        "read-write" | "primary" => Ok(true),
        "any" => Ok(false),
        _ => Err(invalid_url("its target_session_attrs is not read-write, primary or any")),
    }
}

/// How connections to one host are opened.
fn server(url: &Url) -> Result<PgConnectOptions, StoreError> {
    let mut known = url.clone();
    let is_the_drivers = |key: &str, value: &str| {
        let is_system = matches!(key, "sslrootcert" | "ssl-root-cert" | "ssl-ca") && value == "system";
        !is_system && ![SESSION_ATTRIBUTES, "sslmode", "ssl-mode"].contains(&key)
    };
    let kept: Vec<_> = url.query_pairs().filter(|(key, value)| is_the_drivers(key, value)).collect();
    known.set_query(None);
    if !kept.is_empty() {
        known.query_pairs_mut().extend_pairs(kept);
    }
    let options = PgConnectOptions::from_url(&known).map_err(|e| match e {
        // A parser quotes what it cannot read, and that may be a password.
        sqlx::Error::Configuration(_) => invalid_url(&format!("a part of it cannot be read; {FORM}")),
        e => invalid_url(&without_secrets(&e.to_string(), url.as_str())),
    })?;
    let name = options.get_application_name().unwrap_or(APPLICATION).to_owned();
    // A pooler refuses what it does not know of a connection's first message, so that one asks for nothing: settings are made afterwards.
    let options = options.application_name(&name).extra_float_digits(None).disable_statement_logging();
    encrypted(options, url)
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
            ("host=db user=me dbname=x password=swordfish", "key=value pairs; it should be postgres://"),
            ("postgres://me:swordfish@host", "names no database; it should be postgres://"),
            ("postgres://me:swordfish@host/?sslmode=disable", "names no database"),
            ("postgres://me:100%swordfish@host/db", "two hexadecimal digits; it should be"),
            ("postgres://me:swordfish%@host/db", "two hexadecimal digits"),
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

    fn mode(url: &str) -> String {
        format!("{:?}", DatabaseUrl::new(url).unwrap().servers()[0].get_ssl_mode())
    }

    #[test]
    fn what_leaves_the_machine_is_encrypted_and_checked_unless_the_url_says_otherwise() {
        for (url, expected) in [
            ("postgres://me@db.example/x", "VerifyFull"),
            ("postgres://me@10.0.0.7/x", "VerifyFull"),
            ("postgres://me@localhost.example/x", "VerifyFull"),
            ("postgres://me@db.example/x?sslmode=require", "Require"),
            ("postgres://me@db.example/x?sslmode=verify-ca", "VerifyCa"),
            ("postgres://me@db.example/x?sslmode=verify-full&sslrootcert=system", "VerifyFull"),
            ("postgres://me@db.example/x?sslmode=disable", "Disable"),
            ("postgres://me@localhost/x", "Prefer"),
            ("postgres://me@127.0.0.9/x", "Prefer"),
            ("postgres://me@[::1]/x", "Prefer"),
            ("postgres://me@localhost/x?sslmode=verify-full", "VerifyFull"),
            ("postgres://me@%2Frun%2Fpostgresql/x", "Disable"),
            ("postgres://me@db.example/x?host=%2Frun%2Fpostgresql", "Disable"),
            ("postgres://me@localhost/x?host=db.example", "VerifyFull"),
            ("postgres://me@localhost/x?hostaddr=10.0.0.7", "VerifyFull"),
        ] {
            assert_eq!(mode(url), expected, "{url}");
        }
    }

    #[test]
    fn half_measures_are_refused() {
        for (url, named) in [
            ("postgres://me@db.example/x?sslmode=prefer", "turn encryption off"),
            ("postgres://me@db.example/x?sslmode=allow", "turn encryption off"),
            ("postgres://me@db.example/x?sslmode=verify", "none of"),
            ("postgres://me@db.example/x?sslmode=require&sslrootcert=system", "only sslmode=verify-full"),
            ("postgres://me@db.example/x?sslrootcert=/nowhere.pem", "/nowhere.pem, cannot be read"),
            ("postgres://me@db.example/x?sslrootcert=/etc/hostname", "should be a PEM file"),
            ("postgres://me@db.example/x?sslcert=/etc/hostname", "only one of"),
        ] {
            let refused = DatabaseUrl::new(url).unwrap_err().to_string();
            assert!(refused.contains(named), "{url}: {refused}");
        }
    }
}
