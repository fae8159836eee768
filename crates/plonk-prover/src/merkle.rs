//! Merkle trees with caps, as qp-plonky2 has them, hashed four nodes at a time.

use crate::poseidon::{LANES, hash_leaves, hash_nodes};
use crate::{F, H};
use plonky2::hash::hash_types::HashOut;
use plonky2::hash::merkle_proofs::MerkleProof;
use plonky2::hash::merkle_tree::MerkleCap;
use plonky2::hash::poseidon::SPONGE_RATE;
use plonky2::util::reverse_index_bits_in_place;
use rayon::prelude::*;

/// Hashes that a task does: enough that handing it out costs nothing, few enough that the parts of columns that it reads stay in
/// the nearest cache.
const HASHES_PER_TASK: usize = 16 * LANES;

/// The digests of a tree; the leaves are elsewhere.
#[derive(Debug)]
pub(crate) struct MerkleTree {
    /// The leaves' digests first, the cap last; each level is half as long as the one before.
    levels: Vec<Vec<HashOut<F>>>,
}

impl MerkleTree {
    /// A tree over the rows of a matrix given by its columns: leaf `i` is the row whose number is that of `i` with its bits reversed.
    pub(crate) fn of_columns(columns: &[Vec<F>], cap_height: usize) -> Self {
        let rows = columns.first().map_or(0, Vec::len);
        let mut digests = hash_all(rows, columns.len(), |row, i, lanes| {
            // Fewer than four rows are left where the matrix has fewer.
            for (lane, element) in lanes.iter_mut().zip(&columns[i][row..]) {
                *lane = element.0;
            }
        });
        reverse_index_bits_in_place(&mut digests);
        Self::above(digests, cap_height)
    }

    /// A tree over leaves of the same width, one after the other.
    pub(crate) fn of_leaves(elements: &[F], width: usize, cap_height: usize) -> Self {
        let digests = hash_all(elements.len() / width, width, |row, i, lanes| {
            for (lane, leaf) in lanes.iter_mut().zip(elements[row * width..].chunks_exact(width)) {
                *lane = leaf[i].0;
            }
        });
        Self::above(digests, cap_height)
    }

    fn above(leaves: Vec<HashOut<F>>, cap_height: usize) -> Self {
        let mut levels = vec![leaves];
        while levels[levels.len() - 1].len() > 1 << cap_height {
            let below = &levels[levels.len() - 1];
            let mut level = vec![HashOut::ZERO; below.len() / 2];
            level.par_chunks_mut(HASHES_PER_TASK).zip(below.par_chunks(2 * HASHES_PER_TASK)).for_each(
                |(level, below)| {
                    for (nodes, children) in level.chunks_mut(LANES).zip(below.chunks(2 * LANES)) {
                        let mut pairs = [[HashOut::ZERO; 2]; LANES];
                        for (pair, two) in pairs.iter_mut().zip(children.chunks_exact(2)) {
                            pair.copy_from_slice(two);
                        }
                        nodes.copy_from_slice(&hash_nodes(pairs)[..nodes.len()]);
                    }
                },
            );
            levels.push(level);
        }
        Self { levels }
    }

    /// How many permutations its hashes took, over leaves of this width.
    pub(crate) fn permutations(&self, width: usize) -> usize {
        let [leaves, nodes @ ..] = self.levels.as_slice() else { return 0 };
        leaves.len() * width.div_ceil(SPONGE_RATE) + nodes.iter().map(Vec::len).sum::<usize>()
    }

    /// The cap.
    pub(crate) fn cap(&self) -> MerkleCap<F, H> {
        MerkleCap(self.levels[self.levels.len() - 1].clone())
    }

    /// The siblings on a leaf's way to the cap.
    pub(crate) fn prove(&self, leaf: usize) -> MerkleProof<F, H> {
        let below_cap = &self.levels[..self.levels.len() - 1];
        let siblings = below_cap.iter().enumerate().map(|(height, level)| level[(leaf >> height) ^ 1]);
        MerkleProof { siblings: siblings.collect() }
    }
}

/// The digests of so many leaves. `element(first, i, lanes)` fills in element `i` of four leaves, `first` and those after it.
fn hash_all(
    leaves: usize,
    width: usize,
    element: impl Fn(usize, usize, &mut [u64; LANES]) + Sync,
) -> Vec<HashOut<F>> {
    let mut digests = vec![HashOut::ZERO; leaves];
    digests.par_chunks_mut(HASHES_PER_TASK).enumerate().for_each(|(task, digests)| {
        for (four, digests) in digests.chunks_mut(LANES).enumerate() {
            let first = task * HASHES_PER_TASK + four * LANES;
            let hashed = hash_leaves(width, |i, lanes| element(first, i, lanes));
            digests.copy_from_slice(&hashed[..digests.len()]);
        }
    });
    digests
}

#[cfg(test)]
mod tests {
    use super::*;
    use plonky2::field::types::Sample;
    use plonky2::hash::merkle_tree::MerkleTree as LibraryTree;
    use plonky2::util::reverse_bits;

    #[test]
    fn trees_are_those_of_the_library_at_every_size() {
        for log_leaves in 0..=8 {
            for width in [1, 4, 7, 8, 20, 33] {
                for cap_height in 0..=log_leaves {
                    let leaves: Vec<Vec<F>> = (0..1 << log_leaves).map(|_| F::rand_vec(width)).collect();
                    let library = LibraryTree::<F, H>::new(leaves.clone(), cap_height);
                    let rows = MerkleTree::of_leaves(&leaves.concat(), width, cap_height);
                    let columns: Vec<Vec<F>> = (0..width)
                        .map(|i| {
                            let row = |row| leaves[reverse_bits(row, log_leaves)][i];
                            (0..leaves.len()).map(row).collect()
                        })
                        .collect();
                    let columns = MerkleTree::of_columns(&columns, cap_height);
                    for ours in [rows, columns] {
                        assert_eq!(
                            ours.cap(),
                            library.cap,
                            "2^{log_leaves} leaves of {width}, cap {cap_height}"
                        );
                        for leaf in 0..leaves.len() {
                            assert_eq!(ours.prove(leaf), library.prove(leaf), "leaf {leaf}");
                        }
                    }
                }
            }
        }
    }
}
