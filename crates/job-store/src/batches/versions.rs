//! Protocol versions.

use crate::database::store::JobStore;
use crate::model::error::StoreError;
use proving_model::ProtocolVersion;
use sqlx::PgConnection;

impl JobStore {
    /// Makes a protocol version known.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when it is known with other keys.
    pub async fn insert_protocol_version(
        &self,
        version: ProtocolVersion,
        proof_system: &str,
        keys_digest: &str,
    ) -> Result<(), StoreError> {
        self.reports
            .statement("insert_protocol_version", async |connection: &mut PgConnection| {
                sqlx::query!(
                    "INSERT INTO protocol_versions (minor, patch, proof_system, verification_keys_digest)
                     VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
                    i32::from(version.minor),
                    i32::from(version.patch),
                    proof_system,
                    keys_digest
                )
                .execute(connection)
                .await
            })
            .await?;
        self.check_protocol_version(version, proof_system, keys_digest).await
    }

    /// Checks that a version is known, with these keys.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] when it is not known, [`StoreError::Conflict`] when its keys are others.
    pub async fn check_protocol_version(
        &self,
        version: ProtocolVersion,
        proof_system: &str,
        keys_digest: &str,
    ) -> Result<(), StoreError> {
        let row = self
            .reports
            .statement("check_protocol_version", async |connection: &mut PgConnection| {
                sqlx::query!(
                    "SELECT proof_system, verification_keys_digest FROM protocol_versions
                     WHERE minor = $1 AND patch = $2",
                    i32::from(version.minor),
                    i32::from(version.patch)
                )
                .fetch_optional(connection)
                .await
            })
            .await?;
        match row {
            None => Err(StoreError::Invalid(format!(
                "protocol version {version} is not known to the database: run `prover_cli insert-version`"
            ))),
            Some(row) if row.proof_system != proof_system || row.verification_keys_digest != keys_digest => {
                Err(StoreError::Conflict(format!(
                    "protocol version {version} stands for keys {} of {} in the database, and this program \
                     has {keys_digest} of {proof_system}",
                    row.verification_keys_digest, row.proof_system
                )))
            }
            Some(_) => Ok(()),
        }
    }
}
