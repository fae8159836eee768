//! Pauses chains and stages.

use crate::batches::chains::lock_chain;
use crate::database::connections::Transaction;
use crate::database::store::JobStore;
use crate::model::error::StoreError;
use crate::model::ids::PLACE_BITS;
use crate::operator::mode::{Mode, end};
use proving_model::Stage;
use schemars::JsonSchema;
use serde::Serialize;
use sqlx::{Connection, PgConnection};

/// What can be paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pausable {
    /// A chain, in all stages.
    Chain(u32),
    /// A stage, of all chains.
    Stage(Stage),
}

/// What a pause, or its end, changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PauseChange {
    /// Whether it was as asked before: nothing was changed then.
    pub was_so_already: bool,
    /// Queued jobs that it holds back, or lets go.
    pub jobs: i64,
}

impl JobStore {
    /// Pauses, or ends a pause. One transaction; asked again, it changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn set_paused(
        &self,
        what: Pausable,
        is_paused: bool,
        mode: Mode,
    ) -> Result<PauseChange, StoreError> {
        let change = self
            .reports
            .run("set_paused", async |connection: &mut PgConnection| {
                let mut transaction = connection.begin().await?;
                let change = match what {
                    Pausable::Chain(chain_id) => pause_chain(&mut transaction, chain_id, is_paused).await?,
                    Pausable::Stage(stage) => pause_stage(&mut transaction, stage, is_paused).await?,
                };
                end(transaction, mode, "set_paused").await?;
                Ok(change)
            })
            .await?;
        if mode == Mode::Apply && !is_paused {
            Stage::ALL.iter().for_each(|stage| self.waker.wake(*stage));
        }
        Ok(change)
    }
}

async fn pause_chain(
    transaction: &mut Transaction<'_>,
    chain_id: u32,
    is_paused: bool,
) -> Result<PauseChange, StoreError> {
    lock_chain(transaction, chain_id).await?;
    let changed = sqlx::query!(
        "UPDATE chains SET paused_at = CASE WHEN $2 THEN now() END
         WHERE chain_id = $1 AND (paused_at IS NOT NULL) <> $2",
        i64::from(chain_id),
        is_paused
    )
    .execute(&mut **transaction)
    .await?;
    let mut jobs = 0;
    // Twice: the first waits for generators that are inserting jobs, by the lock on their rows, and does not see what they inserted. From
    // then on their own rows say that the chain is paused.
    for _ in 0..2 {
        jobs += sqlx::query_scalar!(
            r#"WITH other AS (
                   SELECT j.id FROM batches b
                   JOIN jobs j
                       ON j.id >= b.position << $3::int4 AND j.id < (b.position + 1) << $3::int4
                   WHERE b.chain_id = $1 AND b.archived_at IS NULL AND (j.queue < 0) <> $2
                   ORDER BY j.id FOR UPDATE OF j
               ), moved AS (
                   UPDATE jobs j SET queue = -1 - queue FROM other WHERE j.id = other.id
                   RETURNING status
               )
               SELECT count(*) FILTER (WHERE status = 'queued') AS "jobs!" FROM moved"#,
            i64::from(chain_id),
            is_paused,
            PLACE_BITS as i32
        )
        .fetch_one(&mut **transaction)
        .await?;
    }
    Ok(PauseChange { was_so_already: changed.rows_affected() == 0, jobs })
}

async fn pause_stage(
    transaction: &mut Transaction<'_>,
    stage: Stage,
    is_paused: bool,
) -> Result<PauseChange, StoreError> {
    let changed = if is_paused {
        sqlx::query!(
            "INSERT INTO paused_stages (stage) VALUES ($1) ON CONFLICT DO NOTHING",
            stage.as_str() as _
        )
        .execute(&mut **transaction)
        .await
    } else {
        sqlx::query!("DELETE FROM paused_stages WHERE stage = $1", stage.as_str() as _)
            .execute(&mut **transaction)
            .await
    };
    let was_so_already = changed?.rows_affected() == 0;
    let jobs = sqlx::query_scalar!(
        r#"SELECT count(*) AS "jobs!" FROM prover_jobs WHERE status = 'queued' AND stage = $1"#,
        stage.as_str()
    )
    .fetch_one(&mut **transaction)
    .await?;
    Ok(PauseChange { was_so_already, jobs: if was_so_already { 0 } else { jobs } })
}
