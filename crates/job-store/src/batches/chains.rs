//! In which order batches are worked on.
//!
//! **Between chains: start-time fair queueing.** Each batch gets a start tag when it is inserted: the later of the virtual time
//! (the latest tag that was started) and the end of its chain's batch before, which lasts one unit divided by the chain's
//! share. Pickers go by that tag alone, so a fair pick costs what any pick costs. A chain that queues a thousand batches at
//! once gets every other turn while another chain has work, and all turns while none has; one that was idle saves nothing
//! up. Priority and deadline go before: they are the operator's word.
//!
//! **Within a chain: by number.** A batch that comes late takes the tags of those above it that nobody has started. Where the
//! chain is `strict`, a batch's first job waits until all earlier batches that the store knows are proven, as for proofs that
//! it consumes; a failed batch holds its chain until it is requeued.

use crate::database::connections::Transaction;
use crate::database::store::JobStore;
use crate::model::error::StoreError;
use crate::model::ids::PLACE_BITS;
use proving_model::{BatchId, HeadOfChain, Stage};
use sqlx::{Connection, PgConnection};

/// What a batch of a chain with a share of one takes of virtual time; divisible by shares fairly enough.
const BATCH_SPAN: i64 = 1 << 20;

/// The schema's bound: further batches of any chain are then sooner by their position alone.
const VIRTUAL_TIME_MAX: i64 = 1 << 62;

/// A chain's settings; what is `None` stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChainSettings {
    /// How its batches wait for each other.
    pub head_of_chain: Option<HeadOfChain>,
    /// Its share of the fleet against other chains', 1 to 1,000; 1 unless set.
    pub share: Option<u16>,
}

/// What inserting a batch needs to know of its chain.
pub(crate) struct LockedChain {
    is_strict: bool,
    pub(crate) is_paused: bool,
    share: i64,
    finish_tag: i64,
}

impl JobStore {
    /// Changes a chain's settings. Batches that nobody has started follow the new ones at once.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for a share out of its bounds.
    pub async fn set_chain(&self, chain_id: u32, settings: ChainSettings) -> Result<(), StoreError> {
        if let Some(share @ (0 | 1_001..)) = settings.share {
            return Err(StoreError::Invalid(format!("a chain's share is 1 to 1,000, not {share}")));
        }
        self.hot
            .run("set_chain", async |connection: &mut PgConnection| {
                let mut transaction = connection.begin().await?;
                lock_chain(&mut transaction, chain_id).await?;
                sqlx::query!(
                    "UPDATE chains SET head_of_chain = coalesce($2, head_of_chain),
                                       share = coalesce($3, share)
                     WHERE chain_id = $1",
                    i64::from(chain_id),
                    settings.head_of_chain.map(HeadOfChain::as_str),
                    settings.share.map(i32::from)
                )
                .execute(&mut *transaction)
                .await?;
                arrange(&mut transaction, chain_id).await?;
                transaction.commit().await?;
                self.waker.wake(Stage::WitnessGeneration);
                Ok(())
            })
            .await
    }
}

/// Takes the chain's row until the commit: insertions and ends of its batches see each other.
pub(crate) async fn lock_chain(
    transaction: &mut Transaction<'_>,
    chain_id: u32,
) -> Result<LockedChain, StoreError> {
    sqlx::query!("INSERT INTO chains (chain_id) VALUES ($1) ON CONFLICT DO NOTHING", i64::from(chain_id))
        .execute(&mut **transaction)
        .await?;
    let row = sqlx::query!(
        r#"SELECT head_of_chain = 'strict' AS "is_strict!", paused_at IS NOT NULL AS "is_paused!", share,
                  finish_tag
           FROM chains WHERE chain_id = $1 FOR UPDATE"#,
        i64::from(chain_id)
    )
    .fetch_one(&mut **transaction)
    .await?;
    Ok(LockedChain {
        is_strict: row.is_strict,
        is_paused: row.is_paused,
        share: i64::from(row.share),
        finish_tag: row.finish_tag,
    })
}

/// The start tag of the chain's next batch; the chain moves on by it.
pub(crate) async fn take_start_tag(
    transaction: &mut Transaction<'_>,
    chain_id: u32,
    chain: &LockedChain,
) -> Result<i64, StoreError> {
    let virtual_time = sqlx::query_scalar!("SELECT max(start_tag) FROM batches WHERE started_at IS NOT NULL")
        .fetch_one(&mut **transaction)
        .await?;
    let start_tag = chain.finish_tag.max(virtual_time.unwrap_or(0));
    sqlx::query!(
        "UPDATE chains SET finish_tag = $2 WHERE chain_id = $1",
        i64::from(chain_id),
        (start_tag + BATCH_SPAN / chain.share).min(VIRTUAL_TIME_MAX)
    )
    .execute(&mut **transaction)
    .await?;
    Ok(start_tag)
}

/// Whether a batch is the chain's last, and may start.
pub(crate) async fn is_in_order(
    transaction: &mut Transaction<'_>,
    batch: BatchId,
    chain: &LockedChain,
) -> Result<bool, StoreError> {
    let row = sqlx::query!(
        r#"SELECT EXISTS (SELECT FROM batches WHERE chain_id = $1 AND number > $2
                          AND status IN ('queued', 'in_progress', 'failed')) AS "has_later!",
                  EXISTS (SELECT FROM batches WHERE chain_id = $1 AND number < $2
                          AND status IN ('queued', 'in_progress', 'failed')) AS "has_earlier!""#,
        i64::from(batch.chain_id),
        i64::from(batch.number)
    )
    .fetch_one(&mut **transaction)
    .await?;
    Ok(!(row.has_later || chain.is_strict && row.has_earlier))
}

/// Gives the batches of a chain that nobody has started their tags by number, and holds back those that a strict chain
/// holds back.
pub(crate) async fn arrange(transaction: &mut Transaction<'_>, chain_id: u32) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE batches b SET start_tag = tags.start_tag
         FROM (SELECT number, row_number() OVER (ORDER BY number) AS place
               FROM batches WHERE chain_id = $1 AND status = 'queued') AS numbers
         JOIN (SELECT start_tag, row_number() OVER (ORDER BY start_tag) AS place
               FROM batches WHERE chain_id = $1 AND status = 'queued') AS tags USING (place)
         WHERE b.chain_id = $1 AND b.number = numbers.number AND b.start_tag <> tags.start_tag",
        i64::from(chain_id)
    )
    .execute(&mut **transaction)
    .await?;
    sqlx::query!(
        "UPDATE jobs j SET
             start_tag = b.start_tag,
             status = CASE WHEN b.is_held THEN 'waiting_for_proofs' ELSE 'queued' END,
             dependencies_left = CASE WHEN b.is_held THEN 1 ELSE 0 END,
             queued_at = now()
         FROM (SELECT position, start_tag,
                      (SELECT head_of_chain = 'strict' FROM chains WHERE chain_id = $1)
                      AND number > (SELECT min(number) FROM batches
                                    WHERE chain_id = $1 AND status IN ('queued', 'in_progress',
                                    'failed')) AS is_held
               FROM batches WHERE chain_id = $1 AND status = 'queued') AS b
         WHERE j.id = b.position << $2::int4 AND j.status IN ('queued', 'waiting_for_proofs')
           AND (j.start_tag <> b.start_tag OR (j.status = 'waiting_for_proofs') <> b.is_held)",
        i64::from(chain_id),
        PLACE_BITS as i32
    )
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

/// A batch of the chain was proven: the next, where it was held back, is queued. Returns whether one was.
pub(crate) async fn release_next(
    transaction: &mut Transaction<'_>,
    chain_id: u32,
) -> Result<bool, StoreError> {
    lock_chain(transaction, chain_id).await?;
    let released = sqlx::query!(
        "UPDATE jobs SET status = 'queued', dependencies_left = 0, queued_at = now()
         WHERE id = (SELECT position << $2::int4 FROM batches
                     WHERE chain_id = $1 AND status IN ('queued', 'in_progress', 'failed')
                     ORDER BY number LIMIT 1)
           AND status = 'waiting_for_proofs'",
        i64::from(chain_id),
        PLACE_BITS as i32
    )
    .execute(&mut **transaction)
    .await?;
    Ok(released.rows_affected() == 1)
}
