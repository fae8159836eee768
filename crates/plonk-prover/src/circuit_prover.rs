//! Who proves circuits: the processor, or devices.

use crate::{C, D, F, ProveError, prove};
use plonky2::iop::witness::PartitionWitness;
use plonky2::plonk::circuit_data::CircuitData;
use plonky2::plonk::proof::ProofWithPublicInputs;
use std::{fmt::Debug, sync::Arc};
use thiserror::Error;

/// A circuit, as it is built or read.
pub type Circuit = CircuitData<F, C, D>;

/// Its proof.
pub type Proof = ProofWithPublicInputs<F, C, D>;

/// Proves circuits, from as many threads as ask it to. What it returns is verified.
pub trait CircuitProver: Debug + Send + Sync {
    /// Proves that these values, by the circuit's own map of places, satisfy it.
    ///
    /// # Errors
    /// [`Unproven`].
    fn prove(&self, circuit: &Arc<Circuit>, values: Vec<Option<F>>) -> Result<Proof, Unproven>;
}

/// Why there is no proof that verifies.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unproven {
    /// None was made.
    #[error(transparent)]
    Prove(#[from] ProveError),
    /// One was made of values that do not satisfy the circuit.
    #[error("its proof does not verify: {0}")]
    Unverified(String),
}

/// Proves on the processor, with rayon's threads.
#[derive(Debug, Clone, Copy, Default)]
pub struct OnCpu;

impl CircuitProver for OnCpu {
    fn prove(&self, circuit: &Arc<Circuit>, values: Vec<Option<F>>) -> Result<Proof, Unproven> {
        let proof = prove(&circuit.prover_only, &circuit.common, &witness_of(circuit, values))?;
        verified(circuit, proof)
    }
}

/// The witness that these values are.
#[must_use]
pub fn witness_of(circuit: &Circuit, values: Vec<Option<F>>) -> PartitionWitness<'_, F> {
    PartitionWitness {
        values,
        representative_map: &circuit.prover_only.representative_map,
        num_wires: circuit.common.config.num_wires,
        degree: circuit.common.degree(),
    }
}

/// The proof, if the library verifies it.
///
/// # Errors
/// [`Unproven::Unverified`].
pub fn verified(circuit: &Circuit, proof: Proof) -> Result<Proof, Unproven> {
    match circuit.verify(proof.clone()) {
        Ok(()) => Ok(proof),
        Err(e) => Err(Unproven::Unverified(format!("{e:#}"))),
    }
}
