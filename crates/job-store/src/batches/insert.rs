//! Inserts batches.

use crate::batches::chains::{arrange, is_in_order, lock_chain, take_start_tag};
use crate::batches::find::{Batch, find_batch};
use crate::batches::lock::lock_batch;
use crate::batches::remove::remove_batch;
use crate::database::connections::Transaction;
use crate::database::store::JobStore;
use crate::model::error::StoreError;
use crate::model::ids::{GENERATOR, POSITION_MAX, generator_id, held_queue, queue, rank_in_batch};
use crate::model::rows::size;
use proving_model::{ArtifactRef, BatchId, BatchStatus, Deadline, MemoryClass, ProtocolVersion, Stage};
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
    /// When the final proof should be there. Among batches of one priority the earlier deadline is sooner, and one without comes last.
    pub deadline: Option<Deadline>,
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
    /// As [`InsertedBatch::AlreadyThere`], with another priority or deadline, which it keeps.
    OtherSettings,
    /// It is new, and queued, in place of one that had failed or was cancelled.
    Replaced,
}

impl JobStore {
    /// Inserts a batch and its first job. Idempotent: the same batch with the same input is inserted once.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the batch is there with another input or version.
    pub async fn insert_batch(&self, batch: &NewBatch) -> Result<InsertedBatch, StoreError> {
        self.insert_or_replace(batch, Existing::Keep).await
    }

    /// As [`JobStore::insert_batch`]; says what is done about a batch that is there, in the same transaction.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when a batch is there that is to stay, or is neither failed nor cancelled.
    pub async fn insert_or_replace(
        &self,
        batch: &NewBatch,
        existing: Existing,
    ) -> Result<InsertedBatch, StoreError> {
        let inserted = self
            .hot
            .run("insert_batch", async |connection: &mut PgConnection| {
                let mut transaction = connection.begin().await?;
                let chain = lock_chain(&mut transaction, batch.id.chain_id).await?;
                let mut inserted = InsertedBatch::New;
                // Looked up first: an insertion that fails or meets its batch would use up a position all the same.
                if let Some(found) = find_batch(&mut transaction, batch.id).await? {
                    if existing == Existing::Keep || !may_be_replaced(found.status) {
                        return batch.meets(&found);
                    }
                    // Somebody may have requeued it meanwhile; from here on nobody does.
                    let status = lock_batch(&mut transaction, found.position).await?;
                    if let Some(status) = status.filter(|status| !may_be_replaced(*status)) {
                        return batch.meets(&Batch { status, ..found });
                    }
                    remove_batch(&mut transaction, batch.id, found.position).await?;
                    inserted = InsertedBatch::Replaced;
                }
                check_version(&mut transaction, batch.version).await?;
                let start_tag = take_start_tag(&mut transaction, batch.id.chain_id, &chain).await?;
                let position = insert_row(&mut transaction, batch, start_tag).await?;
                insert_generator(&mut transaction, batch, position, start_tag, chain.is_paused).await?;
                if !is_in_order(&mut transaction, batch.id, &chain).await? {
                    arrange(&mut transaction, batch.id.chain_id).await?;
                }
                transaction.commit().await?;
                Ok(inserted)
            })
            .await?;
        if inserted == InsertedBatch::Replaced {
            // Jobs of a failed batch may have run still.
            self.waker.revoke();
        }
        if matches!(inserted, InsertedBatch::New | InsertedBatch::Replaced) {
            self.waker.wake(Stage::WitnessGeneration);
        }
        Ok(inserted)
    }
}

fn may_be_replaced(status: BatchStatus) -> bool {
    matches!(status, BatchStatus::Failed | BatchStatus::Cancelled)
}

/// Inserts the batch's row; returns its position.
async fn insert_row(
    transaction: &mut Transaction<'_>,
    batch: &NewBatch,
    start_tag: i64,
) -> Result<i64, StoreError> {
    let (chain_id, number) = (i64::from(batch.id.chain_id), i64::from(batch.id.number));
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
        batch.deadline.map(|deadline| deadline.to_string())
    )
    .fetch_one(&mut **transaction)
    .await
    .map_err(|e| match code(&e).as_deref() {
        Some(SEQUENCE_EXHAUSTED) => StoreError::Invalid(format!(
            "{} cannot be inserted: this database has given out all {POSITION_MAX} positions that its batches can have; create \
             another database for further batches",
            batch.id
        )),
        _ => e.into(),
    })?;
    // What is left of an earlier one of this number is collected with this one's, when this one is over.
    sqlx::query!("DELETE FROM deleted_batches WHERE chain_id = $1 AND number = $2", chain_id, number)
        .execute(&mut **transaction)
        .await?;
    Ok(position)
}

/// Inserts the batch's first job, which cuts its input into circuits.
async fn insert_generator(
    transaction: &mut Transaction<'_>,
    batch: &NewBatch,
    position: i64,
    start_tag: i64,
    is_paused: bool,
) -> Result<(), StoreError> {
    let queue = queue(batch.version, GENERATOR.stage, MemoryClass::Light);
    sqlx::query!(
        "INSERT INTO jobs (id, priority, start_tag, status, dependencies_left, queued_at, deadline, queue, rank_in_batch)
         VALUES ($1, $2, $3, 'queued', 0, now(), coalesce($4::text::timestamptz, 'infinity'), $5, $6)",
        generator_id(position)?,
        batch.priority,
        start_tag,
        batch.deadline.map(|deadline| deadline.to_string()),
        if is_paused { held_queue(queue) } else { queue },
        rank_in_batch(GENERATOR.round, 0)
    )
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

/// PostgreSQL's code for a sequence at its end.
const SEQUENCE_EXHAUSTED: &str = "2200H";

fn code(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

/// Refuses a batch whose version is not known.
async fn check_version(connection: &mut PgConnection, version: ProtocolVersion) -> Result<(), StoreError> {
    let is_known = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM protocol_versions WHERE minor = $1 AND patch = $2) AS "is_known!""#,
        i32::from(version.minor),
        i32::from(version.patch)
    )
    .fetch_one(connection)
    .await?;
    if is_known {
        return Ok(());
    }
    Err(StoreError::Invalid(format!(
        "protocol version {version} is not known to the database: run `prover_cli insert-version`"
    )))
}

/// What is to be done about a batch of this chain and number that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It stays as it is.
    Keep,
    /// One that failed or was cancelled makes place for the new one.
    Replace,
}

impl NewBatch {
    /// What inserting it changes, where this one is there.
    fn meets(&self, found: &Batch) -> Result<InsertedBatch, StoreError> {
        if found.input.checksum != self.input.checksum || found.version != self.version {
            return Err(StoreError::Conflict(format!(
                "{} is there already, with another input or version, and {}; nothing was changed. {}",
                self.id,
                found.status,
                way_out(found.status)
            )));
        }
        let has_same_settings = found.priority == self.priority
            && found.deadline == self.deadline.map(|deadline| deadline.to_string());
        Ok(if has_same_settings { InsertedBatch::AlreadyThere } else { InsertedBatch::OtherSettings })
    }
}

/// How a batch in this state gets another input.
fn way_out(status: BatchStatus) -> &'static str {
    match status {
        BatchStatus::Failed | BatchStatus::Cancelled => "`insert-batch --replace` takes this input for it",
        BatchStatus::Successful => "It is proven: `prover_cli delete` it first to prove its number anew",
        BatchStatus::Queued | BatchStatus::InProgress => {
            "`prover_cli cancel` it, and then `insert-batch --replace` takes this input for it"
        }
    }
}
