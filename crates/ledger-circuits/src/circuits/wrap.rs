//! The two wraps that make the final proof small: each verifies one proof and passes the statement on.
//!
//! [`super::configs`] has their rates and queries.

use crate::{Builder, C, CommonData, D, Proof, VerifierKey, Witness};
use plonky2::iop::witness::WitnessWrite;
use plonky2::plonk::proof::ProofWithPublicInputsTarget;

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
