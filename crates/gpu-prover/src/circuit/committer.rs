//! A proof at work on a device.

// Kernels are started with what their comments say.
#![allow(unsafe_code)]

use super::{CHALLENGES, DeviceCircuit, SUM_THREADS, pair, small};
use crate::commitment::{Commitment, Digest, Direction, Tree, gather};
use crate::device::{Buffer, launch, threads};
use crate::driver::DriverError;
use crate::{D, DeviceError, Extension, F, H};
use cust::function::{BlockSize, GridSize};
use plonk_prover::committer::{
    Constraints, LayerLeaves, Leaves, Opened, Oracle, Permutation, Polynomials, Work,
};
use plonk_prover::{Committer, Stage, Stages};
use plonky2::field::extension::quadratic::QuadraticExtension;
use plonky2::field::polynomial::PolynomialValues;
use plonky2::field::types::{Field, Field64, PrimeField64};
use plonky2::fri::proof::FriQueryStep;
use plonky2::hash::hash_types::HashOut;
use plonky2::hash::merkle_proofs::MerkleProof;
use plonky2::hash::merkle_tree::MerkleCap;
use plonky2::util::reverse_bits;

/// Candidates for the proof of work that are tried at a time: four times as many as are expected to be needed, but enough for a device.
fn candidates(bits: u32) -> u64 {
    1 << (bits + 2).clamp(10, 20)
}

/// Values on the rows.
#[derive(Debug)]
pub(super) struct Columns {
    pub(super) values: Buffer,
    pub(super) width: u32,
}

/// The codeword that FRI reduces: two columns in natural order.
#[derive(Debug)]
pub(super) struct Reduced {
    codeword: Buffer,
    log_n: u32,
    shift: F,
}

/// A codeword and its tree.
#[derive(Debug)]
pub(super) struct Layer {
    reduced: Reduced,
    arity_bits: u32,
    tree: Tree,
}

fn element(canonical: u64) -> F {
    F::from_canonical_u64(canonical)
}

fn hash(digest: Digest) -> HashOut<F> {
    HashOut { elements: digest.map(element) }
}

fn merkle_cap(digests: Vec<Digest>) -> MerkleCap<F, H> {
    MerkleCap(digests.into_iter().map(hash).collect())
}

fn merkle_proof(siblings: Vec<Digest>) -> MerkleProof<F, H> {
    MerkleProof { siblings: siblings.into_iter().map(hash).collect() }
}

/// A proof at work.
pub(super) struct DeviceCommitter<'c> {
    pub(super) circuit: &'c DeviceCircuit,
    pub(super) stages: &'c mut Stages,
    pub(super) between: &'c mut dyn FnMut(),
}

impl DeviceCommitter<'_> {
    /// Does something, waits until the device has done it, and adds the time to a stage.
    fn time<T>(
        &mut self,
        stage: Stage,
        work: impl FnOnce() -> Result<T, DriverError>,
    ) -> Result<T, DeviceError> {
        let device = &self.circuit.device;
        (self.between)();
        Ok(self.stages.time(stage, || work().and_then(|done| device.finish().map(|()| done)))?)
    }

    fn commit_coefficients(&mut self, coefficients: Buffer, width: u32) -> Result<Commitment, DeviceError> {
        let DeviceCircuit { domain, .. } = self.circuit;
        let extension = self.time(Stage::Extension, || domain.extend(&coefficients, width))?;
        let cap_height = self.circuit.cap_height();
        self.time(Stage::Hashing, || Commitment::hashed(coefficients, extension, width, domain, cap_height))
    }
}

impl Committer for DeviceCommitter<'_> {
    type Columns = Columns;
    type Commitment = Commitment;
    type Reduced = Reduced;
    type Layer = Layer;
    type Error = DeviceError;

    fn commit(&mut self, columns: &Columns) -> Result<Commitment, DeviceError> {
        let domain = &self.circuit.domain;
        let coefficients = self.time(Stage::Interpolation, || {
            let coefficients = columns.values.copy()?;
            domain.transform(&coefficients, columns.width, Direction::ToCoefficients)?;
            Ok(coefficients)
        })?;
        self.commit_coefficients(coefficients, columns.width)
    }

    fn permutation(&mut self, wires: &Columns, challenges: &[Permutation]) -> Result<Columns, DeviceError> {
        let circuit = self.circuit;
        let width = CHALLENGES * circuit.steps();
        let values = self.time(Stage::Permutation, || {
            let columns = circuit.device.allocate(width << circuit.log_rows())?;
            for (i, challenge) in challenges.iter().enumerate() {
                circuit.permutation_of(&wires.values, &columns, i, *challenge)?;
            }
            Ok(columns)
        })?;
        Ok(Columns { values, width: small(width) })
    }

    fn quotients(&mut self, constraints: &Constraints<'_, Commitment>) -> Result<Commitment, DeviceError> {
        let circuit = self.circuit;
        let pieces = self.time(Stage::Quotient, || circuit.pieces(&circuit.mixed(constraints)?))?;
        self.commit_coefficients(pieces, small(CHALLENGES << circuit.quotient_bits))
    }

    fn cap(&mut self, commitment: &Commitment) -> Result<MerkleCap<F, H>, DeviceError> {
        Ok(merkle_cap(commitment.cap()?))
    }

    fn evaluate(
        &mut self,
        polynomials: &Polynomials<'_, Commitment>,
        point: Extension,
    ) -> Result<Vec<Extension>, DeviceError> {
        let circuit = self.circuit;
        let (device, log_n) = (&circuit.device, circuit.log_rows());
        let values = self.time(Stage::Openings, || {
            let powers = device.allocate(D << log_n)?;
            let [a, b] = pair(point);
            let (grid, block) = threads(1 << log_n);
            launch!(device, "powers_of_point", grid, block, a, b, log_n, powers.pointer())?;
            let count = polynomials.range.len();
            let values = device.allocate(D * count)?;
            launch!(
                device,
                "evaluate",
                GridSize::x(small(count)),
                BlockSize::x(SUM_THREADS),
                circuit.coefficients(polynomials),
                log_n,
                powers.pointer(),
                values.pointer()
            )?;
            values.read()
        })?;
        Ok(values
            .chunks_exact(D)
            .map(|pair| QuadraticExtension([element(pair[0]), element(pair[1])]))
            .collect())
    }

    fn combine(
        &mut self,
        openings: &[Opened<'_, Commitment>],
        alpha: Extension,
    ) -> Result<Reduced, DeviceError> {
        let circuit = self.circuit;
        let log_n = circuit.domain.log_all();
        let codeword = self.time(Stage::Openings, || {
            let codeword = circuit.device.allocate(D << log_n)?;
            for (i, opened) in openings.iter().enumerate() {
                circuit.open_into(&codeword, opened, alpha, i == 0)?;
            }
            Ok(codeword)
        })?;
        Ok(Reduced { codeword, log_n, shift: F::coset_shift() })
    }

    fn commit_layer(&mut self, reduced: Reduced, arity_bits: usize) -> Result<Layer, DeviceError> {
        let (arity_bits, log_n, cap_height) = (small(arity_bits), reduced.log_n, self.circuit.cap_height());
        let device = &self.circuit.device;
        let log_leaves = log_n - arity_bits;
        let tree = self.time(Stage::Hashing, || {
            Tree::above(device, log_leaves, cap_height, |digests| {
                let (grid, block) = threads(1 << log_leaves);
                launch!(
                    device,
                    "hash_codeword",
                    grid,
                    block,
                    reduced.codeword.pointer(),
                    log_n,
                    arity_bits,
                    digests.pointer()
                )
            })
        })?;
        Ok(Layer { reduced, arity_bits, tree })
    }

    fn layer_cap(&mut self, layer: &Layer) -> Result<MerkleCap<F, H>, DeviceError> {
        Ok(merkle_cap(layer.tree.cap()?))
    }

    fn fold(&mut self, layer: &mut Layer, beta: Extension) -> Result<Reduced, DeviceError> {
        let Layer { reduced: Reduced { codeword, log_n, shift }, arity_bits, .. } = layer;
        let (log_n, arity_bits) = (*log_n, *arity_bits);
        let device = &self.circuit.device;
        let [a, b] = pair(beta);
        let arity = F::from_canonical_usize(1 << arity_bits);
        let root = F::primitive_root_of_unity(arity_bits as usize);
        let generator = F::primitive_root_of_unity(log_n as usize);
        let folded = self.time(Stage::Folding, || {
            let roots: Vec<u64> = crate::commitment::powers_of(root.inverse(), 1 << arity_bits).collect();
            let roots = device.upload(&roots)?;
            let folded = device.allocate(D << (log_n - arity_bits))?;
            let (grid, block) = threads(1 << (log_n - arity_bits));
            launch!(
                device,
                "fold",
                grid,
                block,
                codeword.pointer(),
                log_n,
                arity_bits,
                a,
                b,
                shift.inverse().to_canonical_u64(),
                generator.inverse().to_canonical_u64(),
                arity.inverse().to_canonical_u64(),
                roots.pointer(),
                folded.pointer()
            )?;
            Ok(folded)
        })?;
        let shift = shift.exp_power_of_2(arity_bits as usize);
        Ok(Reduced { codeword: folded, log_n: log_n - arity_bits, shift })
    }

    fn coefficients(&mut self, reduced: Reduced) -> Result<Vec<Extension>, DeviceError> {
        let values = self.time(Stage::Folding, || reduced.codeword.read())?;
        let (length, rate_bits) = (1 << reduced.log_n, self.circuit.domain.rate_bits);
        let coordinate = |values: &[u64]| {
            let values = PolynomialValues::new(values.iter().map(|value| element(*value)).collect());
            let mut coefficients = values.coset_ifft(reduced.shift).coeffs;
            coefficients.truncate(length >> rate_bits);
            coefficients
        };
        let (first, second) = values.split_at(length);
        let pairs = coordinate(first).into_iter().zip(coordinate(second));
        Ok(pairs.map(|(a, b)| QuadraticExtension([a, b])).collect())
    }

    fn work(&mut self, work: &Work) -> Result<Option<u64>, DeviceError> {
        let device = &self.circuit.device;
        let (place, bits) = (small(work.place), work.bits);
        self.time(Stage::ProofOfWork, || {
            let state = device.upload(&work.state.map(|element| element.to_canonical_u64()))?;
            let found = device.upload(&[u64::MAX])?;
            let together = candidates(bits);
            let (grid, block) = threads(together);
            for first in (0..F::ORDER - together).step_by(together as usize) {
                launch!(device, "work", grid, block, state.pointer(), place, bits, first, found.pointer())?;
                if let [number] = found.read()?[..]
                    && number != u64::MAX
                {
                    return Ok(Some(number));
                }
            }
            Ok(None)
        })
    }

    fn open(&mut self, oracle: Oracle<'_, Commitment>, leaves: &[usize]) -> Result<Leaves, DeviceError> {
        let Oracle::Proof(commitment) = oracle else {
            // The library made this tree when the circuit was built.
            let tree = &self.circuit.circuit.prover_only.constants_sigmas_commitment.merkle_tree;
            return Ok(leaves.iter().map(|leaf| (tree.get(*leaf).to_vec(), tree.prove(*leaf))).collect());
        };
        let opened = self.time(Stage::Openings, || commitment.open(leaves))?;
        let leaf = |(elements, siblings): (Vec<u64>, _)| {
            (elements.into_iter().map(element).collect(), merkle_proof(siblings))
        };
        Ok(opened.into_iter().map(leaf).collect())
    }

    fn open_layer(&mut self, layer: &Layer, leaves: &[usize]) -> Result<LayerLeaves, DeviceError> {
        let Layer { reduced: Reduced { codeword, log_n, .. }, arity_bits, tree } = layer;
        let (log_n, arity_bits) = (*log_n as usize, *arity_bits as usize);
        let log_leaves = log_n - arity_bits;
        let places = leaves.iter().flat_map(|leaf| {
            let first = reverse_bits(*leaf, log_leaves);
            (0..1 << arity_bits).flat_map(move |k| {
                let place = (reverse_bits(k, arity_bits) << log_leaves) + first;
                [place, place + (1 << log_n)]
            })
        });
        let (elements, siblings) =
            self.time(Stage::Openings, || Ok((gather(codeword, places)?, tree.siblings(leaves)?)))?;
        let evals = elements.chunks_exact(D << arity_bits).map(|leaf| {
            leaf.chunks_exact(D)
                .map(|pair| QuadraticExtension([element(pair[0]), element(pair[1])]))
                .collect()
        });
        let steps = evals.zip(siblings);
        Ok(steps
            .map(|(evals, siblings)| FriQueryStep { evals, merkle_proof: merkle_proof(siblings) })
            .collect())
    }
}
