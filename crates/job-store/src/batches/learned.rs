//! Reads what was learned of a version's circuits.

use crate::database::store::JobStore;
use crate::model::error::StoreError;
use crate::model::learned::Learned;
use proving_model::{AggregationRound, CircuitId, ProtocolVersion};
use sqlx::PgConnection;
use std::{
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

/// How old a process's knowledge may be: what is learned from one batch serves the next, and need not serve it at once.
const KNOWN_FOR: Duration = Duration::from_secs(10);

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
        let rows = self
            .reports
            .statement("learned", async |connection: &mut PgConnection| {
                sqlx::query!(
                    "SELECT aggregation_round, circuit_id, peak_memory_bytes FROM learned_circuits
                     WHERE protocol_minor = $1 AND protocol_patch = $2",
                    version.0,
                    version.1
                )
                .fetch_all(connection)
                .await
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
}
