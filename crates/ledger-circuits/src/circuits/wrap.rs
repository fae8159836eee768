//! The two wraps that make the final proof small: each verifies one proof and passes the statement on.
//!
//! | wrap | rate | queries | grinding | conjectured bits |
//! |---|---|---|---|---|
//! | first | 2^-6 | 14 | 16 | 6 × 14 + 16 = 100 |
//! | second | 2^-8 | 10 | 20 | 8 × 10 + 20 = 100 |
//!
//! A lower rate costs the prover, who does it once a batch, and saves queries, which are what a proof is made of.
//! The count of bits is the conjecture of the FRI literature (capacity bound) that plonky2 itself is configured by.

use crate::{Builder, C, CommonData, D, Proof, VerifierKey, Witness};
use plonky2::fri::{FriConfig, FriReductionStrategy};
use plonky2::iop::witness::WitnessWrite;
use plonky2::plonk::circuit_data::CircuitConfig;
use plonky2::plonk::proof::ProofWithPublicInputsTarget;

/// Configuration of the first wrap.
pub(crate) fn first_config() -> CircuitConfig {
    CircuitConfig {
        fri_config: FriConfig {
            rate_bits: 6,
            num_query_rounds: 14,
            proof_of_work_bits: 16,
            ..CircuitConfig::standard_recursion_config().fri_config
        },
        ..CircuitConfig::standard_recursion_config()
    }
}

/// Configuration of the second wrap.
pub(crate) fn second_config() -> CircuitConfig {
    CircuitConfig {
        // Fewer routed wires mean fewer openings; with fewer than 37 the circuit needs more rows.
        num_routed_wires: 37,
        fri_config: FriConfig {
            rate_bits: 8,
            num_query_rounds: 10,
            proof_of_work_bits: 20,
            cap_height: 0,
            reduction_strategy: FriReductionStrategy::MinSize(None),
        },
        ..CircuitConfig::standard_recursion_config()
    }
}

pub(crate) struct WrapTargets {
    proof: ProofWithPublicInputsTarget<D>,
}

pub(crate) fn allocate(builder: &mut Builder, inner: &CommonData) -> WrapTargets {
    WrapTargets { proof: builder.add_virtual_proof_with_pis(inner) }
}

pub(crate) fn define(builder: &mut Builder, inner: &CommonData, inner_key: &VerifierKey) {
    let targets = allocate(builder, inner);
    let key = builder.constant_verifier_data::<C>(inner_key);
    builder.verify_proof::<C>(&targets.proof, &key, inner);
    builder.register_public_inputs(&targets.proof.public_inputs);
}

pub(crate) fn assign(targets: &WrapTargets, proof: &Proof, witness: &mut Witness) -> anyhow::Result<()> {
    witness.set_proof_with_pis_target(&targets.proof, proof)
}
