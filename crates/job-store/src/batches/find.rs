//! A batch's row.

use crate::database::store::JobStore;
use crate::model::deadline::DeadlineStanding;
use crate::model::error::StoreError;
use crate::model::rows::BatchIds;
use crate::model::rows::{artifact, batch_id};
use proving_model::{ArtifactRef, BatchId, BatchStatus, ProtocolVersion};
use sqlx::PgConnection;
use std::collections::BTreeSet;
use std::sync::PoisonError;

/// Batches that a process remembers the position of.
const KNOWN_MAX: usize = 10_000;

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
    /// Higher is sooner.
    pub priority: i32,
    /// When its final proof should be there, as RFC 3339 has it.
    pub deadline: Option<String>,
    /// Seconds from now, or from its end, to its deadline; negative once that has passed.
    pub deadline_margin_seconds: Option<f64>,
    /// Why it failed.
    pub error: Option<String>,
    /// Seconds since it was inserted.
    pub age_seconds: f64,
    /// Seconds from insertion to its end, once it has one.
    pub duration_seconds: Option<f64>,
}

impl Batch {
    /// How it stands to its deadline, by an estimate of the seconds that it will take yet; `None` where it has none, or was cancelled.
    #[must_use]
    pub fn deadline_standing(&self, time_left_seconds: Option<f64>) -> Option<DeadlineStanding> {
        DeadlineStanding::of(self.status, self.deadline_margin_seconds?, time_left_seconds)
    }
}

impl JobStore {
    /// A batch's row.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn batch(&self, id: BatchId) -> Result<Option<Batch>, StoreError> {
        self.hot.run("batch", async |connection: &mut PgConnection| find_batch(connection, id).await).await
    }
}

/// A batch's row.
pub(crate) async fn find_batch(
    connection: &mut PgConnection,
    id: BatchId,
) -> Result<Option<Batch>, StoreError> {
    let row = sqlx::query!(
        r#"SELECT chain_id, number, position, status, protocol_minor, protocol_patch,
                  input_key, input_checksum, input_size_bytes,
                  final_proof_key, final_proof_checksum, final_proof_size_bytes, error, priority,
                  to_char(deadline AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS deadline,
                  EXTRACT(EPOCH FROM deadline - coalesce(finished_at, now()))::float8 AS deadline_margin_seconds,
                  EXTRACT(EPOCH FROM now() - created_at)::float8 AS "age_seconds!",
                  EXTRACT(EPOCH FROM finished_at - created_at)::float8 AS duration_seconds
           FROM batches WHERE chain_id = $1 AND number = $2"#,
        i64::from(id.chain_id),
        i64::from(id.number)
    )
    .fetch_optional(connection)
    .await?;
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
        priority: row.priority,
        deadline: row.deadline,
        deadline_margin_seconds: row.deadline_margin_seconds,
        error: row.error,
        age_seconds: row.age_seconds,
        duration_seconds: row.duration_seconds,
    }))
}

/// The batches at these positions.
pub(crate) async fn batch_ids(
    connection: &mut PgConnection,
    positions: impl Iterator<Item = i64>,
) -> Result<BatchIds, StoreError> {
    let positions: BTreeSet<i64> = positions.collect();
    let positions: Vec<i64> = positions.into_iter().collect();
    if positions.is_empty() {
        return Ok(BatchIds::new());
    }
    let rows =
        sqlx::query!("SELECT position, chain_id, number FROM batches WHERE position = ANY($1)", &positions)
            .fetch_all(connection)
            .await?;
    rows.into_iter().map(|row| Ok((row.position, batch_id(row.chain_id, row.number)?))).collect()
}

impl JobStore {
    /// The batches of these jobs. A position is one batch's for ever, so what is known is not asked for again.
    pub(crate) async fn known_batch_ids(&self, positions: &[i64]) -> Result<BatchIds, StoreError> {
        let (mut found, mut unknown) = (BatchIds::new(), Vec::new());
        {
            let known = self.batch_ids.lock().unwrap_or_else(PoisonError::into_inner);
            for position in positions {
                match known.get(position) {
                    Some(id) => drop(found.insert(*position, *id)),
                    None => unknown.push(*position),
                }
            }
        }
        if !unknown.is_empty() {
            let asked = self.relaxed.run("batch_ids", async |connection: &mut PgConnection| {
                batch_ids(connection, unknown.into_iter()).await
            });
            let asked = asked.await?;
            let mut all = self.batch_ids.lock().unwrap_or_else(PoisonError::into_inner);
            if all.len() >= KNOWN_MAX {
                all.clear();
            }
            all.extend(&asked);
            found.extend(asked);
        }
        Ok(found)
    }
}
