//! Polynomials that are committed to.

use crate::merkle::MerkleTree;
use crate::{F, H, Stage, Stages};
use plonky2::field::fft::{FftRootTable, fft_root_table, ifft_with_options};
use plonky2::field::polynomial::{PolynomialCoeffs, PolynomialValues};
use plonky2::field::types::Field;
use plonky2::fri::FriConfig;
use plonky2::hash::merkle_proofs::MerkleProof;
use plonky2::hash::merkle_tree::MerkleCap;
use plonky2::util::{log2_strict, reverse_bits};
use rayon::prelude::*;

/// The roots of unity that transforms of a circuit's sizes need, made once a proof.
#[derive(Debug)]
pub(crate) struct Roots {
    /// For as many points as the circuit has rows.
    small: FftRootTable<F>,
    /// For the low-degree extension of as many.
    large: FftRootTable<F>,
}

impl Roots {
    pub(crate) fn new(rows: usize, rate_bits: usize) -> Self {
        Self { small: fft_root_table(rows), large: fft_root_table(rows << rate_bits) }
    }
}

/// A batch of polynomials of the same degree, their low-degree extensions, and the Merkle tree over these.
///
/// The library keeps each leaf as a vector of its own, beside the columns that it transposed. Here the columns alone are kept:
/// hashing takes four neighbours of each at a time, the quotient runs of them, and the queries some dozens of rows.
#[derive(Debug)]
pub struct Commitment {
    /// The polynomials.
    pub(crate) polynomials: Vec<PolynomialCoeffs<F>>,
    /// The values of each on the coset, in the coset's natural order.
    pub(crate) columns: Vec<Vec<F>>,
    tree: MerkleTree,
}

impl Commitment {
    /// Commits to the polynomials that take these values on the subgroup.
    pub(crate) fn of_values(
        values: &[Vec<F>],
        config: &FriConfig,
        roots: &Roots,
        stages: &mut Stages,
    ) -> Self {
        let interpolate = |column: &Vec<F>| {
            ifft_with_options(PolynomialValues::new(column.clone()), None, Some(&roots.small))
        };
        let polynomials = stages.time(Stage::Interpolation, || values.par_iter().map(interpolate).collect());
        Self::of_polynomials(polynomials, config, roots, stages)
    }

    /// Commits to polynomials.
    pub(crate) fn of_polynomials(
        polynomials: Vec<PolynomialCoeffs<F>>,
        config: &FriConfig,
        roots: &Roots,
        stages: &mut Stages,
    ) -> Self {
        let rate_bits = config.rate_bits;
        let extend = |polynomial: &PolynomialCoeffs<F>| {
            let padded = polynomial.lde(rate_bits);
            // All but the first of 2^rate_bits coefficients are zero.
            padded.coset_fft_with_options(F::coset_shift(), Some(rate_bits), Some(&roots.large)).values
        };
        let columns: Vec<Vec<F>> =
            stages.time(Stage::Extension, || polynomials.par_iter().map(extend).collect());
        let tree = stages.time(Stage::Hashing, || MerkleTree::of_columns(&columns, config.cap_height));
        stages.permutations += tree.permutations(columns.len());
        Self { polynomials, columns, tree }
    }

    pub(crate) fn cap(&self) -> MerkleCap<F, H> {
        self.tree.cap()
    }

    /// A leaf, and its way to the cap.
    pub(crate) fn open(&self, leaf: usize) -> (Vec<F>, MerkleProof<F, H>) {
        let Self { columns, tree, .. } = self;
        let rows = columns.first().map_or(1, Vec::len);
        let row = reverse_bits(leaf, log2_strict(rows));
        (columns.iter().map(|column| column[row]).collect(), tree.prove(leaf))
    }
}
