//! Poseidon over Goldilocks, four states beside each other.
//!
//! Hashing is six tenths of a proof's time, and a Merkle tree has thousands of independent hashes at every level. Four at a time fill
//! the lanes of a vector register: where the processor has AVX2, found out at run time, a permutation costs less than half of
//! what it costs alone. Elsewhere the four are permuted one after the other, by the library.
//!
//! A state is kept by element, so that the same elements of four leaves, which lie side by side in a column, are one load.

#[cfg(target_arch = "x86_64")]
mod avx2;

use crate::F;
use plonky2::field::types::Field;
use plonky2::hash::hash_types::HashOut;
use plonky2::hash::poseidon::{Poseidon, SPONGE_RATE, SPONGE_WIDTH};

/// States that are permuted together.
pub(crate) const LANES: usize = 4;

/// Four states: by element, then by lane. Elements are residues, and not always below the modulus.
pub(crate) type States = [[u64; LANES]; SPONGE_WIDTH];

/// Permutes each of the four.
pub(crate) fn permute(states: &mut States) {
    #[cfg(target_arch = "x86_64")]
    if avx2::permute(states) {
        return;
    }
    permute_one_by_one(states);
}

fn permute_one_by_one(states: &mut States) {
    for lane in 0..LANES {
        let state = states.map(|lanes| F::from_noncanonical_u64(lanes[lane]));
        for (lanes, element) in states.iter_mut().zip(F::poseidon(state)) {
            lanes[lane] = element.0;
        }
    }
}

/// The digests of four leaves of so many elements; `element` fills in the same element of each.
///
/// The leaf hash of qp-plonky2: `width + 1` in the first element of the capacity tells leaves from nodes and lengths from each
/// other; input overwrites the rate.
pub(crate) fn hash_leaves(width: usize, element: impl Fn(usize, &mut [u64; LANES])) -> [HashOut<F>; LANES] {
    let mut states: States = [[0; LANES]; SPONGE_WIDTH];
    states[SPONGE_RATE] = [width as u64 + 1; LANES];
    for begin in (0..width).step_by(SPONGE_RATE) {
        for (i, lanes) in (begin..width).zip(&mut states[..SPONGE_RATE]) {
            element(i, lanes);
        }
        permute(&mut states);
    }
    digests(&states)
}

/// The digests of four nodes; of each, `children` gives the left and the right child's.
pub(crate) fn hash_nodes(children: [[HashOut<F>; 2]; LANES]) -> [HashOut<F>; LANES] {
    let mut states: States = [[0; LANES]; SPONGE_WIDTH];
    for (lane, [left, right]) in children.into_iter().enumerate() {
        for (lanes, element) in states.iter_mut().zip(left.elements.into_iter().chain(right.elements)) {
            lanes[lane] = element.0;
        }
    }
    permute(&mut states);
    digests(&states)
}

fn digests(states: &States) -> [HashOut<F>; LANES] {
    std::array::from_fn(|lane| HashOut {
        elements: std::array::from_fn(|i| F::from_noncanonical_u64(states[i][lane])),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use plonky2::field::types::{PrimeField64, Sample};
    use plonky2::hash::poseidon::PoseidonHash;
    use plonky2::plonk::config::Hasher;

    const ORDER: u64 = 0xffff_ffff_0000_0001;

    /// Residues at the edges of what carries and borrows in the arithmetic, canonical and not, and random ones.
    fn states() -> Vec<States> {
        let edges =
            [0, 1, 2, 0xffff_ffff, 1 << 32, 1 << 63, (1 << 63) - 1, ORDER - 1, ORDER, ORDER + 1, u64::MAX];
        let mut all: Vec<States> = edges.iter().map(|edge| [[*edge; LANES]; SPONGE_WIDTH]).collect();
        for i in 0..edges.len() * edges.len() {
            // Each lane its own mixture.
            all.push(std::array::from_fn(|e| {
                std::array::from_fn(|lane| edges[(i * (e + 3) + lane * 5 + e * e) % edges.len()])
            }));
        }
        for _ in 0..2_000 {
            all.push(std::array::from_fn(|_| std::array::from_fn(|_| F::rand().0)));
        }
        all
    }

    #[test]
    fn four_at_once_are_four_permutations_of_the_library() {
        for before in states() {
            let (mut together, mut alone) = (before, before);
            permute(&mut together);
            permute_one_by_one(&mut alone);
            let canonical = |states: States| {
                states.map(|lanes| lanes.map(|element| F::from_noncanonical_u64(element).to_canonical_u64()))
            };
            assert_eq!(canonical(together), canonical(alone), "{before:x?}");
        }
    }

    #[test]
    fn digests_are_those_of_the_library_at_every_width() {
        for width in (0..=33).chain([135, 143, 144]) {
            let leaves: [Vec<F>; LANES] = std::array::from_fn(|_| F::rand_vec(width));
            let hashed = hash_leaves(width, |i, lanes| {
                *lanes = std::array::from_fn(|lane| leaves[lane][i].0);
            });
            for (leaf, digest) in leaves.iter().zip(hashed) {
                assert_eq!(<PoseidonHash as Hasher<F>>::hash_leaf(leaf), digest, "{width} elements");
            }
        }
        let children = std::array::from_fn(|_| {
            std::array::from_fn(|_| HashOut { elements: std::array::from_fn(|_| F::rand()) })
        });
        for ([left, right], digest) in children.into_iter().zip(hash_nodes(children)) {
            assert_eq!(<PoseidonHash as Hasher<F>>::two_to_one(left, right), digest);
        }
    }
}
