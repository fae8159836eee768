//! What is paused.

use crate::database::store::JobStore;
use crate::model::error::StoreError;
use schemars::JsonSchema;
use serde::Serialize;
use sqlx::PgConnection;

/// What is paused now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Paused {
    /// Chains.
    pub chains: Vec<i64>,
    /// Stages.
    pub stages: Vec<String>,
}

impl JobStore {
    /// What is paused now.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn paused(&self) -> Result<Paused, StoreError> {
        self.reports
            .statement("paused", async |connection: &mut PgConnection| {
                sqlx::query_as!(
                    Paused,
                    r#"SELECT ARRAY(SELECT chain_id FROM chains WHERE paused_at IS NOT NULL
                                    ORDER BY chain_id) AS "chains!",
                              ARRAY(SELECT stage::text FROM paused_stages ORDER BY stage) AS "stages!""#
                )
                .fetch_one(connection)
                .await
            })
            .await
    }
}
