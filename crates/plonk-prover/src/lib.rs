//! Proves plonky2's circuits: the library's proofs, by a prover of our own.
//!
//! A proof made here is the one that the library makes of the same witness, element for element, and any verifier takes it. What differs
//! is the cost. Measured on the ledger's circuits, six tenths of the library's time is Merkle hashing, one leaf after the other. Here
//! four are hashed at once in vector registers, found at run time, so that one binary serves all processors; the low-degree
//! extensions are kept once, by column, and not also by row; and divisions share inversions. `prover bench circuit` compares the two.
//!
//! One thing more differs: the proof of work is the smallest, where the library takes any that a thread finds first. The same witness
//! gives the same bytes here, on any machine.
//!
//! The transcript, the library's `Challenger`, is here and in `fri`. What it needs is computed by a [`Committer`]: the processor's is
//! `cpu`, of `commitment` (interpolation, low-degree extension, Merkle tree), `permutation` (partial products), `quotient` (all
//! constraints) and `polynomials` (openings).
//!
//! It serves one configuration, `PoseidonGoldilocksConfig`, without lookups and without blinding; of others it says so.

mod circuit_prover;
mod commitment;
pub mod committer;
mod cpu;
mod fri;
mod merkle;
mod permutation;
mod polynomials;
mod poseidon;
mod quotient;
pub mod roofline;
pub mod sample;
mod stages;

pub use circuit_prover::{Circuit, CircuitProver, OnCpu, Proof, Unproven, verified, witness_of};
pub use committer::Committer;
pub use cpu::Cpu;
pub use stages::{Stage, Stages};

use committer::{Constraints, Opened, Oracle, Permutation, Polynomials};
use plonky2::field::extension::quadratic::QuadraticExtension;
use plonky2::field::goldilocks_field::GoldilocksField;
use plonky2::field::types::Field;
use plonky2::fri::FriParamsObserve;
use plonky2::hash::poseidon::PoseidonHash;
use plonky2::iop::target::Target;
use plonky2::iop::witness::PartitionWitness;
use plonky2::plonk::circuit_data::{CommonCircuitData, ProverOnlyCircuitData};
use plonky2::plonk::config::{Hasher, PoseidonGoldilocksConfig};
use plonky2::plonk::proof::{OpeningSet, ProofWithPublicInputs};
use plonky2::util::log2_ceil;
use rayon::prelude::*;
use thiserror::Error;

type F = GoldilocksField;
type Extension = QuadraticExtension<F>;
type C = PoseidonGoldilocksConfig;
type H = PoseidonHash;
type Challenger = plonky2::iop::challenger::Challenger<F, H>;
const D: usize = 2;

/// Why there is no proof.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ProveError {
    /// The witness does not satisfy the circuit's constraints. Noticed only where the quotient's degree is no power of two; elsewhere
    /// such a witness gives a proof that does not verify.
    #[error("the witness does not satisfy the circuit: its constraints do not vanish on all rows")]
    Unsatisfied,
    /// The circuit uses what this prover does not have.
    #[error("this prover does not have {0}")]
    Unsupported(&'static str),
    /// The random point that everything is opened at lies where it must not: a chance of less than 2^-50. Another witness gives another.
    #[error("the opening point is one of the circuit's rows, by chance")]
    PointInSubgroup,
    /// No number makes the proof of work.
    #[error("no proof of work was found")]
    NoProofOfWork,
}

/// Proves that this witness satisfies the circuit. All values that the circuit's generators give are set in it; what is not set is zero.
/// Whether it does satisfy the circuit is known once the proof is verified.
///
/// Uses rayon's threads, as the library does.
///
/// # Errors
/// [`ProveError`].
pub fn prove(
    prover_data: &ProverOnlyCircuitData<F, C, D>,
    common: &CommonCircuitData<F, D>,
    witness: &PartitionWitness<'_, F>,
) -> Result<Proof, ProveError> {
    prove_timed(prover_data, common, witness, &mut Stages::default())
}

/// As [`prove`]; adds to `stages` where the time went.
///
/// # Errors
/// As [`prove`].
pub fn prove_timed(
    prover_data: &ProverOnlyCircuitData<F, C, D>,
    common: &CommonCircuitData<F, D>,
    witness: &PartitionWitness<'_, F>,
    stages: &mut Stages,
) -> Result<Proof, ProveError> {
    let columns = (0..witness.num_wires).into_par_iter();
    let wires = columns.map(|column| wire_column(witness, column).collect()).collect();
    let public_inputs = public_inputs(prover_data, witness);
    prove_with(&mut Cpu::new(prover_data, common, stages), prover_data, common, public_inputs, wires)
}

/// As [`prove`], by this committer, which is one for this circuit and has the wires of the witness already.
///
/// # Errors
/// As [`prove`]; the committer's.
pub fn prove_with<K: Committer>(
    committer: &mut K,
    prover_data: &ProverOnlyCircuitData<F, C, D>,
    common: &CommonCircuitData<F, D>,
    public_inputs: Vec<F>,
    wire_values: K::Columns,
) -> Result<Proof, K::Error> {
    check_supported(common)?;
    let config = &common.config;
    let public_inputs_hash = <H as Hasher<F>>::hash_no_pad(&public_inputs);

    let wires = committer.commit(&wire_values)?;
    let wires_cap = committer.cap(&wires)?;
    let mut challenger = Challenger::new();
    common.fri_params.observe(&mut challenger);
    challenger.observe_hash::<H>(prover_data.circuit_digest);
    challenger.observe_hash::<H>(public_inputs_hash);
    challenger.observe_cap::<H>(&wires_cap);
    let betas = challenger.get_n_challenges(config.num_challenges);
    let gammas = challenger.get_n_challenges(config.num_challenges);
    let permutation: Vec<Permutation> =
        betas.into_iter().zip(gammas).map(|(beta, gamma)| Permutation { beta, gamma }).collect();

    let z_values = committer.permutation(&wire_values, &permutation)?;
    drop(wire_values);
    let zs = committer.commit(&z_values)?;
    drop(z_values);
    let zs_cap = committer.cap(&zs)?;
    challenger.observe_cap::<H>(&zs_cap);
    let alphas = challenger.get_n_challenges(config.num_challenges);

    let constraints = Constraints {
        public_inputs_hash: &public_inputs_hash,
        wires: &wires,
        zs: &zs,
        permutation: &permutation,
        alphas: &alphas,
    };
    let quotients = committer.quotients(&constraints)?;
    let quotients_cap = committer.cap(&quotients)?;
    challenger.observe_cap::<H>(&quotients_cap);

    let zeta = challenger.get_extension_challenge::<D>();
    if zeta.exp_power_of_2(common.degree_bits()) == Extension::ONE {
        return Err(ProveError::PointInSubgroup.into());
    }
    let zeta_next = Extension::primitive_root_of_unity(common.degree_bits()) * zeta;
    let oracles = [Oracle::Circuit, Oracle::Proof(&wires), Oracle::Proof(&zs), Oracle::Proof(&quotients)];
    let counts = [
        common.sigmas_range().end,
        config.num_wires,
        common.partial_products_range().end,
        common.quotient_degree_factor * config.num_challenges,
    ];
    let all: Vec<_> = oracles
        .into_iter()
        .zip(counts)
        .map(|(oracle, count)| Polynomials { oracle, range: 0..count })
        .collect();
    let next = Polynomials { oracle: Oracle::Proof(&zs), range: common.zs_range() };
    let zs_next = committer.evaluate(&next, zeta_next)?;
    let [fixed, wires_at, zs_at, quotients_at] = {
        let mut at = |i: usize| committer.evaluate(&all[i], zeta);
        [at(0)?, at(1)?, at(2)?, at(3)?]
    };
    let openings = OpeningSet::<F, D> {
        constants: fixed[common.constants_range()].to_vec(),
        plonk_sigmas: fixed[common.sigmas_range()].to_vec(),
        wires: wires_at,
        plonk_zs: zs_at[common.zs_range()].to_vec(),
        plonk_zs_next: zs_next,
        partial_products: zs_at[common.partial_products_range()].to_vec(),
        quotient_polys: quotients_at,
        lookup_zs: Vec::new(),
        lookup_zs_next: Vec::new(),
    };
    let at_zeta = [
        &openings.constants,
        &openings.plonk_sigmas,
        &openings.wires,
        &openings.plonk_zs,
        &openings.partial_products,
        &openings.quotient_polys,
    ];
    for values in at_zeta.into_iter().chain([&openings.plonk_zs_next]) {
        challenger.observe_extension_elements::<D>(values);
    }
    let opened = [
        Opened { point: zeta, polynomials: all, values: at_zeta.into_iter().flatten().copied().collect() },
        Opened { point: zeta_next, polynomials: vec![next], values: openings.plonk_zs_next.clone() },
    ];
    let opening_proof = fri::prove(committer, &oracles, &opened, &mut challenger, &common.fri_params)?;
    let proof = plonky2::plonk::proof::Proof {
        wires_cap,
        plonk_zs_partial_products_cap: zs_cap,
        quotient_polys_cap: quotients_cap,
        openings,
        opening_proof,
    };
    Ok(ProofWithPublicInputs { proof, public_inputs })
}

fn check_supported(common: &CommonCircuitData<F, D>) -> Result<(), ProveError> {
    let config = &common.config;
    if !common.luts.is_empty() {
        return Err(ProveError::Unsupported("lookup tables"));
    }
    if config.zero_knowledge || common.public_initial_degree_bits != common.degree_bits() {
        return Err(ProveError::Unsupported("blinding (zero knowledge)"));
    }
    if log2_ceil(common.quotient_degree_factor) > config.fri_config.rate_bits {
        return Err(ProveError::Unsupported("constraints of a higher degree than the rate allows"));
    }
    if common.quotient_degree_factor >= config.num_routed_wires {
        return Err(ProveError::Unsupported("fewer routed wires than the constraints' degree"));
    }
    Ok(())
}

/// A witness's public inputs.
#[must_use]
pub fn public_inputs(
    prover_data: &ProverOnlyCircuitData<F, C, D>,
    witness: &PartitionWitness<'_, F>,
) -> Vec<F> {
    let value = |target: &Target| {
        let index = target.index(witness.num_wires, witness.degree);
        witness.values[witness.representative_map[index]].unwrap_or(F::ZERO)
    };
    prover_data.public_inputs.iter().map(value).collect()
}

/// The values of one of a witness's wires on all rows.
pub fn wire_column<'w>(
    witness: &'w PartitionWitness<'_, F>,
    column: usize,
) -> impl Iterator<Item = GoldilocksField> + 'w {
    // Wires come first among the targets, row by row.
    let places = witness.representative_map[..witness.degree * witness.num_wires].iter();
    let places = places.skip(column).step_by(witness.num_wires);
    places.map(|place| witness.values[*place].unwrap_or(F::ZERO))
}
