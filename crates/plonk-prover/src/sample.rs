//! A circuit of any size, with the gates that the ledger's circuits have, for benchmarks and tests.

use crate::{C, Circuit, D, F, Proof, ProveError, Stages, witness_of};
use plonky2::field::types::{Field, Sample as _};
use plonky2::fri::{FriConfig, FriReductionStrategy};
use plonky2::gates::arithmetic_base::ArithmeticGate;
use plonky2::gates::arithmetic_extension::ArithmeticExtensionGate;
use plonky2::gates::base_sum::BaseSumGate;
use plonky2::gates::constant::ConstantGate;
use plonky2::gates::coset_interpolation::CosetInterpolationGate;
use plonky2::gates::exponentiation::ExponentiationGate;
use plonky2::gates::multiplication_extension::MulExtensionGate;
use plonky2::gates::noop::NoopGate;
use plonky2::gates::poseidon::PoseidonGate;
use plonky2::gates::poseidon_mds::PoseidonMdsGate;
use plonky2::gates::random_access::RandomAccessGate;
use plonky2::gates::reducing::ReducingGate;
use plonky2::gates::reducing_extension::ReducingExtensionGate;
use plonky2::hash::poseidon::PoseidonHash;
use plonky2::iop::generator::generate_partial_witness;
use plonky2::iop::target::Target;
use plonky2::iop::witness::{PartialWitness, PartitionWitness, WitnessWrite};
use plonky2::plonk::circuit_builder::CircuitBuilder;
use plonky2::plonk::circuit_data::CircuitConfig;
use plonky2::plonk::prover::prove_with_partition_witness;
use plonky2::util::timing::TimingTree;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A circuit, and a witness of it.
#[derive(Debug)]
pub struct Sample {
    /// The circuit.
    pub circuit: Arc<Circuit>,
    values: Vec<Option<F>>,
    /// What its generators took for the values, on one thread.
    pub synthesis: Duration,
}

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

    /// A circuit with so many rows of every kind of gate that the ledger's circuits and those that verify proofs have, and at least so many
    /// in all; its values are random, and some at the edges of the field. They do not satisfy it, so that no constraint is zero: its proof
    /// does not verify, and is the same whoever makes it.
    #[must_use]
    pub fn of_every_gate(config: &CircuitConfig, of_each: usize, rows: usize) -> Self {
        let mut builder = CircuitBuilder::<F, D>::new(config.clone());
        let constants = F::rand_vec(2);
        let mut interpolation = CosetInterpolationGate::new(4);
        // As a circuit whose constraints are of degree 8 has it: with intermediate values.
        interpolation.degree = 6;
        for _ in 0..of_each {
            builder.add_gate(ArithmeticGate::new_from_config(config), constants.clone());
            builder.add_gate(ArithmeticExtensionGate::<D>::new_from_config(config), constants.clone());
            builder.add_gate(MulExtensionGate::<D>::new_from_config(config), constants[..1].to_vec());
            builder.add_gate(BaseSumGate::<2>::new(63), vec![]);
            builder.add_gate(BaseSumGate::<4>::new(10), vec![]);
            builder.add_gate(ConstantGate::new(2), constants.clone());
            builder.add_gate(ExponentiationGate::<F, D>::new_from_config(config), vec![]);
            builder.add_gate(RandomAccessGate::<F, D>::new_from_config(config, 4), constants.clone());
            builder.add_gate(ReducingGate::<D>::new(20), vec![]);
            builder.add_gate(ReducingExtensionGate::<D>::new(12), vec![]);
            builder.add_gate(interpolation.clone(), vec![]);
            builder.add_gate(PoseidonGate::<F, D>::new(), vec![]);
            builder.add_gate(PoseidonMdsGate::<F, D>::new(), vec![]);
        }
        let inputs = builder.add_virtual_targets(3);
        builder.register_public_inputs(&inputs);
        while builder.num_gates() < rows {
            builder.add_gate(NoopGate, vec![]);
        }
        let circuit = builder.build::<C>();
        let edges = [F::ZERO, F::ONE, F::NEG_ONE, F::from_noncanonical_u64(u64::MAX)];
        let value = |i: usize| if i.is_multiple_of(5) { edges[i / 5 % edges.len()] } else { F::rand() };
        let values = (0..circuit.prover_only.representative_map.len()).map(|i| Some(value(i))).collect();
        Self { circuit: Arc::new(circuit), values, synthesis: Duration::ZERO }
    }

    /// A circuit that verifies a proof of another, in this configuration.
    ///
    /// # Errors
    /// Why there is no such proof; the library's, in words.
    pub fn of_verifying(inner: &Self, config: CircuitConfig) -> Result<Self, String> {
        let proof = inner.prove(&mut Stages::default()).map_err(|e| e.to_string())?;
        let mut builder = CircuitBuilder::<F, D>::new(config);
        let target = builder.add_virtual_proof_with_pis(&inner.circuit.common);
        let key = builder.constant_verifier_data::<C>(&inner.circuit.verifier_only);
        builder.verify_proof::<C>(&target, &key, &inner.circuit.common);
        builder.register_public_inputs(&target.public_inputs);
        let mut inputs = PartialWitness::new();
        inputs.set_proof_with_pis_target(&target, &proof).map_err(|e| e.to_string())?;
        Self::of(builder.build::<C>(), inputs)
    }

    /// A circuit with these inputs.
    ///
    /// # Errors
    /// The library's, in words, when the inputs contradict each other.
    pub fn of(circuit: Circuit, inputs: PartialWitness<F>) -> Result<Self, String> {
        let begun = Instant::now();
        let witness = generate_partial_witness(inputs, &circuit.prover_only, &circuit.common);
        let values = witness.map_err(|e| e.to_string())?.values;
        Ok(Self { circuit: Arc::new(circuit), values, synthesis: begun.elapsed() })
    }

    /// The witness's values.
    #[must_use]
    pub fn values(&self) -> Vec<Option<F>> {
        self.values.clone()
    }

    /// The witness.
    #[must_use]
    pub fn witness(&self) -> PartitionWitness<'_, F> {
        witness_of(&self.circuit, self.values.clone())
    }

    /// Proves it here.
    ///
    /// # Errors
    /// As [`crate::prove`].
    pub fn prove(&self, stages: &mut Stages) -> Result<Proof, ProveError> {
        crate::prove_timed(&self.circuit.prover_only, &self.circuit.common, &self.witness(), stages)
    }

    /// Proves it as the library does.
    ///
    /// # Errors
    /// The library's, in words.
    pub fn prove_by_library(&self) -> Result<Proof, String> {
        let circuit = &self.circuit;
        let mut timing = TimingTree::default();
        prove_with_partition_witness(&circuit.prover_only, &circuit.common, self.witness(), &mut timing)
            .map_err(|e| e.to_string())
    }

    /// Whether the library verifies a proof of it.
    #[must_use]
    pub fn verifies(&self, proof: Proof) -> bool {
        self.circuit.verify(proof).is_ok()
    }
}

/// The configuration that recursion circuits have: rate 1/8, 28 queries, three challenges, 16 bits of work.
#[must_use]
pub fn standard_config() -> CircuitConfig {
    CircuitConfig { num_challenges: 3, ..CircuitConfig::standard_recursion_config() }
}

/// Other configurations: the first and the second are the two wraps' of the ledger.
#[must_use]
pub fn other_configs() -> Vec<CircuitConfig> {
    let config = |num_routed_wires, rate_bits: usize, cap_height, reduction_strategy| CircuitConfig {
        num_routed_wires,
        fri_config: FriConfig {
            rate_bits,
            cap_height,
            reduction_strategy,
            num_query_rounds: 93_usize.div_ceil(rate_bits),
            proof_of_work_bits: 7,
        },
        ..standard_config()
    };
    vec![
        config(80, 6, 4, FriReductionStrategy::ConstantArityBits(4, 5)),
        config(37, 8, 0, FriReductionStrategy::MinSize(None)),
        config(80, 4, 2, FriReductionStrategy::Fixed(vec![1, 2, 3])),
        config(80, 3, 0, FriReductionStrategy::Fixed(vec![])),
    ]
}
