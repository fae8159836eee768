//! Basic circuit 2: the storage queries, applied to the state tree from root to root.
//!
//! For each active slot: the account's leaf, at the path that its key gives, holds the old balance (or is empty,
//! and the old balance is 0); replacing it by the new balance gives the next root. The path is the low bits of
//! the canonical form of the key's first element, so that an account has exactly one place.
//!
//! State: (storage queue, state root, 0). Slots that are not active change nothing.

use super::{ChainState, ChainTarget, select_hash};
use crate::digest::{Digest, canonical, gadget};
use crate::{Builder, F, LedgerParams, Witness};
use plonky2::field::types::Field;
use plonky2::hash::hash_types::HashOutTarget;
use plonky2::hash::hashing::PlonkyPermutation;
use plonky2::hash::poseidon::PoseidonHash;
use plonky2::iop::target::{BoolTarget, Target};
use plonky2::iop::witness::WitnessWrite;
use plonky2::plonk::config::AlgebraicHasher;
use serde::{Deserialize, Serialize};

/// One change of one account's balance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StorageQuery {
    pub(crate) key: Digest,
    pub(crate) old: u64,
    pub(crate) new: u64,
    /// Whether the account did not exist before.
    pub(crate) is_new: bool,
    /// Digests beside the path, from the leaf up.
    pub(crate) siblings: Vec<Digest>,
}

/// Input of one storage application circuit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StorageApplicationInput {
    pub(crate) start: ChainState,
    pub(crate) queries: Vec<StorageQuery>,
}

struct Slot {
    active: BoolTarget,
    is_new: BoolTarget,
    key: HashOutTarget,
    old: Target,
    new: Target,
    siblings: Vec<HashOutTarget>,
}

pub(crate) struct StorageApplicationTargets {
    start: ChainTarget,
    slots: Vec<Slot>,
}

pub(crate) fn allocate(builder: &mut Builder, params: &LedgerParams) -> StorageApplicationTargets {
    let start = ChainTarget::allocate(builder);
    let slots = (0..2 * params.transfers_per_storage)
        .map(|_| Slot {
            active: builder.add_virtual_bool_target_unsafe(),
            is_new: builder.add_virtual_bool_target_unsafe(),
            key: builder.add_virtual_hash(),
            old: builder.add_virtual_target(),
            new: builder.add_virtual_target(),
            siblings: builder.add_virtual_hashes(params.tree_depth),
        })
        .collect();
    StorageApplicationTargets { start, slots }
}

pub(crate) fn define(builder: &mut Builder, params: &LedgerParams) {
    let targets = allocate(builder, params);
    let mut state = targets.start;
    for slot in &targets.slots {
        builder.assert_bool(slot.active);
        builder.assert_bool(slot.is_new);
        let old_if_new = builder.mul(slot.is_new.target, slot.old);
        builder.assert_zero(old_if_new);

        let path = path_bits(builder, slot.key.elements[0], params.tree_depth);
        let old_leaf = gadget::leaf(builder, slot.key, slot.old);
        let empty = gadget::empty(builder);
        let old_leaf = select_hash(builder, slot.is_new, empty, old_leaf);
        let new_leaf = gadget::leaf(builder, slot.key, slot.new);
        let old_root = climb(builder, old_leaf, &path, &slot.siblings);
        let new_root = climb(builder, new_leaf, &path, &slot.siblings);
        for i in 0..4 {
            builder.conditional_assert_eq(slot.active.target, old_root.elements[i], state.second.elements[i]);
        }

        let queue = gadget::push_query(builder, state.first, slot.key, slot.old, slot.new);
        state.first = select_hash(builder, slot.active, queue, state.first);
        state.second = select_hash(builder, slot.active, new_root, state.second);
    }
    builder.register_public_inputs(&targets.start.elements());
    builder.register_public_inputs(&state.elements());
}

/// The low `depth` bits of an element's canonical form.
///
/// 64 bits can spell a small element in two ways (x and x + p, both below 2^64), so the spelling must be shown to be
/// the canonical one: p = 2^64 − 2^32 + 1, hence high half = 2^32 − 1 implies low half = 0.
fn path_bits(builder: &mut Builder, element: Target, depth: usize) -> Vec<BoolTarget> {
    let (low, high) = builder.split_low_high(element, 32, 64);
    let mut bits = builder.split_le(low, 32);
    bits.extend(builder.split_le(high, 32));

    let all_ones = builder.constant(F::from_canonical_u64(0xffff_ffff));
    let high_is_all_ones = builder.is_equal(high, all_ones);
    let forbidden = builder.mul(high_is_all_ones.target, low);
    builder.assert_zero(forbidden);

    bits.truncate(depth);
    bits
}

/// The root over a leaf, along its path.
fn climb(
    builder: &mut Builder,
    leaf: HashOutTarget,
    path: &[BoolTarget],
    siblings: &[HashOutTarget],
) -> HashOutTarget {
    let zero = builder.zero();
    let mut current = leaf;
    for (bit, sibling) in path.iter().zip(siblings) {
        let mut state = <PoseidonHash as AlgebraicHasher<F>>::AlgebraicPermutation::default();
        state.set_from_slice(&current.elements, 0);
        state.set_from_slice(&sibling.elements, 4);
        state.set_from_iter(std::iter::repeat(zero), 8);
        let out = PoseidonHash::permute_swapped(state, *bit, builder);
        current = HashOutTarget { elements: std::array::from_fn(|i| out.squeeze()[i]) };
    }
    current
}

pub(crate) fn assign(
    targets: &StorageApplicationTargets,
    input: &StorageApplicationInput,
    witness: &mut Witness,
) -> anyhow::Result<()> {
    anyhow::ensure!(
        input.queries.len() <= targets.slots.len(),
        "{} queries in a circuit for {}",
        input.queries.len(),
        targets.slots.len()
    );
    targets.start.assign(witness, input.start)?;
    for (i, slot) in targets.slots.iter().enumerate() {
        let idle = StorageQuery {
            key: Digest::default(),
            old: 0,
            new: 0,
            is_new: false,
            siblings: vec![Digest::default(); slot.siblings.len()],
        };
        let query = input.queries.get(i);
        witness.set_bool_target(slot.active, query.is_some())?;
        let query = query.unwrap_or(&idle);
        anyhow::ensure!(
            query.siblings.len() == slot.siblings.len(),
            "a path of {} siblings in a tree of depth {}",
            query.siblings.len(),
            slot.siblings.len()
        );
        witness.set_bool_target(slot.is_new, query.is_new)?;
        witness.set_hash_target(slot.key, query.key.to_hash())?;
        witness.set_target(slot.old, canonical(query.old)?)?;
        witness.set_target(slot.new, canonical(query.new)?)?;
        for (target, digest) in slot.siblings.iter().zip(&query.siblings) {
            witness.set_hash_target(*target, digest.to_hash())?;
        }
    }
    Ok(())
}
