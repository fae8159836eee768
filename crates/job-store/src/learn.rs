//! Learning from what was measured: how much memory the circuits of a version take.

use crate::metrics::QueryTimer;
use crate::model::{batch_id, ids_of_batch};
use crate::{JobStore, StoreError};
use proving_model::{AggregationRound, BatchId, CircuitId, JobKey, ProtocolVersion, Stage};
use sqlx::{Connection, PgConnection};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How old a process's knowledge may be: what is learned from one batch serves the next, and need not serve it at once.
const KNOWN_FOR: Duration = Duration::from_secs(10);

/// What is known of the circuits of one version.
#[derive(Debug, Default)]
pub(crate) struct Learned {
    /// Peak bytes by round and circuit.
    peaks: HashMap<(AggregationRound, CircuitId), i64>,
}

impl Learned {
    /// The peak to expect of a job: what was learned, or else what is declared.
    pub(crate) fn peak_memory(&self, key: &JobKey, declared: i64) -> i64 {
        match key.stage {
            Stage::CircuitProof => *self.peaks.get(&(key.round, key.circuit_id)).unwrap_or(&declared),
            Stage::WitnessGeneration | Stage::Compression => declared,
        }
    }
}

/// What a process knows, by version, and since when.
pub(crate) type Knowledge = Arc<Mutex<HashMap<(i32, i32), (Instant, Arc<Learned>)>>>;

impl JobStore {
    /// What is known of the circuits of a job's version; asked of the database now and then.
    pub(crate) async fn learned(&self, version: ProtocolVersion) -> Result<Arc<Learned>, StoreError> {
        let version = (i32::from(version.minor), i32::from(version.patch));
        let known = self.knowledge.lock().unwrap_or_else(PoisonError::into_inner).get(&version).cloned();
        if let Some((since, learned)) = known
            && since.elapsed() < KNOWN_FOR
        {
            return Ok(learned);
        }
        let _timer = QueryTimer::start("learned");
        let rows = self
            .reports
            .run("learned", async |connection: &mut PgConnection| {
                sqlx::query!(
                    "SELECT aggregation_round, circuit_id, peak_memory_bytes FROM learned_circuits
                     WHERE protocol_minor = $1 AND protocol_patch = $2",
                    version.0,
                    version.1
                )
                .fetch_all(connection)
                .await
                .map_err(StoreError::database("learned"))
            })
            .await?;
        let peak = |round: i16, circuit: i16, peak: i64| {
            AggregationRound::from_number(round).map(|round| ((round, CircuitId(circuit)), peak))
        };
        let peaks = rows
            .iter()
            .filter_map(|row| peak(row.aggregation_round, row.circuit_id, row.peak_memory_bytes))
            .collect();
        let learned = Arc::new(Learned { peaks });
        self.knowledge
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(version, (Instant::now(), learned.clone()));
        Ok(learned)
    }

    /// Learns from the attempts of one proven batch that was not learned from yet. Returns `None` when there is none.
    ///
    /// A circuit's expected peak rises to the largest that any of the batch's attempts was seen to take, at once; it falls by an
    /// eighth a batch at most, so that one batch of small circuits does not undo what a large one taught.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn learn_from_batch(&self) -> Result<Option<BatchId>, StoreError> {
        let _timer = QueryTimer::start("learn_from_batch");
        let error = StoreError::database;
        self.reports
            .run("learn_from_batch", async |connection: &mut PgConnection| {
                let mut transaction = connection.begin().await.map_err(error("learn_from_batch"))?;
                let batch = sqlx::query!(
                    "UPDATE batches SET learned_at = now() WHERE position = (
                         SELECT position FROM batches WHERE learned_at IS NULL AND status = 'successful'
                         ORDER BY finished_at LIMIT 1 FOR UPDATE SKIP LOCKED)
                     RETURNING chain_id, number, position"
                )
                .fetch_optional(&mut *transaction)
                .await
                .map_err(error("learn_from_batch: find one"))?;
                let Some(batch) = batch else { return Ok(None) };
                let (first, end) = ids_of_batch(batch.position);
                sqlx::query!(
                    "INSERT INTO learned_circuits AS known
                         (protocol_minor, protocol_patch, aggregation_round, circuit_id, peak_memory_bytes)
                     SELECT j.protocol_minor, j.protocol_patch, j.aggregation_round, j.circuit_id,
                            max(a.peak_memory_bytes)
                     FROM attempts a JOIN jobs j ON j.id = a.job_id
                     WHERE a.job_id >= $1 AND a.job_id < $2 AND j.id >= $1 AND j.id < $2
                       AND j.stage = 'circuit_proof' AND a.peak_memory_bytes IS NOT NULL
                     GROUP BY 1, 2, 3, 4
                     ON CONFLICT (protocol_minor, protocol_patch, aggregation_round, circuit_id)
                     DO UPDATE SET
                         peak_memory_bytes =
                             greatest(excluded.peak_memory_bytes, known.peak_memory_bytes / 8 * 7),
                         learned_at = now()",
                    first,
                    end
                )
                .execute(&mut *transaction)
                .await
                .map_err(error("learn_from_batch"))?;
                transaction.commit().await.map_err(error("learn_from_batch"))?;
                self.knowledge.lock().unwrap_or_else(PoisonError::into_inner).clear();
                Ok(Some(batch_id(batch.chain_id, batch.number)?))
            })
            .await
    }
}
