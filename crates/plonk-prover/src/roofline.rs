//! The least that a proof takes: bytes that must move, and hashes; against what a machine moves and hashes.
//!
//! A stage reads each value that it takes once, and writes each that it makes once, whatever it keeps in caches; its hashes are Poseidon
//! permutations. Whichever of the two takes longer is its roofline. The field's other products are not in it: what is above the roofline is theirs,
//! or to be won.

use crate::poseidon::{self, LANES, States};
use crate::{D, F, Stage};
use plonky2::hash::hash_types::NUM_HASH_OUT_ELTS;
use plonky2::hash::poseidon::{SPONGE_RATE, SPONGE_WIDTH};
use plonky2::plonk::circuit_data::CommonCircuitData;
use rayon::prelude::*;
use std::time::{Duration, Instant};

const ELEMENT_BYTES: u64 = 8;

/// What a stage of a proof must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs {
    /// Bytes that are read and written.
    pub bytes: u64,
    /// Poseidon permutations.
    pub permutations: u64,
}

/// What a processor or a device does in a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Bytes that its memory moves, read and written.
    pub bytes: f64,
    /// Bytes that come to it from elsewhere: a witness's way to a device.
    pub uploaded_bytes: f64,
    /// Poseidon permutations.
    pub permutations: f64,
}

/// Merkle trees over leaves of this width: the permutations of all nodes up to the cap.
fn tree(leaves: u64, width: u64, cap_height: usize) -> Needs {
    let nodes = leaves.saturating_sub(1 << cap_height);
    let digests = (leaves + nodes) * NUM_HASH_OUT_ELTS as u64;
    Needs {
        // Leaves are read, digests written, and all but the cap's read for the level above.
        bytes: ELEMENT_BYTES * (leaves * width + 2 * digests),
        permutations: leaves * width.div_ceil(SPONGE_RATE as u64) + nodes,
    }
}

fn sum(all: impl Iterator<Item = Needs>) -> Needs {
    all.fold(Needs::default(), |a, b| Needs {
        bytes: a.bytes + b.bytes,
        permutations: a.permutations + b.permutations,
    })
}

impl Needs {
    /// What a stage of a proof of this circuit needs.
    #[must_use]
    pub fn of(stage: Stage, common: &CommonCircuitData<F, D>) -> Self {
        let config = &common.config;
        let challenges = config.num_challenges as u64;
        let cosets = common.quotient_degree_factor as u64;
        let rows = common.degree() as u64;
        let points = rows << config.fri_config.rate_bits;
        let cap_height = config.fri_config.cap_height;
        // How many columns there are of each kind.
        let wires = config.num_wires as u64;
        let products = challenges * (common.num_partial_products as u64 + 1);
        let pieces = challenges * cosets;
        let fixed = common.sigmas_range().end as u64;
        let elements = |count: u64| Self { bytes: ELEMENT_BYTES * count, permutations: 0 };
        // Of each layer of FRI: the codeword's length, and how many of it make a leaf.
        let layers = || {
            common.fri_params.reduction_arity_bits.iter().scan(points, |length, arity_bits| {
                let layer = (*length, 1 << arity_bits);
                *length >>= arity_bits;
                Some(layer)
            })
        };
        let extension = D as u64;
        match stage {
            Stage::Upload => elements(wires * rows),
            Stage::Interpolation => elements(2 * (wires + products) * rows),
            Stage::Extension => elements((wires + products + pieces) * (rows + points)),
            Stage::Hashing => {
                let commitments = [wires, products, pieces].map(|width| tree(points, width, cap_height));
                let layers =
                    layers().map(|(length, arity)| tree(length / arity, extension * arity, cap_height));
                sum(commitments.into_iter().chain(layers))
            }
            Stage::Permutation => elements((2 * config.num_routed_wires as u64 + products) * rows),
            Stage::Quotient => {
                elements((fixed + wires + products + 2 * challenges) * cosets * rows + pieces * rows)
            }
            // Once to evaluate them, once to combine them.
            Stage::Openings => elements(2 * (fixed + wires + products + pieces) * rows + extension * points),
            Stage::Folding => {
                elements(layers().map(|(length, arity)| extension * (length + length / arity)).sum())
            }
            Stage::ProofOfWork => Self { bytes: 0, permutations: 1 << config.fri_config.proof_of_work_bits },
        }
    }

    /// The least time that these take.
    #[must_use]
    pub fn roofline(&self, stage: Stage, rates: &Rates) -> Duration {
        let rate = if stage == Stage::Upload { rates.uploaded_bytes } else { rates.bytes };
        let seconds = (self.bytes as f64 / rate).max(self.permutations as f64 / rates.permutations);
        Duration::from_secs_f64(seconds)
    }
}

impl Rates {
    /// What all of this machine's cores do together, measured: copies of what no cache holds, and permutations of what registers hold. The
    /// best of some rounds.
    #[must_use]
    pub fn of_this_machine() -> Self {
        const ROUNDS: usize = 5;
        const COPIED: usize = 256 << 20;
        const PERMUTED: usize = 1 << 13;
        // None waits for the one before.
        const TOGETHER: usize = 4;
        let fastest = |mut work: Box<dyn FnMut()>| {
            let times = (0..ROUNDS).map(|_| {
                let begun = Instant::now();
                work();
                begun.elapsed().as_secs_f64()
            });
            times.fold(f64::INFINITY, f64::min)
        };
        let (from, mut to) = (vec![1_u64; COPIED / 8], vec![0_u64; COPIED / 8]);
        let copy = fastest(Box::new(move || {
            let chunk = 1 << 16;
            to.par_chunks_mut(chunk)
                .zip(from.par_chunks(chunk))
                .for_each(|(to, from)| to.copy_from_slice(from));
        }));
        let threads = rayon::current_num_threads();
        let permute = fastest(Box::new(move || {
            let ends: u64 = (0..threads)
                .into_par_iter()
                .map(|thread| {
                    let mut states: [States; TOGETHER] = [[[thread as u64; LANES]; SPONGE_WIDTH]; TOGETHER];
                    for _ in 0..PERMUTED / TOGETHER {
                        states.iter_mut().for_each(poseidon::permute);
                    }
                    states.iter().fold(0, |sum, states| sum ^ states[0][0])
                })
                .reduce(|| 0, u64::wrapping_add);
            std::hint::black_box(ends);
        }));
        let bytes = 2.0 * COPIED as f64 / copy;
        // Nothing comes to it from elsewhere.
        Self {
            bytes,
            uploaded_bytes: f64::INFINITY,
            permutations: (threads * PERMUTED * LANES) as f64 / permute,
        }
    }
}

#[cfg(test)]
#[allow(clippy::expect_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::Stages;
    use crate::sample::{Sample, other_configs, standard_config};

    #[test]
    fn the_hashes_are_those_of_a_proof() {
        for config in other_configs().into_iter().chain([standard_config()]) {
            let sample = Sample::new(config, 600).expect("its inputs fit");
            let mut stages = Stages::default();
            sample.prove(&mut stages).expect("it is proven");
            let needs = Needs::of(Stage::Hashing, &sample.circuit.common);
            assert_eq!(needs.permutations, stages.permutations as u64);
        }
    }

    #[test]
    fn the_longer_of_moving_and_hashing_is_the_roofline() {
        let rates = Rates { bytes: 100.0, uploaded_bytes: 10.0, permutations: 2.0 };
        let needs = Needs { bytes: 300, permutations: 2 };
        assert_eq!(needs.roofline(Stage::Hashing, &rates), Duration::from_secs(3));
        assert_eq!(needs.roofline(Stage::Upload, &rates), Duration::from_secs(30));
        let hashes = Needs { permutations: 10, ..needs };
        assert_eq!(hashes.roofline(Stage::Hashing, &rates), Duration::from_secs(5));
    }
}
