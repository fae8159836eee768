//! Basic circuit 3: the log entries, hashed into the public-data hash.
//!
//! It reads the entries of the log that the transfer execution circuits wrote (same running digest) and hashes each with
//! its number, so that the statement's hash fixes every transfer, their order and how many there are.
//!
//! State: (log, public-data hash, transfers so far). Slots that are not active change nothing.

use super::{ChainState, ChainTarget, select_hash};
use crate::digest::{Digest, canonical, gadget};
use crate::{Builder, LedgerParams, Witness};
use plonky2::hash::hash_types::HashOutTarget;
use plonky2::iop::target::{BoolTarget, Target};
use plonky2::iop::witness::WitnessWrite;
use serde::{Deserialize, Serialize};

/// One log entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogEntry {
    pub(crate) from: Digest,
    pub(crate) to: Digest,
    pub(crate) amount: u64,
}

/// Input of one public data circuit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PublicDataInput {
    pub(crate) start: ChainState,
    pub(crate) entries: Vec<LogEntry>,
}

struct Slot {
    active: BoolTarget,
    from: HashOutTarget,
    to: HashOutTarget,
    amount: Target,
}

pub(crate) struct PublicDataTargets {
    start: ChainTarget,
    slots: Vec<Slot>,
}

pub(crate) fn allocate(builder: &mut Builder, params: &LedgerParams) -> PublicDataTargets {
    let start = ChainTarget::allocate(builder);
    let slots = (0..params.transfers_per_public_data)
        .map(|_| Slot {
            active: builder.add_virtual_bool_target_unsafe(),
            from: builder.add_virtual_hash(),
            to: builder.add_virtual_hash(),
            amount: builder.add_virtual_target(),
        })
        .collect();
    PublicDataTargets { start, slots }
}

pub(crate) fn define(builder: &mut Builder, params: &LedgerParams) {
    let targets = allocate(builder, params);
    let mut state = targets.start;
    for slot in &targets.slots {
        builder.assert_bool(slot.active);
        state.count = builder.add(state.count, slot.active.target);
        let log = gadget::push_log(builder, state.first, slot.from, slot.to, slot.amount);
        let data =
            gadget::push_public_data(builder, state.second, state.count, slot.from, slot.to, slot.amount);
        state.first = select_hash(builder, slot.active, log, state.first);
        state.second = select_hash(builder, slot.active, data, state.second);
    }
    builder.register_public_inputs(&targets.start.elements());
    builder.register_public_inputs(&state.elements());
}

pub(crate) fn assign(
    targets: &PublicDataTargets,
    input: &PublicDataInput,
    witness: &mut Witness,
) -> anyhow::Result<()> {
    anyhow::ensure!(
        input.entries.len() <= targets.slots.len(),
        "{} log entries in a circuit for {}",
        input.entries.len(),
        targets.slots.len()
    );
    targets.start.assign(witness, input.start)?;
    let idle = LogEntry { from: Digest::default(), to: Digest::default(), amount: 0 };
    for (i, slot) in targets.slots.iter().enumerate() {
        let entry = input.entries.get(i);
        witness.set_bool_target(slot.active, entry.is_some())?;
        let entry = entry.unwrap_or(&idle);
        witness.set_hash_target(slot.from, entry.from.to_hash())?;
        witness.set_hash_target(slot.to, entry.to.to_hash())?;
        witness.set_target(slot.amount, canonical(entry.amount)?)?;
    }
    Ok(())
}
