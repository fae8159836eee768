//! Protocol versions and batches.

use crate::chains::{arrange, is_in_order, lock_chain, take_start_tag};
use crate::metrics::QueryTimer;
use crate::model::{GENERATOR, POSITION_MAX, artifact, batch_id, generator_id, queue, size, turn};
use crate::pause::held_queue;
use crate::{JobStore, StoreError};
use proving_model::{ArtifactRef, BatchId, BatchStatus, MemoryClass, ProtocolVersion, Stage};
use sqlx::{Connection, PgConnection};

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
    /// When the final proof should be there, as the database reads it (RFC 3339, for example). Among batches of one priority
    /// the earlier deadline is sooner, and one without comes last.
    pub deadline: Option<String>,
}

impl NewBatch {
    /// A batch of no particular priority and without a deadline.
    #[must_use]
    pub fn new(id: BatchId, version: ProtocolVersion, input: ArtifactRef) -> Self {
        Self { id, version, input, priority: 0, deadline: None }
    }
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
        self.reports
            .run("insert_protocol_version", async |connection: &mut PgConnection| {
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
                .map_err(StoreError::database("insert_protocol_version"))
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
        let _timer = QueryTimer::start("check_protocol_version");
        let row = self
            .reports
            .run("check_protocol_version", async |connection: &mut PgConnection| {
                sqlx::query!(
                    "SELECT proof_system, verification_keys_digest FROM protocol_versions
                     WHERE minor = $1 AND patch = $2",
                    i32::from(version.minor),
                    i32::from(version.patch)
                )
                .fetch_optional(connection)
                .await
                .map_err(StoreError::database("check_protocol_version"))
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

    /// Inserts a batch and its first job. Idempotent: the same batch with the same input is inserted once.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the batch is there with another input or version.
    pub async fn insert_batch(&self, batch: &NewBatch) -> Result<InsertedBatch, StoreError> {
        let _timer = QueryTimer::start("insert_batch");
        let error = StoreError::database;
        let inserted = self
            .hot
            .run("insert_batch", async |connection: &mut PgConnection| {
                let mut transaction = connection.begin().await.map_err(error("insert_batch"))?;
                let (chain_id, number) = (i64::from(batch.id.chain_id), i64::from(batch.id.number));
                let chain = lock_chain(&mut transaction, batch.id.chain_id).await?;
                // Looked up first: an insertion that fails or meets its batch would use up a position all the same.
                if find_batch(&mut transaction, batch.id).await?.is_some() {
                    return Ok(InsertedBatch::AlreadyThere);
                }
                check_new_batch(&mut transaction, batch).await?;
                let start_tag = take_start_tag(&mut transaction, batch.id.chain_id, &chain).await?;
                let position = sqlx::query_scalar!(
                    "INSERT INTO batches (chain_id, number, protocol_minor, protocol_patch, priority,
                                          input_key, input_checksum, input_size_bytes, start_tag, deadline)
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10::text::timestamptz)
                     RETURNING position",
                    chain_id,
                    number,
                    i32::from(batch.version.minor),
                    i32::from(batch.version.patch),
                    batch.priority,
                    batch.input.key,
                    batch.input.checksum.as_slice(),
                    size(&batch.input),
                    start_tag,
                    batch.deadline
                )
                .fetch_one(&mut *transaction)
                .await
                .map_err(|e| match code(&e).as_deref() {
                    Some(SEQUENCE_EXHAUSTED) => StoreError::Invalid(format!(
                        "{} cannot be inserted: this database has given out all {POSITION_MAX} positions that its \
                         batches can have; create another database for further batches",
                        batch.id
                    )),
                    _ => error("insert_batch")(e),
                })?;
                // What is left of an earlier one of this number is collected with this one's, when this one is over.
                sqlx::query!(
                    "DELETE FROM deleted_batches WHERE chain_id = $1 AND number = $2",
                    chain_id,
                    number
                )
                .execute(&mut *transaction)
                .await
                .map_err(error("insert_batch"))?;
                let queue = queue(batch.version, GENERATOR.stage, MemoryClass::Light);
                sqlx::query!(
                    "INSERT INTO prover_jobs (id, chain_id, batch_number, aggregation_round, stage,
                         circuit_id, depth, sequence_number, memory_class, priority, start_tag,
                         protocol_minor, protocol_patch,
                         expected_cost_ms, status, dependencies_left, queued_at, deadline, queue, turn)
                     VALUES ($1, $2, $3, $4, $5, 0, 0, 0, 'light', $6, $7, $8, $9, 0, 'queued', 0, now(),
                             coalesce($10::text::timestamptz, 'infinity'), $11, $12)",
                    generator_id(position)?,
                    chain_id,
                    number,
                    GENERATOR.round.number(),
                    GENERATOR.stage.as_str(),
                    batch.priority,
                    start_tag,
                    i32::from(batch.version.minor),
                    i32::from(batch.version.patch),
                    batch.deadline,
                    if chain.is_paused { held_queue(queue) } else { queue },
                    turn(GENERATOR.round, 0)
                )
                .execute(&mut *transaction)
                .await
                .map_err(error("insert_batch"))?;
                if !is_in_order(&mut transaction, batch.id, &chain).await? {
                    arrange(&mut transaction, batch.id.chain_id).await?;
                }
                transaction.commit().await.map_err(error("insert_batch"))?;
                Ok(InsertedBatch::New)
            })
            .await?;
        if inserted == InsertedBatch::New {
            self.waker.wake(Stage::WitnessGeneration);
            return Ok(inserted);
        }
        let found = self.batch(batch.id).await?.ok_or(StoreError::NoSuchBatch(batch.id))?;
        if found.input.checksum == batch.input.checksum && found.version == batch.version {
            return Ok(inserted);
        }
        Err(StoreError::Conflict(format!(
            "{} is there already, with another input or version; nothing was changed",
            batch.id
        )))
    }

    /// A batch's row.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn batch(&self, id: BatchId) -> Result<Option<Batch>, StoreError> {
        let _timer = QueryTimer::start("batch");
        self.hot.run("batch", async |connection: &mut PgConnection| find_batch(connection, id).await).await
    }
}

/// PostgreSQL's code for a sequence at its end.
const SEQUENCE_EXHAUSTED: &str = "2200H";
/// PostgreSQL's codes for a text that is no time, and for one that is out of range.
const NO_TIME: [&str; 2] = ["22007", "22008"];

fn code(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

/// Refuses a batch whose deadline is no time or whose version is not known.
async fn check_new_batch(connection: &mut PgConnection, batch: &NewBatch) -> Result<(), StoreError> {
    let row = sqlx::query!(
        r#"SELECT $1::text::timestamptz::text AS deadline,
                  EXISTS (SELECT FROM protocol_versions WHERE minor = $2 AND patch = $3) AS "is_known!""#,
        batch.deadline,
        i32::from(batch.version.minor),
        i32::from(batch.version.patch)
    )
    .fetch_one(connection)
    .await
    .map_err(|e| match &e {
        sqlx::Error::Database(cause) if code(&e).is_some_and(|code| NO_TIME.contains(&&*code)) => {
            StoreError::Invalid(format!(
                "the deadline {:?} is not a time, such as 2026-11-21T18:00:00Z: {}",
                batch.deadline.as_deref().unwrap_or_default(),
                cause.message()
            ))
        }
        _ => StoreError::database("insert_batch")(e),
    })?;
    if row.is_known {
        return Ok(());
    }
    Err(StoreError::Invalid(format!(
        "protocol version {} is not known to the database: run `prover_cli insert-version`",
        batch.version
    )))
}

/// A batch's row.
pub(crate) async fn find_batch(
    connection: &mut PgConnection,
    id: BatchId,
) -> Result<Option<Batch>, StoreError> {
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
    .fetch_optional(connection)
    .await
    .map_err(StoreError::database("batch"))?;
    let Some(row) = row else { return Ok(None) };
    let bad = |what: &str| StoreError::Schema(format!("the row of {id} has a bad {what}"));
    let narrow = |value: i32| u16::try_from(value).map_err(|_| bad("protocol version"));
    Ok(Some(Batch {
        id: batch_id(row.chain_id, row.number)?,
        position: row.position,
        status: row.status.parse().map_err(|_| bad("status"))?,
        version: ProtocolVersion { minor: narrow(row.protocol_minor)?, patch: narrow(row.protocol_patch)? },
        input: artifact(Some(row.input_key), Some(row.input_checksum), Some(row.input_size_bytes))?
            .ok_or_else(|| bad("input"))?,
        final_proof: artifact(row.final_proof_key, row.final_proof_checksum, row.final_proof_size_bytes)?,
        error: row.error,
        age_seconds: row.age_seconds,
        duration_seconds: row.duration_seconds,
    }))
}
