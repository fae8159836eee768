//! Leaf, node, recursion tip and scheduler: the circuits that verify proofs.
//!
//! Leaves and nodes have public inputs of one shape,
//!
//! ```text
//! kind (1) | chain start (9) | chain end (9) | node verification key (68)
//! ```
//!
//! and one common shape ([`CommonData`]: degree, gates), so that one node circuit can verify leaves of every kind and
//! nodes, itself included. Verification keys are pinned all the way:
//!
//! - a leaf verifies basic proofs under a key that is a constant of the leaf;
//! - a node verifies each child under its kind's leaf key (a constant) or under the node key that its own public inputs
//!   carry, and demands that every child carries the same;
//! - the tip verifies each kind's proof under that kind's leaf key or the node key, both constants, and demands that
//!   the carried node key is that constant. By induction every node below was made by the one node circuit;
//! - the scheduler's tip key is a constant, and so are the keys in the wraps.
//!
//! A slot without a proof of its own repeats another slot's proof and is switched off: it is verified all the same and
//! counts for nothing.

use super::{ChainState, ChainTarget, STATE_LEN};
use crate::params::Kind;
use crate::{Builder, C, CommonData, D, F, Proof, VerifierKey, Witness};
use plonky2::field::types::{Field, PrimeField64};
use plonky2::gates::noop::NoopGate;
use plonky2::hash::hash_types::HashOutTarget;
use plonky2::iop::target::{BoolTarget, Target};
use plonky2::iop::witness::WitnessWrite;
use plonky2::plonk::circuit_data::VerifierCircuitTarget;
use plonky2::plonk::proof::ProofWithPublicInputsTarget;
use proving_model::BatchId;

/// Public inputs of a leaf or node before the verification key.
pub(crate) const AGGREGATE_LEN: usize = 1 + 2 * STATE_LEN;

/// Public inputs of the scheduler and the wraps: chain id and batch number, each as its two halves ([`limbs`]), root before,
/// root after, number of transfers, public-data hash.
pub(crate) const STATEMENT_LEN: usize = 2 + 2 + 4 + 4 + 1 + 4;

/// A 64-bit id as two field elements, low half first. An id as one element would be taken modulo the field's order; the
/// halves need no range check, being public.
pub(crate) fn limbs(id: u64) -> [F; 2] {
    [F::from_canonical_u64(id & 0xffff_ffff), F::from_canonical_u64(id >> 32)]
}

/// One place for a proof in a leaf or node.
struct Slot {
    active: BoolTarget,
    /// Nodes only: whether the proof is a node's rather than a leaf's.
    is_node: BoolTarget,
    proof: ProofWithPublicInputsTarget<D>,
}

fn allocate_slots(builder: &mut Builder, inner: &CommonData, fan_in: usize) -> Vec<Slot> {
    (0..fan_in)
        .map(|_| Slot {
            active: builder.add_virtual_bool_target_unsafe(),
            is_node: builder.add_virtual_bool_target_unsafe(),
            proof: builder.add_virtual_proof_with_pis(inner),
        })
        .collect()
}

/// Targets of a leaf.
pub(crate) struct LeafTargets {
    slots: Vec<Slot>,
    node_key: VerifierCircuitTarget,
}

/// Targets of a node.
pub(crate) struct NodeTargets {
    slots: Vec<Slot>,
    kind: Target,
    node_key: VerifierCircuitTarget,
}

pub(crate) fn allocate_leaf(builder: &mut Builder, basic: &CommonData, fan_in: usize) -> LeafTargets {
    let slots = allocate_slots(builder, basic, fan_in);
    LeafTargets { slots, node_key: allocate_key(builder) }
}

pub(crate) fn allocate_node(builder: &mut Builder, common: &CommonData, fan_in: usize) -> NodeTargets {
    let slots = allocate_slots(builder, common, fan_in);
    NodeTargets { slots, kind: builder.add_virtual_target(), node_key: allocate_key(builder) }
}

fn allocate_key(builder: &mut Builder) -> VerifierCircuitTarget {
    let cap_height = builder.config.fri_config.cap_height;
    builder.add_virtual_verifier_data(cap_height)
}

/// The elements of a key, in the order of the public inputs.
fn key_elements(key: &VerifierCircuitTarget) -> Vec<Target> {
    let cap = key.constants_sigmas_cap.0.iter().flat_map(|hash| hash.elements);
    key.circuit_digest.elements.into_iter().chain(cap).collect()
}

/// A key from its elements; the inverse of [`key_elements`].
fn key_from_elements(elements: &[Target]) -> VerifierCircuitTarget {
    let mut hashes =
        elements.chunks_exact(4).map(|chunk| HashOutTarget { elements: std::array::from_fn(|i| chunk[i]) });
    // The first hash is the circuit's digest; a key without one is never allocated.
    let circuit_digest = hashes.next().unwrap_or(HashOutTarget { elements: [elements[0]; 4] });
    VerifierCircuitTarget {
        circuit_digest,
        constants_sigmas_cap: plonky2::hash::hash_types::MerkleCapTarget(hashes.collect()),
    }
}

/// The elements of a key as constants.
pub(crate) fn key_constants(key: &VerifierKey) -> Vec<F> {
    let cap = key.constants_sigmas_cap.0.iter().flat_map(|hash| hash.elements);
    key.circuit_digest.elements.into_iter().chain(cap).collect()
}

fn chain_targets(elements: &[Target]) -> ChainTarget {
    let hash = |at: usize| HashOutTarget { elements: std::array::from_fn(|i| elements[at + i]) };
    ChainTarget { first: hash(0), second: hash(4), count: elements[8] }
}

/// Joins the slots' chains: each active slot starts where the one before it ended.
fn join_chains(builder: &mut Builder, slots: &[Slot], at: usize) -> (Vec<Target>, Vec<Target>) {
    let first = &slots[0].proof.public_inputs;
    let start = first[at..at + STATE_LEN].to_vec();
    let mut end = first[at + STATE_LEN..at + 2 * STATE_LEN].to_vec();
    builder.assert_one(slots[0].active.target);
    for slot in &slots[1..] {
        builder.assert_bool(slot.active);
        let inputs = &slot.proof.public_inputs;
        for i in 0..STATE_LEN {
            builder.conditional_assert_eq(slot.active.target, inputs[at + i], end[i]);
            end[i] = builder.select(slot.active, inputs[at + STATE_LEN + i], end[i]);
        }
    }
    (start, end)
}

/// Gives the circuit the common shape: all its gates, and at least half its rows.
fn pad_to(builder: &mut Builder, shape: Option<&CommonData>) {
    if let Some(shape) = shape {
        for gate in &shape.gates {
            builder.add_gate_to_gate_set(gate.clone());
        }
        // The builder rounds up to a power of two by itself; it must only be pushed over the half.
        while builder.num_gates() < shape.degree() / 2 + 1 {
            builder.add_gate(NoopGate, vec![]);
        }
    }
}

/// A leaf: verifies up to `fan_in` basic proofs of one kind, and that they chain.
pub(crate) fn define_leaf(
    builder: &mut Builder,
    kind: Kind,
    basic: &CommonData,
    basic_key: &VerifierKey,
    fan_in: usize,
    shape: Option<&CommonData>,
) {
    let targets = allocate_leaf(builder, basic, fan_in);
    let key = builder.constant_verifier_data::<C>(basic_key);
    for slot in &targets.slots {
        builder.assert_zero(slot.is_node.target);
        builder.verify_proof::<C>(&slot.proof, &key, basic);
    }
    let (start, end) = join_chains(builder, &targets.slots, 0);
    let kind = builder.constant(kind.element());
    builder.register_public_input(kind);
    builder.register_public_inputs(&start);
    builder.register_public_inputs(&end);
    builder.register_public_inputs(&key_elements(&targets.node_key));
    pad_to(builder, shape);
}

/// A node: verifies up to `fan_in` leaves or nodes of one kind, and that they chain.
pub(crate) fn define_node(
    builder: &mut Builder,
    common: &CommonData,
    leaf_keys: &[VerifierKey; 3],
    fan_in: usize,
) {
    let targets = allocate_node(builder, common, fan_in);
    let own_key = key_elements(&targets.node_key);
    let leaf_key = select_leaf_key(builder, targets.kind, leaf_keys);
    for slot in &targets.slots {
        builder.assert_bool(slot.is_node);
        let key: Vec<Target> = own_key
            .iter()
            .zip(&leaf_key)
            .map(|(own, leaf)| builder.select(slot.is_node, *own, *leaf))
            .collect();
        builder.verify_proof::<C>(&slot.proof, &key_from_elements(&key), common);
        builder.connect(slot.proof.public_inputs[0], targets.kind);
        for (carried, own) in slot.proof.public_inputs[AGGREGATE_LEN..].iter().zip(&own_key) {
            builder.connect(*carried, *own);
        }
    }
    let (start, end) = join_chains(builder, &targets.slots, 1);
    builder.register_public_input(targets.kind);
    builder.register_public_inputs(&start);
    builder.register_public_inputs(&end);
    builder.register_public_inputs(&own_key);
    pad_to(builder, Some(common));
}

/// The leaf key of a kind, out of three constants; also shows that the kind is one of the three.
fn select_leaf_key(builder: &mut Builder, kind: Target, leaf_keys: &[VerifierKey; 3]) -> Vec<Target> {
    let switches: Vec<BoolTarget> = Kind::ALL
        .iter()
        .map(|known| {
            let known = builder.constant(known.element());
            builder.is_equal(kind, known)
        })
        .collect();
    let any = builder.add_many(switches.iter().map(|switch| switch.target));
    builder.assert_one(any);
    let constants: Vec<Vec<F>> = leaf_keys.iter().map(key_constants).collect();
    (0..constants[0].len())
        .map(|i| {
            let mut sum = builder.zero();
            for (switch, key) in switches.iter().zip(&constants) {
                sum = builder.mul_const_add(key[i], switch.target, sum);
            }
            sum
        })
        .collect()
}

/// Targets of the recursion tip: one slot a kind; `active` is not used.
pub(crate) struct TipTargets {
    slots: Vec<Slot>,
}

pub(crate) fn allocate_tip(builder: &mut Builder, common: &CommonData) -> TipTargets {
    TipTargets { slots: allocate_slots(builder, common, Kind::ALL.len()) }
}

/// The recursion tip: verifies one proof a kind, a leaf's or a node's.
pub(crate) fn define_tip(
    builder: &mut Builder,
    common: &CommonData,
    leaf_keys: &[VerifierKey; 3],
    node_key: &VerifierKey,
) {
    let targets = allocate_tip(builder, common);
    let node_constants = key_constants(node_key);
    for ((slot, kind), leaf_key) in targets.slots.iter().zip(Kind::ALL).zip(leaf_keys) {
        builder.assert_one(slot.active.target);
        builder.assert_bool(slot.is_node);
        let key: Vec<Target> = node_constants
            .iter()
            .zip(key_constants(leaf_key))
            .map(|(node, leaf)| {
                let (node, leaf) = (builder.constant(*node), builder.constant(leaf));
                builder.select(slot.is_node, node, leaf)
            })
            .collect();
        builder.verify_proof::<C>(&slot.proof, &key_from_elements(&key), common);
        let kind = builder.constant(kind.element());
        builder.connect(slot.proof.public_inputs[0], kind);
        for (carried, constant) in slot.proof.public_inputs[AGGREGATE_LEN..].iter().zip(&node_constants) {
            let constant = builder.constant(*constant);
            builder.connect(*carried, constant);
        }
    }
    for slot in &targets.slots {
        builder.register_public_inputs(&slot.proof.public_inputs[1..AGGREGATE_LEN]);
    }
}

/// Targets of the scheduler.
pub(crate) struct SchedulerTargets {
    tip: ProofWithPublicInputsTarget<D>,
    chain_id: [Target; 2],
    batch_number: [Target; 2],
}

pub(crate) fn allocate_scheduler(builder: &mut Builder, tip: &CommonData) -> SchedulerTargets {
    SchedulerTargets {
        tip: builder.add_virtual_proof_with_pis(tip),
        chain_id: builder.add_virtual_target_arr(),
        batch_number: builder.add_virtual_target_arr(),
    }
}

/// The scheduler: all chains start empty, both sides of each queue agree, and the statement comes out.
pub(crate) fn define_scheduler(builder: &mut Builder, tip: &CommonData, tip_key: &VerifierKey) {
    let targets = allocate_scheduler(builder, tip);
    let key = builder.constant_verifier_data::<C>(tip_key);
    builder.verify_proof::<C>(&targets.tip, &key, tip);
    let state = |i: usize| chain_targets(&targets.tip.public_inputs[i * STATE_LEN..(i + 1) * STATE_LEN]);
    let (execution_start, execution_end) = (state(0), state(1));
    let (storage_start, storage_end) = (state(2), state(3));
    let (data_start, data_end) = (state(4), state(5));

    for empty in [
        execution_start.first,
        execution_start.second,
        storage_start.first,
        data_start.first,
        data_start.second,
    ] {
        for element in empty.elements {
            builder.assert_zero(element);
        }
    }
    for count in [execution_start.count, storage_start.count, storage_end.count, data_start.count] {
        builder.assert_zero(count);
    }
    // The storage circuits consumed the very queries that the execution circuits emitted; likewise the log.
    builder.connect_hashes(execution_end.first, storage_end.first);
    builder.connect_hashes(execution_end.second, data_end.first);
    builder.connect(execution_end.count, data_end.count);

    builder.register_public_inputs(&targets.chain_id);
    builder.register_public_inputs(&targets.batch_number);
    builder.register_public_inputs(&storage_start.second.elements);
    builder.register_public_inputs(&storage_end.second.elements);
    builder.register_public_input(execution_end.count);
    builder.register_public_inputs(&data_end.second.elements);
}

/// Puts proofs into slots; empty slots repeat the first proof, switched off.
fn assign_slots(witness: &mut Witness, slots: &[Slot], proofs: &[(bool, Proof)]) -> anyhow::Result<()> {
    anyhow::ensure!(
        !proofs.is_empty() && proofs.len() <= slots.len(),
        "{} proofs for {} slots",
        proofs.len(),
        slots.len()
    );
    for (i, slot) in slots.iter().enumerate() {
        let (is_node, proof) = proofs.get(i).unwrap_or(&proofs[0]);
        witness.set_bool_target(slot.active, i < proofs.len())?;
        witness.set_bool_target(slot.is_node, *is_node)?;
        witness.set_proof_with_pis_target(&slot.proof, proof)?;
    }
    Ok(())
}

fn assign_key(witness: &mut Witness, target: &VerifierCircuitTarget, key: &[F]) -> anyhow::Result<()> {
    witness.set_target_arr(&key_elements(target), key)
}

/// Assigns a leaf. `node_key` is the key that the leaf carries upwards.
pub(crate) fn assign_leaf(
    targets: &LeafTargets,
    proofs: &[Proof],
    node_key: &[F],
    witness: &mut Witness,
) -> anyhow::Result<()> {
    let proofs: Vec<(bool, Proof)> = proofs.iter().map(|proof| (false, proof.clone())).collect();
    assign_slots(witness, &targets.slots, &proofs)?;
    assign_key(witness, &targets.node_key, node_key)
}

/// Assigns a node over children, each with whether it is a node.
pub(crate) fn assign_node(
    targets: &NodeTargets,
    children: &[(bool, Proof)],
    node_key: &[F],
    witness: &mut Witness,
) -> anyhow::Result<()> {
    assign_slots(witness, &targets.slots, children)?;
    witness.set_target(targets.kind, children[0].1.public_inputs[0])?;
    assign_key(witness, &targets.node_key, node_key)
}

/// Assigns the tip: one proof a kind, in the order of [`Kind::ALL`].
pub(crate) fn assign_tip(
    targets: &TipTargets,
    children: &[(bool, Proof)],
    witness: &mut Witness,
) -> anyhow::Result<()> {
    anyhow::ensure!(children.len() == targets.slots.len(), "the tip takes one proof a kind");
    assign_slots(witness, &targets.slots, children)
}

/// Assigns the scheduler.
pub(crate) fn assign_scheduler(
    targets: &SchedulerTargets,
    tip: &Proof,
    batch: BatchId,
    witness: &mut Witness,
) -> anyhow::Result<()> {
    witness.set_proof_with_pis_target(&targets.tip, tip)?;
    witness.set_target_arr(&targets.chain_id, &limbs(batch.chain_id.into()))?;
    witness.set_target_arr(&targets.batch_number, &limbs(batch.number.into()))
}

/// What a leaf's or node's public inputs say, read natively.
pub(crate) fn read_aggregate(public_inputs: &[F]) -> Option<(Kind, ChainState, ChainState)> {
    let kind = Kind::from_number(public_inputs.first()?.to_canonical_u64())?;
    let start = ChainState::from_elements(public_inputs.get(1..1 + STATE_LEN)?);
    let end = ChainState::from_elements(public_inputs.get(1 + STATE_LEN..AGGREGATE_LEN)?);
    Some((kind, start, end))
}
