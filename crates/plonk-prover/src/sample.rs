//! A circuit of any size, with the gates that the ledger's circuits have, for benchmarks and tests.

use crate::{C, D, F, ProveError, Stages};
use plonky2::field::types::Sample as _;
use plonky2::hash::poseidon::PoseidonHash;
use plonky2::iop::generator::generate_partial_witness;
use plonky2::iop::target::Target;
use plonky2::iop::witness::{PartialWitness, PartitionWitness, WitnessWrite};
use plonky2::plonk::circuit_builder::CircuitBuilder;
use plonky2::plonk::circuit_data::{CircuitConfig, CircuitData};
use plonky2::plonk::proof::ProofWithPublicInputs;
use plonky2::plonk::prover::prove_with_partition_witness;
use plonky2::util::timing::TimingTree;

/// A circuit, and a witness of it.
#[derive(Debug)]
pub struct Sample {
    /// The circuit.
    pub circuit: CircuitData<F, C, D>,
    values: Vec<Option<F>>,
}

/// A proof of a sample.
pub type SampleProof = ProofWithPublicInputs<F, C, D>;

impl Sample {
    /// A circuit of at least so many rows (and the next power of two of them) in this configuration: hashes, decompositions, ranges,
    /// selections, arithmetic in the field and its extension, over random inputs.
    ///
    /// # Errors
    /// The library's, in words.
    pub fn new(config: CircuitConfig, rows: usize) -> Result<Self, String> {
        let mut builder = CircuitBuilder::<F, D>::new(config);
        let inputs: Vec<Target> = (0..8).map(|_| builder.add_virtual_public_input()).collect();
        let mut state = inputs.clone();
        while builder.num_gates() < rows {
            // As in the ledger, most of it is hashing.
            for _ in 0..8 {
                let hash = builder.hash_n_to_hash_no_pad::<PoseidonHash>(state.clone());
                state[..4].copy_from_slice(&hash.elements);
            }
            state[4] = builder.mul_add(state[0], state[5], state[6]);
            let product = builder.mul(state[4], state[1]);
            let bits = builder.split_le(product, 64);
            state[5] = builder.le_sum(bits[..20].iter());
            let index = builder.le_sum(bits[..2].iter());
            state[6] = builder.random_access(index, state[..4].to_vec());
            let extension = builder.convert_to_ext(state[6]);
            state[7] = builder.square_extension(extension).0[0];
            builder.range_check(state[5], 20);
        }
        builder.register_public_input(state[7]);
        let circuit = builder.build::<C>();
        let mut witness = PartialWitness::new();
        for input in inputs {
            // Each is set once, hence to nothing else.
            let _ = witness.set_target(input, F::rand());
        }
        Self::of(circuit, witness)
    }

    /// A circuit with these inputs.
    ///
    /// # Errors
    /// The library's, in words, when the inputs contradict each other.
    pub fn of(circuit: CircuitData<F, C, D>, inputs: PartialWitness<F>) -> Result<Self, String> {
        let witness = generate_partial_witness(inputs, &circuit.prover_only, &circuit.common);
        let values = witness.map_err(|e| e.to_string())?.values;
        Ok(Self { circuit, values })
    }

    /// The witness.
    #[must_use]
    pub fn witness(&self) -> PartitionWitness<'_, F> {
        PartitionWitness {
            values: self.values.clone(),
            representative_map: &self.circuit.prover_only.representative_map,
            num_wires: self.circuit.common.config.num_wires,
            degree: self.circuit.common.degree(),
        }
    }

    /// Proves it here.
    ///
    /// # Errors
    /// As [`crate::prove`].
    pub fn prove(&self, stages: &mut Stages) -> Result<SampleProof, ProveError> {
        crate::prove_timed(&self.circuit.prover_only, &self.circuit.common, &self.witness(), stages)
    }

    /// Proves it as the library does.
    ///
    /// # Errors
    /// The library's, in words.
    pub fn prove_by_library(&self) -> Result<SampleProof, String> {
        let circuit = &self.circuit;
        let mut timing = TimingTree::default();
        prove_with_partition_witness(&circuit.prover_only, &circuit.common, self.witness(), &mut timing)
            .map_err(|e| e.to_string())
    }

    /// Whether the library verifies a proof of it.
    #[must_use]
    pub fn verifies(&self, proof: SampleProof) -> bool {
        self.circuit.verify(proof).is_ok()
    }
}

/// The configuration that recursion circuits have: rate 1/8, 28 queries, 16 bits of work.
#[must_use]
pub fn standard_config() -> CircuitConfig {
    CircuitConfig::standard_recursion_config()
}
