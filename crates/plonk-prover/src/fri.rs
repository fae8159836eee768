//! Opening the commitments at points, and the proof that what was opened is of low degree.

use crate::commitment::Oracle;
use crate::merkle::MerkleTree;
use crate::poseidon::{self, LANES, States};
use crate::{Challenger, D, Extension, F, H, ProveError, Stage, Stages};
use plonky2::field::extension::flatten;
use plonky2::field::extension::quadratic::QuadraticExtension;
use plonky2::field::polynomial::PolynomialCoeffs;
use plonky2::field::types::{Field, Field64, PrimeField64};
use plonky2::fri::FriParams;
use plonky2::fri::proof::{FriInitialTreeProof, FriProof, FriQueryRound, FriQueryStep};
use plonky2::hash::hashing::PlonkyPermutation;
use plonky2::hash::poseidon::{SPONGE_RATE, SPONGE_WIDTH};
use plonky2::util::reverse_index_bits_in_place;
use rayon::prelude::*;

/// Coefficients that a task combines, or evaluates.
const COEFFICIENTS_PER_TASK: usize = 1 << 10;
/// Candidates that are tried together for the proof of work.
const CANDIDATES_TOGETHER: u64 = 1 << 14;
/// Candidates of these that a task tries.
const CANDIDATES_PER_TASK: u64 = 1 << 8;

/// The values of polynomials at a point.
pub(crate) fn evaluate(polynomials: &[PolynomialCoeffs<F>], point: Extension) -> Vec<Extension> {
    let longest = polynomials.iter().map(PolynomialCoeffs::len).max().unwrap_or(0);
    let powers: Vec<Extension> = point.powers().take(longest).collect();
    polynomials
        .par_iter()
        .map(|polynomial| {
            let terms = polynomial.coeffs.iter().zip(&powers);
            terms.map(|(coefficient, power)| scale(*power, *coefficient)).sum()
        })
        .collect()
}

/// Polynomials that are opened at a point.
pub(crate) struct Opened<'a> {
    pub(crate) point: Extension,
    pub(crate) polynomials: Vec<&'a PolynomialCoeffs<F>>,
}

/// Proves the openings. The challenger has observed the opened values.
///
/// # Errors
/// [`ProveError::NoProofOfWork`], which is a matter of chance and does not happen.
pub(crate) fn prove(
    oracles: &[Oracle<'_>],
    openings: &[Opened<'_>],
    challenger: &mut Challenger,
    params: &FriParams,
    stages: &mut Stages,
) -> Result<FriProof<F, H, D>, ProveError> {
    let alpha = challenger.get_extension_challenge::<D>();
    let mut coefficients = stages.time(Stage::Openings, || combine(openings, alpha));
    let rate_bits = params.config.rate_bits;
    let codeword_length = coefficients.len() << rate_bits;
    let mut trees = Vec::new();
    let mut codewords = Vec::new();
    let mut shift = F::MULTIPLICATIVE_GROUP_GENERATOR;
    for arity_bits in &params.reduction_arity_bits {
        let arity = 1 << arity_bits;
        let codeword = stages.time(Stage::Folding, || encode(&coefficients, rate_bits, shift));
        let tree = stages.time(Stage::Hashing, || {
            MerkleTree::of_leaves(&flatten::<F, D>(&codeword), arity * D, params.config.cap_height)
        });
        stages.permutations += tree.permutations(arity * D);
        challenger.observe_cap::<H>(&tree.cap());
        let beta = challenger.get_extension_challenge::<D>();
        // P(x) = Σ x^i · P_i(x^arity) becomes Σ β^i · P_i(x).
        let fold = |chunk: &[Extension]| chunk.iter().rfold(Extension::ZERO, |sum, c| sum * beta + *c);
        coefficients =
            stages.time(Stage::Folding, || coefficients.par_chunks_exact(arity).map(fold).collect());
        shift = shift.exp_power_of_2(*arity_bits);
        trees.push(tree);
        codewords.push(codeword);
    }
    challenger.observe_extension_elements::<D>(&coefficients);
    let pow_witness =
        stages.time(Stage::ProofOfWork, || work(challenger, params.config.proof_of_work_bits))?;
    let queries = challenger.get_n_challenges(params.config.num_query_rounds);
    let query_round_proofs = queries
        .into_iter()
        .map(|query| {
            // The remainder is below the codeword's length, a usize.
            let mut leaf = (query.to_canonical_u64() % codeword_length as u64) as usize;
            let evals_proofs = oracles.iter().map(|oracle| oracle.open(leaf)).collect();
            let steps = trees.iter().zip(&codewords).zip(&params.reduction_arity_bits);
            let steps = steps.map(|((tree, codeword), arity_bits)| {
                leaf >>= arity_bits;
                let evals = codeword[leaf << arity_bits..(leaf + 1) << arity_bits].to_vec();
                FriQueryStep { evals, merkle_proof: tree.prove(leaf) }
            });
            let steps = steps.collect();
            FriQueryRound { initial_trees_proof: FriInitialTreeProof { evals_proofs }, steps }
        })
        .collect();
    Ok(FriProof {
        commit_phase_merkle_caps: trees.iter().map(MerkleTree::cap).collect(),
        query_round_proofs,
        final_poly: PolynomialCoeffs::new(coefficients),
        pow_witness,
    })
}

/// `Σ α^i · (p_i(x) - p_i(z)) / (x - z)`, over all points z and the polynomials opened there.
fn combine(openings: &[Opened<'_>], alpha: Extension) -> Vec<Extension> {
    let mut combined: Vec<Extension> = Vec::new();
    for Opened { point, polynomials } in openings {
        let length = polynomials.iter().map(|polynomial| polynomial.len()).max().unwrap_or(0);
        let powers: Vec<Extension> = alpha.powers().take(polynomials.len()).collect();
        let mut sum = vec![Extension::ZERO; length];
        sum.par_chunks_mut(COEFFICIENTS_PER_TASK).enumerate().for_each(|(task, sum)| {
            for (polynomial, power) in polynomials.iter().zip(&powers) {
                let coefficients = &polynomial.coeffs[task * COEFFICIENTS_PER_TASK..];
                for (sum, coefficient) in sum.iter_mut().zip(coefficients) {
                    *sum += scale(*power, *coefficient);
                }
            }
        });
        let quotient = PolynomialCoeffs::new(sum).divide_by_linear(*point);
        let shift = alpha.exp_u64(polynomials.len() as u64);
        combined.resize(length, Extension::ZERO);
        // The quotient is one shorter: there is no remainder to keep.
        let quotient = quotient.coeffs.into_iter().chain(std::iter::repeat(Extension::ZERO));
        for (combined, quotient) in combined.iter_mut().zip(quotient) {
            *combined = *combined * shift + quotient;
        }
    }
    combined
}

/// The values of a polynomial on a coset 2^rate_bits times as large as it is long, in the order of the tree's leaves: by the reversed bits
/// of their places.
///
/// The coset lies in the base field, so the two coordinates are transformed apart.
fn encode(coefficients: &[Extension], rate_bits: usize, shift: F) -> Vec<Extension> {
    let coordinate = |i: usize| {
        let own: Vec<F> = coefficients.iter().map(|coefficient| coefficient.0[i]).collect();
        PolynomialCoeffs::new(own).lde(rate_bits).coset_fft_with_options(shift, Some(rate_bits), None).values
    };
    let (first, second) = rayon::join(|| coordinate(0), || coordinate(1));
    let mut values: Vec<Extension> =
        first.into_iter().zip(second).map(|(a, b)| QuadraticExtension([a, b])).collect();
    reverse_index_bits_in_place(&mut values);
    values
}

fn scale(element: Extension, factor: F) -> Extension {
    QuadraticExtension(element.0.map(|coordinate| coordinate * factor))
}

/// The smallest number that, observed, makes a challenge with so many leading zeros.
fn work(challenger: &mut Challenger, bits: u32) -> Result<F, ProveError> {
    // What the challenger would do for each: the number is the last of what is waiting to be absorbed, and the permutation's last
    // element of the rate is the challenge.
    let mut state = challenger.sponge_state();
    let place = challenger.input_buffer().len();
    state.set_from_iter(challenger.input_buffer().iter().copied(), 0);
    let state: [F; SPONGE_WIDTH] = std::array::from_fn(|i| state.as_ref()[i]);
    let fits =
        |challenge: u64| F::from_noncanonical_u64(challenge).to_canonical_u64().leading_zeros() >= bits;
    let try_four = |first: u64| -> Option<u64> {
        let mut states: States = state.map(|element| [element.0; LANES]);
        states[place] = std::array::from_fn(|lane| first + lane as u64);
        poseidon::permute(&mut states);
        let lane = states[SPONGE_RATE - 1].iter().position(|challenge| fits(*challenge))?;
        Some(first + lane as u64)
    };
    let found = (0..F::ORDER / CANDIDATES_TOGETHER).find_map(|block| {
        let first = block * CANDIDATES_TOGETHER;
        (0..CANDIDATES_TOGETHER / CANDIDATES_PER_TASK).into_par_iter().find_map_first(|task| {
            let first = first + task * CANDIDATES_PER_TASK;
            (first..first + CANDIDATES_PER_TASK).step_by(LANES).find_map(try_four)
        })
    });
    let witness = F::from_canonical_u64(found.ok_or(ProveError::NoProofOfWork)?);
    challenger.observe_element(witness);
    if fits(challenger.get_challenge().0) { Ok(witness) } else { Err(ProveError::NoProofOfWork) }
}
