//! What is done to a server or a whole database: create, drop, analyse.

use crate::database::store::JobStore;
use crate::database::url::DatabaseUrl;
use crate::model::error::StoreError;
use sqlx::PgConnection;

impl JobStore {
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
        let mut connection = url.connect().await?;
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
}
