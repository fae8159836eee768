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
//! The stages, each a module: `commitment` (interpolation, low-degree extension, Merkle tree), `permutation` (partial
//! products), `quotient` (all constraints), `fri` (openings). The transcript is the library's `Challenger`, here in [`prove`].
//!
//! It serves one configuration, `PoseidonGoldilocksConfig`, without lookups and without blinding; of others it says so.

mod commitment;
mod fri;
mod merkle;
mod permutation;
mod poseidon;
mod quotient;
pub mod sample;
mod stages;

pub use stages::{Stage, Stages};

use commitment::{Commitment, Oracle, Roots};
use fri::Opened;
use plonky2::field::extension::quadratic::QuadraticExtension;
use plonky2::field::goldilocks_field::GoldilocksField;
use plonky2::field::types::Field;
use plonky2::fri::FriParamsObserve;
use plonky2::hash::poseidon::PoseidonHash;
use plonky2::iop::witness::PartitionWitness;
use plonky2::plonk::circuit_data::{CommonCircuitData, ProverOnlyCircuitData};
use plonky2::plonk::config::{Hasher, PoseidonGoldilocksConfig};
use plonky2::plonk::proof::{OpeningSet, Proof, ProofWithPublicInputs};
use plonky2::util::log2_ceil;
use quotient::Constraints;
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

/// The challenges of one run of the permutation argument.
#[derive(Debug, Clone, Copy)]
struct Permutation {
    beta: F,
    gamma: F,
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
) -> Result<ProofWithPublicInputs<F, C, D>, ProveError> {
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
) -> Result<ProofWithPublicInputs<F, C, D>, ProveError> {
    check_supported(common)?;
    let config = &common.config;
    let fri_config = &config.fri_config;
    let roots = Roots::new(common.degree(), fri_config.rate_bits);
    let public_inputs: Vec<F> = prover_data
        .public_inputs
        .iter()
        .map(|target| {
            let index = target.index(witness.num_wires, witness.degree);
            witness.values[witness.representative_map[index]].unwrap_or(F::ZERO)
        })
        .collect();
    let public_inputs_hash = <H as Hasher<F>>::hash_no_pad(&public_inputs);

    let wire_values = stages.time(Stage::Interpolation, || wire_columns(witness));
    let wires = Commitment::of_values(wire_values.clone(), fri_config, &roots, stages);
    let mut challenger = Challenger::new();
    common.fri_params.observe(&mut challenger);
    challenger.observe_hash::<H>(prover_data.circuit_digest);
    challenger.observe_hash::<H>(public_inputs_hash);
    challenger.observe_cap::<H>(&wires.cap());
    let betas = challenger.get_n_challenges(config.num_challenges);
    let gammas = challenger.get_n_challenges(config.num_challenges);
    let permutation: Vec<Permutation> =
        betas.into_iter().zip(gammas).map(|(beta, gamma)| Permutation { beta, gamma }).collect();

    let z_values = stages.time(Stage::Permutation, || {
        permutation::z_and_partial_products(&wire_values, &permutation, prover_data, common)
    });
    drop(wire_values);
    let zs = Commitment::of_values(z_values, fri_config, &roots, stages);
    challenger.observe_cap::<H>(&zs.cap());
    let alphas = challenger.get_n_challenges(config.num_challenges);

    let constraints = Constraints {
        prover_data,
        common,
        public_inputs_hash: &public_inputs_hash,
        wires: &wires,
        zs: &zs,
        permutation: &permutation,
        alphas: &alphas,
    };
    let quotients = stages.time(Stage::Quotient, || constraints.quotients())?;
    let quotients = Commitment::of_polynomials(quotients, fri_config, &roots, stages);
    challenger.observe_cap::<H>(&quotients.cap());

    let zeta = challenger.get_extension_challenge::<D>();
    if zeta.exp_power_of_2(common.degree_bits()) == Extension::ONE {
        return Err(ProveError::PointInSubgroup);
    }
    let zeta_next = Extension::primitive_root_of_unity(common.degree_bits()) * zeta;
    let oracles = [
        Oracle::Circuit(&prover_data.constants_sigmas_commitment),
        Oracle::Proof(&wires),
        Oracle::Proof(&zs),
        Oracle::Proof(&quotients),
    ];
    let next_polynomials = &zs.polynomials[common.zs_range()];
    let ([fixed, wires_at, zs_at, quotients_at], zs_next) = stages.time(Stage::Openings, || {
        let at_zeta = oracles.map(|oracle| fri::evaluate(oracle.polynomials(), zeta));
        (at_zeta, fri::evaluate(next_polynomials, zeta_next))
    });
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
    for values in [
        &openings.constants,
        &openings.plonk_sigmas,
        &openings.wires,
        &openings.plonk_zs,
        &openings.partial_products,
        &openings.quotient_polys,
        &openings.plonk_zs_next,
    ] {
        challenger.observe_extension_elements::<D>(values);
    }
    let opened = [
        Opened { point: zeta, polynomials: oracles.iter().flat_map(|oracle| oracle.polynomials()).collect() },
        Opened { point: zeta_next, polynomials: next_polynomials.iter().collect() },
    ];
    let opening_proof = fri::prove(&oracles, &opened, &mut challenger, &common.fri_params, stages)?;
    let proof = Proof {
        wires_cap: wires.cap(),
        plonk_zs_partial_products_cap: zs.cap(),
        quotient_polys_cap: quotients.cap(),
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

/// The values of all wires, by column.
fn wire_columns(witness: &PartitionWitness<'_, F>) -> Vec<Vec<F>> {
    use rayon::prelude::*;
    // Wires come first among the targets, row by row.
    (0..witness.num_wires)
        .into_par_iter()
        .map(|column| {
            let places = witness.representative_map[..witness.degree * witness.num_wires].iter();
            let places = places.skip(column).step_by(witness.num_wires);
            places.map(|place| witness.values[*place].unwrap_or(F::ZERO)).collect()
        })
        .collect()
}
