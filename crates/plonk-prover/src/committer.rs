//! The boundary between the transcript, which every proof goes through in the same way, and where its values are computed.

use crate::{Extension, F, H, ProveError};
use plonky2::fri::proof::FriQueryStep;
use plonky2::hash::hash_types::HashOut;
use plonky2::hash::merkle_proofs::MerkleProof;
use plonky2::hash::merkle_tree::MerkleCap;
use plonky2::hash::poseidon::SPONGE_WIDTH;
use std::ops::Range;

/// What commits to polynomials of one circuit, and computes on what it committed to: the processor ([`crate::Cpu`]), or a device. Two
/// committers give the same proof of the same witness, element for element.
pub trait Committer {
    /// Values on the circuit's rows, 2^degree_bits of each column: a witness's wires ([`crate::wire_column`]) to begin with.
    type Columns;
    /// Polynomials, their values on the coset, and the Merkle tree over these.
    type Commitment;
    /// The polynomial that FRI reduces, in whatever form.
    type Reduced;
    /// A codeword of it, with its tree.
    type Layer;
    /// Why it did not work.
    type Error: From<ProveError>;

    /// Commits to the polynomials that take these values.
    ///
    /// # Errors
    /// The committer's own, here and below.
    fn commit(&mut self, columns: &Self::Columns) -> Result<Self::Commitment, Self::Error>;

    /// The columns of the permutation argument: for each challenge Z, and after all of them the partial products, again by challenge.
    fn permutation(
        &mut self,
        wires: &Self::Columns,
        challenges: &[Permutation],
    ) -> Result<Self::Columns, Self::Error>;

    /// Commits to the quotient of each alpha, in pieces of the circuit's degree.
    fn quotients(
        &mut self,
        constraints: &Constraints<'_, Self::Commitment>,
    ) -> Result<Self::Commitment, Self::Error>;

    /// The tree's cap.
    fn cap(&mut self, commitment: &Self::Commitment) -> Result<MerkleCap<F, H>, Self::Error>;

    /// The values of these polynomials at a point.
    fn evaluate(
        &mut self,
        polynomials: &Polynomials<'_, Self::Commitment>,
        point: Extension,
    ) -> Result<Vec<Extension>, Self::Error>;

    /// `Σ α^i · (p_i(x) - p_i(z)) / (x - z)`, over all points z and the polynomials opened there.
    fn combine(
        &mut self,
        openings: &[Opened<'_, Self::Commitment>],
        alpha: Extension,
    ) -> Result<Self::Reduced, Self::Error>;

    /// Commits to the values of the polynomial on its coset, 2^arity_bits neighbours (by the reversed bits of their places) a leaf.
    fn commit_layer(&mut self, reduced: Self::Reduced, arity_bits: usize)
    -> Result<Self::Layer, Self::Error>;

    /// The tree's cap.
    fn layer_cap(&mut self, layer: &Self::Layer) -> Result<MerkleCap<F, H>, Self::Error>;

    /// Of P(x) = Σ x^i · P_i(x^arity) makes Σ β^i · P_i(x).
    fn fold(&mut self, layer: &mut Self::Layer, beta: Extension) -> Result<Self::Reduced, Self::Error>;

    /// The coefficients of what is left, from the constant term on.
    fn coefficients(&mut self, reduced: Self::Reduced) -> Result<Vec<Extension>, Self::Error>;

    /// The smallest number that does.
    fn work(&mut self, work: &Work) -> Result<Option<u64>, Self::Error>;

    /// Leaves of a tree, and their ways to its cap.
    fn open(&mut self, oracle: Oracle<'_, Self::Commitment>, leaves: &[usize])
    -> Result<Leaves, Self::Error>;

    /// Leaves of a layer's tree, and their ways to its cap.
    fn open_layer(&mut self, layer: &Self::Layer, leaves: &[usize]) -> Result<LayerLeaves, Self::Error>;
}

/// For each leaf its elements, and the siblings on its way to the cap.
pub type Leaves = Vec<(Vec<F>, MerkleProof<F, H>)>;

/// As [`Leaves`], of a layer.
pub type LayerLeaves = Vec<FriQueryStep<F, H, { crate::D }>>;

/// The challenges of one run of the permutation argument.
#[derive(Debug, Clone, Copy)]
pub struct Permutation {
    /// What a wire's place is multiplied by.
    pub beta: F,
    /// What is added.
    pub gamma: F,
}

/// What the quotient is made of, beside the circuit.
#[derive(Debug)]
pub struct Constraints<'a, M> {
    /// The public inputs' hash.
    pub public_inputs_hash: &'a HashOut<F>,
    /// The wires.
    pub wires: &'a M,
    /// Z and the partial products.
    pub zs: &'a M,
    /// What these were made with.
    pub permutation: &'a [Permutation],
    /// One quotient for each.
    pub alphas: &'a [F],
}

/// What a proof opens: the circuit's own polynomials, or a commitment of the proof.
#[derive(Debug)]
pub enum Oracle<'a, M> {
    /// Constants and permutation, which were committed to when the circuit was built.
    Circuit,
    /// A commitment of the proof.
    Proof(&'a M),
}

impl<M> Clone for Oracle<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M> Copy for Oracle<'_, M> {}

/// Some of an oracle's polynomials.
#[derive(Debug)]
pub struct Polynomials<'a, M> {
    /// Whose.
    pub oracle: Oracle<'a, M>,
    /// Which.
    pub range: Range<usize>,
}

/// Polynomials that are opened at a point.
#[derive(Debug)]
pub struct Opened<'a, M> {
    /// The point.
    pub point: Extension,
    /// The polynomials, in order.
    pub polynomials: Vec<Polynomials<'a, M>>,
    /// Their values there.
    pub values: Vec<Extension>,
}

/// What a proof of work is sought for.
#[derive(Debug, Clone, Copy)]
pub struct Work {
    /// The sponge's state, with what waits to be absorbed in place.
    pub state: [F; SPONGE_WIDTH],
    /// Where the number goes.
    pub place: usize,
    /// How many leading zeros are asked for.
    pub bits: u32,
}
