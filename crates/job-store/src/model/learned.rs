//! What is known of how much memory the circuits of a version take.

use proving_model::{AggregationRound, CircuitId, JobKey, Stage};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Instant,
};

/// What is known of the circuits of one version.
#[derive(Debug, Default)]
pub(crate) struct Learned {
    /// Peak bytes by round and circuit.
    pub(crate) peaks: HashMap<(AggregationRound, CircuitId), i64>,
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
