//! The protocol versions that are known.

use crate::database::store::JobStore;
use crate::model::error::StoreError;
use schemars::JsonSchema;
use serde::Serialize;
use sqlx::PgConnection;

/// A protocol version that the database knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct VersionReport {
    /// Minor part.
    pub minor: i32,
    /// Patch part.
    pub patch: i32,
    /// Name of its proof system.
    pub proof_system: String,
    /// Digest of its verification keys.
    pub verification_keys_digest: String,
    /// Its batches that are not over.
    pub open_batches: i64,
    /// Workers that live and take its jobs.
    pub live_workers: i64,
}

impl JobStore {
    /// The protocol versions that are known, newest first.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn versions(&self) -> Result<Vec<VersionReport>, StoreError> {
        self.reports
            .statement("versions", async |connection: &mut PgConnection| {
                sqlx::query_as!(
                    VersionReport,
                    r#"SELECT minor, patch, proof_system, verification_keys_digest,
                              (SELECT count(*) FROM batches b
                               WHERE b.protocol_minor = minor AND b.protocol_patch = patch
                                 AND b.status IN ('queued', 'in_progress')) AS "open_batches!",
                              (SELECT count(*) FROM workers w
                               WHERE w.protocol_minor = minor AND w.protocol_patch = patch
                                 AND w.stopped_at IS NULL AND w.expires_at > now()) AS "live_workers!"
                       FROM protocol_versions ORDER BY minor DESC, patch DESC"#
                )
                .fetch_all(connection)
                .await
            })
            .await
    }
}
