//! Protocol versions and batches.

use crate::metrics::QueryTimer;
use crate::model::{GENERATOR, artifact, batch_id, generator_id, size};
use crate::{JobStore, StoreError};
use proving_model::{ArtifactRef, BatchId, BatchStatus, ProtocolVersion, Stage};

/// A batch to be proven.
#[derive(Debug, Clone)]
pub struct NewBatch {
    /// Chain and number.
    pub id: BatchId,
    /// The version to prove it under; must be known to the store.
    pub version: ProtocolVersion,
    /// Its witness input, already in the object store.
    pub input: ArtifactRef,
    /// Higher is sooner.
    pub priority: i32,
}

/// What inserting a batch did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InsertedBatch {
    /// It is new, and queued.
    New,
    /// The same batch, with the same input, was there already; nothing was changed.
    AlreadyThere,
}

/// A batch's row.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Chain and number.
    pub id: BatchId,
    /// Order of arrival over all chains; the ids of its jobs are made of it.
    pub(crate) position: i64,
    /// Its state.
    pub status: BatchStatus,
    /// The version that it is proven under.
    pub version: ProtocolVersion,
    /// Its witness input.
    pub input: ArtifactRef,
    /// Its final proof, once successful.
    pub final_proof: Option<ArtifactRef>,
    /// Why it failed.
    pub error: Option<String>,
    /// Seconds since it was inserted.
    pub age_seconds: f64,
    /// Seconds from insertion to its end, once it has one.
    pub duration_seconds: Option<f64>,
}

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
        let _timer = QueryTimer::start("insert_protocol_version");
        sqlx::query!(
            "INSERT INTO protocol_versions (minor, patch, proof_system, verification_keys_digest)
             VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
            i32::from(version.minor),
            i32::from(version.patch),
            proof_system,
            keys_digest
        )
        .execute(&self.pool)
        .await
        .map_err(StoreError::database("insert_protocol_version"))?;
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
        let _timer = QueryTimer::start("check_protocol_version");
        let row = sqlx::query!(
            "SELECT proof_system, verification_keys_digest FROM protocol_versions WHERE minor = $1 AND patch = $2",
            i32::from(version.minor),
            i32::from(version.patch)
        )
        .fetch_optional(&self.pool)
        .await
        .map_err(StoreError::database("check_protocol_version"))?;
        match row {
            None => Err(StoreError::Invalid(format!(
                "protocol version {version} is not known to the database: run `prover_cli insert-version`"
            ))),
            Some(row) if row.proof_system != proof_system || row.verification_keys_digest != keys_digest => {
                Err(StoreError::Conflict(format!(
                    "protocol version {version} stands for keys {} of {} in the database, and this program has \
                     {keys_digest} of {proof_system}",
                    row.verification_keys_digest, row.proof_system
                )))
            }
            Some(_) => Ok(()),
        }
    }

    /// Inserts a batch and its first job. Idempotent: the same batch with the same input is inserted once.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the batch is there with another input or version.
    pub async fn insert_batch(&self, batch: &NewBatch) -> Result<InsertedBatch, StoreError> {
        let _timer = QueryTimer::start("insert_batch");
        let error = StoreError::database;
        let mut transaction = self.hot.begin().await.map_err(error("insert_batch"))?;
        let (chain_id, number) = (i64::from(batch.id.chain_id), i64::from(batch.id.number));
        let position = sqlx::query_scalar!(
            "INSERT INTO batches (chain_id, number, protocol_minor, protocol_patch, priority,
                                  input_key, input_checksum, input_size_bytes)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
             ON CONFLICT DO NOTHING
             RETURNING position",
            chain_id,
            number,
            i32::from(batch.version.minor),
            i32::from(batch.version.patch),
            batch.priority,
            batch.input.key,
            batch.input.checksum.as_slice(),
            size(&batch.input)
        )
        .fetch_optional(&mut *transaction)
        .await
        .map_err(error("insert_batch"))?;
        let Some(position) = position else {
            drop(transaction);
            let found = self.batch(batch.id).await?.ok_or(StoreError::NoSuchBatch(batch.id))?;
            if found.input.checksum == batch.input.checksum && found.version == batch.version {
                return Ok(InsertedBatch::AlreadyThere);
            }
            return Err(StoreError::Conflict(format!(
                "{} is there already, with another input or version; nothing was changed",
                batch.id
            )));
        };
        sqlx::query!(
            "INSERT INTO prover_jobs (id, chain_id, batch_number, aggregation_round, stage, circuit_id, depth,
                 sequence_number, memory_class, priority, batch_position, protocol_minor, protocol_patch,
                 expected_cost_ms, status, dependencies_left, queued_at)
             VALUES ($1, $2, $3, $4, $5, 0, 0, 0, 'light', $6, $7, $8, $9, 0, 'queued', 0, now())",
            generator_id(position)?,
            chain_id,
            number,
            GENERATOR.round.number(),
            GENERATOR.stage.as_str(),
            batch.priority,
            position,
            i32::from(batch.version.minor),
            i32::from(batch.version.patch)
        )
        .execute(&mut *transaction)
        .await
        .map_err(error("insert_batch"))?;
        transaction.commit().await.map_err(error("insert_batch"))?;
        self.waker.wake(Stage::WitnessGeneration);
        Ok(InsertedBatch::New)
    }

    /// A batch's row.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn batch(&self, id: BatchId) -> Result<Option<Batch>, StoreError> {
        let _timer = QueryTimer::start("batch");
        let row = sqlx::query!(
            r#"SELECT chain_id, number, position, status, protocol_minor, protocol_patch,
                      input_key, input_checksum, input_size_bytes,
                      final_proof_key, final_proof_checksum, final_proof_size_bytes, error,
                      EXTRACT(EPOCH FROM now() - created_at)::float8 AS "age_seconds!",
                      EXTRACT(EPOCH FROM finished_at - created_at)::float8 AS duration_seconds
               FROM batches WHERE chain_id = $1 AND number = $2"#,
            i64::from(id.chain_id),
            i64::from(id.number)
        )
        .fetch_optional(&self.pool)
        .await
        .map_err(StoreError::database("batch"))?;
        let Some(row) = row else { return Ok(None) };
        let bad = |what: &str| StoreError::Schema(format!("the row of {id} has a bad {what}"));
        let narrow = |value: i32| u16::try_from(value).map_err(|_| bad("protocol version"));
        Ok(Some(Batch {
            id: batch_id(row.chain_id, row.number)?,
            position: row.position,
            status: row.status.parse().map_err(|_| bad("status"))?,
            version: ProtocolVersion {
                minor: narrow(row.protocol_minor)?,
                patch: narrow(row.protocol_patch)?,
            },
            input: artifact(Some(row.input_key), Some(row.input_checksum), Some(row.input_size_bytes))?
                .ok_or_else(|| bad("input"))?,
            final_proof: artifact(row.final_proof_key, row.final_proof_checksum, row.final_proof_size_bytes)?,
            error: row.error,
            age_seconds: row.age_seconds,
            duration_seconds: row.duration_seconds,
        }))
    }
}
