//! The proof that what was opened is of low degree: its transcript.

use crate::committer::{Committer, Opened, Oracle, Work};
use crate::{Challenger, D, F, H, ProveError};
use plonky2::field::polynomial::PolynomialCoeffs;
use plonky2::field::types::{Field, PrimeField64};
use plonky2::fri::FriParams;
use plonky2::fri::proof::{FriInitialTreeProof, FriProof, FriQueryRound};
use plonky2::hash::hashing::PlonkyPermutation;

/// Proves the openings. The challenger has observed the opened values.
///
/// # Errors
/// [`ProveError::NoProofOfWork`], which is a matter of chance and does not happen; the committer's.
pub(crate) fn prove<K: Committer>(
    committer: &mut K,
    oracles: &[Oracle<'_, K::Commitment>],
    openings: &[Opened<'_, K::Commitment>],
    challenger: &mut Challenger,
    params: &FriParams,
) -> Result<FriProof<F, H, D>, K::Error> {
    let alpha = challenger.get_extension_challenge::<D>();
    let mut reduced = committer.combine(openings, alpha)?;
    let mut layers = Vec::new();
    let mut caps = Vec::new();
    for arity_bits in &params.reduction_arity_bits {
        let mut layer = committer.commit_layer(reduced, *arity_bits)?;
        let cap = committer.layer_cap(&layer)?;
        challenger.observe_cap::<H>(&cap);
        reduced = committer.fold(&mut layer, challenger.get_extension_challenge::<D>())?;
        layers.push(layer);
        caps.push(cap);
    }
    let coefficients = committer.coefficients(reduced)?;
    challenger.observe_extension_elements::<D>(&coefficients);
    let pow_witness = work(committer, challenger, params.config.proof_of_work_bits)?;
    let queries = challenger.get_n_challenges(params.config.num_query_rounds);
    let codeword_length = params.lde_size() as u64;
    // The remainder is below the codeword's length, a usize.
    let mut leaves: Vec<usize> =
        queries.iter().map(|query| (query.to_canonical_u64() % codeword_length) as usize).collect();
    let mut rounds: Vec<FriQueryRound<F, H, D>> = leaves
        .iter()
        .map(|_| FriQueryRound {
            initial_trees_proof: FriInitialTreeProof { evals_proofs: Vec::new() },
            steps: Vec::new(),
        })
        .collect();
    for oracle in oracles {
        for (round, opened) in rounds.iter_mut().zip(committer.open(*oracle, &leaves)?) {
            round.initial_trees_proof.evals_proofs.push(opened);
        }
    }
    for (layer, arity_bits) in layers.iter().zip(&params.reduction_arity_bits) {
        leaves.iter_mut().for_each(|leaf| *leaf >>= arity_bits);
        for (round, step) in rounds.iter_mut().zip(committer.open_layer(layer, &leaves)?) {
            round.steps.push(step);
        }
    }
    Ok(FriProof {
        commit_phase_merkle_caps: caps,
        query_round_proofs: rounds,
        final_poly: PolynomialCoeffs::new(coefficients),
        pow_witness,
    })
}

/// The smallest number that, observed, makes a challenge with so many leading zeros.
fn work<K: Committer>(committer: &mut K, challenger: &mut Challenger, bits: u32) -> Result<F, K::Error> {
    // What the challenger would do for each: the number is the last of what is waiting to be absorbed, and the permutation's last
    // element of the rate is the challenge.
    let mut state = challenger.sponge_state();
    let place = challenger.input_buffer().len();
    state.set_from_iter(challenger.input_buffer().iter().copied(), 0);
    let state = std::array::from_fn(|i| state.as_ref()[i]);
    let found = committer.work(&Work { state, place, bits })?.ok_or(ProveError::NoProofOfWork)?;
    let witness = F::from_canonical_u64(found);
    challenger.observe_element(witness);
    let challenge: F = challenger.get_challenge();
    if challenge.to_canonical_u64().leading_zeros() < bits {
        return Err(ProveError::NoProofOfWork.into());
    }
    Ok(witness)
}
