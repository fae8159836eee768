//! The processor as a committer: rayon's threads, four hashes at a time.

use crate::commitment::{Commitment, Roots};
use crate::committer::{
    Committer, Constraints, LayerLeaves, Leaves, Opened, Oracle, Permutation, Polynomials, Work,
};
use crate::merkle::MerkleTree;
use crate::poseidon::{self, LANES, States};
use crate::{C, D, Extension, F, H, ProveError, Stage, Stages, permutation, polynomials, quotient};
use plonky2::field::extension::flatten;
use plonky2::field::polynomial::PolynomialCoeffs;
use plonky2::field::types::{Field, Field64, PrimeField64};
use plonky2::fri::FriConfig;
use plonky2::fri::proof::FriQueryStep;
use plonky2::hash::merkle_tree::MerkleCap;
use plonky2::hash::poseidon::SPONGE_RATE;
use plonky2::plonk::circuit_data::{CommonCircuitData, ProverOnlyCircuitData};
use rayon::prelude::*;

/// Candidates that are tried together for the proof of work.
const CANDIDATES_TOGETHER: u64 = 1 << 14;
/// Candidates of these that a task tries.
const CANDIDATES_PER_TASK: u64 = 1 << 8;

/// Commits on the processor.
#[derive(Debug)]
pub struct Cpu<'a> {
    prover_data: &'a ProverOnlyCircuitData<F, C, D>,
    common: &'a CommonCircuitData<F, D>,
    roots: Roots,
    stages: &'a mut Stages,
}

/// A polynomial over the extension.
#[derive(Debug)]
pub struct Reduced {
    coefficients: Vec<Extension>,
    /// Of the coset that it is evaluated on.
    shift: F,
}

/// A polynomial's codeword, by the reversed bits of its places, and its tree.
#[derive(Debug)]
pub struct Layer {
    reduced: Reduced,
    arity_bits: usize,
    codeword: Vec<Extension>,
    tree: MerkleTree,
}

impl<'a> Cpu<'a> {
    /// For a circuit; adds to `stages` where the time went.
    #[must_use]
    pub fn new(
        prover_data: &'a ProverOnlyCircuitData<F, C, D>,
        common: &'a CommonCircuitData<F, D>,
        stages: &'a mut Stages,
    ) -> Self {
        let roots = Roots::new(common.degree(), common.config.fri_config.rate_bits);
        Self { prover_data, common, roots, stages }
    }

    fn config(&self) -> &'a FriConfig {
        &self.common.config.fri_config
    }
}

/// An oracle's polynomials.
fn coefficients<'m>(
    prover_data: &'m ProverOnlyCircuitData<F, C, D>,
    polynomials: &Polynomials<'m, Commitment>,
) -> &'m [PolynomialCoeffs<F>] {
    let all = match polynomials.oracle {
        Oracle::Circuit => &prover_data.constants_sigmas_commitment.polynomials,
        Oracle::Proof(commitment) => &commitment.polynomials,
    };
    &all[polynomials.range.clone()]
}

impl Committer for Cpu<'_> {
    type Columns = Vec<Vec<F>>;
    type Commitment = Commitment;
    type Reduced = Reduced;
    type Layer = Layer;
    type Error = ProveError;

    fn commit(&mut self, columns: &Self::Columns) -> Result<Commitment, ProveError> {
        Ok(Commitment::of_values(columns, self.config(), &self.roots, self.stages))
    }

    fn permutation(
        &mut self,
        wires: &Self::Columns,
        challenges: &[Permutation],
    ) -> Result<Self::Columns, ProveError> {
        let Self { prover_data, common, .. } = *self;
        Ok(self.stages.time(Stage::Permutation, || {
            permutation::z_and_partial_products(wires, challenges, prover_data, common)
        }))
    }

    fn quotients(&mut self, constraints: &Constraints<'_, Commitment>) -> Result<Commitment, ProveError> {
        let Self { prover_data, common, .. } = *self;
        let quotients =
            self.stages.time(Stage::Quotient, || quotient::quotients(prover_data, common, constraints))?;
        Ok(Commitment::of_polynomials(quotients, self.config(), &self.roots, self.stages))
    }

    fn cap(&mut self, commitment: &Commitment) -> Result<MerkleCap<F, H>, ProveError> {
        Ok(commitment.cap())
    }

    fn evaluate(
        &mut self,
        polynomials: &Polynomials<'_, Commitment>,
        point: Extension,
    ) -> Result<Vec<Extension>, ProveError> {
        let coefficients = coefficients(self.prover_data, polynomials);
        Ok(self.stages.time(Stage::Openings, || polynomials::evaluate(coefficients, point)))
    }

    fn combine(
        &mut self,
        openings: &[Opened<'_, Commitment>],
        alpha: Extension,
    ) -> Result<Reduced, ProveError> {
        let prover_data = self.prover_data;
        let opened: Vec<_> = openings
            .iter()
            .map(|opened| {
                let polynomials = opened.polynomials.iter().flat_map(|some| coefficients(prover_data, some));
                (opened.point, polynomials.collect())
            })
            .collect();
        let coefficients = self.stages.time(Stage::Openings, || polynomials::combine(&opened, alpha));
        Ok(Reduced { coefficients, shift: F::MULTIPLICATIVE_GROUP_GENERATOR })
    }

    fn commit_layer(&mut self, reduced: Reduced, arity_bits: usize) -> Result<Layer, ProveError> {
        let FriConfig { rate_bits, cap_height, .. } = *self.config();
        let codeword = self
            .stages
            .time(Stage::Folding, || polynomials::encode(&reduced.coefficients, rate_bits, reduced.shift));
        let width = D << arity_bits;
        let tree = self
            .stages
            .time(Stage::Hashing, || MerkleTree::of_leaves(&flatten::<F, D>(&codeword), width, cap_height));
        self.stages.permutations += tree.permutations(width);
        Ok(Layer { reduced, arity_bits, codeword, tree })
    }

    fn layer_cap(&mut self, layer: &Layer) -> Result<MerkleCap<F, H>, ProveError> {
        Ok(layer.tree.cap())
    }

    fn fold(&mut self, layer: &mut Layer, beta: Extension) -> Result<Reduced, ProveError> {
        let fold = |chunk: &[Extension]| chunk.iter().rfold(Extension::ZERO, |sum, c| sum * beta + *c);
        // They are asked for once.
        let coefficients = std::mem::take(&mut layer.reduced.coefficients);
        let coefficients = self.stages.time(Stage::Folding, || {
            coefficients.par_chunks_exact(1 << layer.arity_bits).map(fold).collect()
        });
        Ok(Reduced { coefficients, shift: layer.reduced.shift.exp_power_of_2(layer.arity_bits) })
    }

    fn coefficients(&mut self, reduced: Reduced) -> Result<Vec<Extension>, ProveError> {
        Ok(reduced.coefficients)
    }

    fn work(&mut self, work: &Work) -> Result<Option<u64>, ProveError> {
        Ok(self.stages.time(Stage::ProofOfWork, || smallest_that_works(work)))
    }

    fn open(&mut self, oracle: Oracle<'_, Commitment>, leaves: &[usize]) -> Result<Leaves, ProveError> {
        let tree = &self.prover_data.constants_sigmas_commitment.merkle_tree;
        let open = |leaf: &usize| match oracle {
            Oracle::Circuit => (tree.get(*leaf).to_vec(), tree.prove(*leaf)),
            Oracle::Proof(commitment) => commitment.open(*leaf),
        };
        Ok(leaves.iter().map(open).collect())
    }

    fn open_layer(&mut self, layer: &Layer, leaves: &[usize]) -> Result<LayerLeaves, ProveError> {
        let Layer { arity_bits, codeword, tree, .. } = layer;
        let open = |leaf: &usize| FriQueryStep {
            evals: codeword[leaf << arity_bits..(leaf + 1) << arity_bits].to_vec(),
            merkle_proof: tree.prove(*leaf),
        };
        Ok(leaves.iter().map(open).collect())
    }
}

fn smallest_that_works(Work { state, place, bits }: &Work) -> Option<u64> {
    let fits =
        |challenge: u64| F::from_noncanonical_u64(challenge).to_canonical_u64().leading_zeros() >= *bits;
    let try_four = |first: u64| -> Option<u64> {
        let mut states: States = state.map(|element| [element.0; LANES]);
        states[*place] = std::array::from_fn(|lane| first + lane as u64);
        poseidon::permute(&mut states);
        let lane = states[SPONGE_RATE - 1].iter().position(|challenge| fits(*challenge))?;
        Some(first + lane as u64)
    };
    (0..F::ORDER / CANDIDATES_TOGETHER).find_map(|block| {
        let first = block * CANDIDATES_TOGETHER;
        (0..CANDIDATES_TOGETHER / CANDIDATES_PER_TASK).into_par_iter().find_map_first(|task| {
            let first = first + task * CANDIDATES_PER_TASK;
            (first..first + CANDIDATES_PER_TASK).step_by(LANES).find_map(try_four)
        })
    })
}
