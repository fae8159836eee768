//! Basic circuit 1: the semantics of transfers.
//!
//! For each active slot: the amount is 1 to 2^62; both old balances and both new ones are below 2^63; what the
//! sender loses the receiver gains. Emits the two storage queries and the log entry of the transfer. It believes the
//! old balances that it is given: the storage application circuit, which consumes the same queue, does not.
//!
//! State: (storage queue, log, transfers so far). Slots that are not active change nothing.

use super::{AMOUNT_BITS, BALANCE_BITS, ChainState, ChainTarget, select_hash};
use crate::digest::{Digest, canonical, gadget};
use crate::{Builder, LedgerParams, Witness};
use plonky2::hash::hash_types::HashOutTarget;
use plonky2::iop::target::{BoolTarget, Target};
use plonky2::iop::witness::WitnessWrite;
use serde::{Deserialize, Serialize};

/// One transfer with the balances before it. For a receiver without an account the balance is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Transfer {
    pub(crate) from: Digest,
    pub(crate) to: Digest,
    pub(crate) amount: u64,
    pub(crate) from_balance: u64,
    pub(crate) to_balance: u64,
}

/// Input of one transfer execution circuit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TransferExecutionInput {
    pub(crate) start: ChainState,
    pub(crate) transfers: Vec<Transfer>,
}

struct Slot {
    active: BoolTarget,
    from: HashOutTarget,
    to: HashOutTarget,
    amount: Target,
    from_balance: Target,
    to_balance: Target,
}

pub(crate) struct TransferExecutionTargets {
    start: ChainTarget,
    slots: Vec<Slot>,
}

pub(crate) fn allocate(builder: &mut Builder, params: &LedgerParams) -> TransferExecutionTargets {
    let start = ChainTarget::allocate(builder);
    let slots = (0..params.transfers_per_execution)
        .map(|_| Slot {
            active: builder.add_virtual_bool_target_unsafe(),
            from: builder.add_virtual_hash(),
            to: builder.add_virtual_hash(),
            amount: builder.add_virtual_target(),
            from_balance: builder.add_virtual_target(),
            to_balance: builder.add_virtual_target(),
        })
        .collect();
    TransferExecutionTargets { start, slots }
}

pub(crate) fn define(builder: &mut Builder, params: &LedgerParams) {
    let targets = allocate(builder, params);
    let mut state = targets.start;
    for slot in &targets.slots {
        builder.assert_bool(slot.active);
        // An inactive slot's amount counts as 1, so that the range check below holds for it too.
        let one = builder.one();
        let amount = builder.select(slot.active, slot.amount, one);
        let amount_less_one = builder.sub(amount, one);
        builder.range_check(amount_less_one, AMOUNT_BITS);

        // No wrap-around: a negative result is above 2^63 in the field, and so is a sum that is too large. The old
        // balances are checked too: a state root may hold anything.
        let from_new = builder.sub(slot.from_balance, amount);
        let to_new = builder.add(slot.to_balance, amount);
        for balance in [slot.from_balance, from_new, slot.to_balance, to_new] {
            let checked = builder.mul(slot.active.target, balance);
            builder.range_check(checked, BALANCE_BITS);
        }

        let queue = gadget::push_query(builder, state.first, slot.from, slot.from_balance, from_new);
        let queue = gadget::push_query(builder, queue, slot.to, slot.to_balance, to_new);
        let log = gadget::push_log(builder, state.second, slot.from, slot.to, amount);
        state.first = select_hash(builder, slot.active, queue, state.first);
        state.second = select_hash(builder, slot.active, log, state.second);
        state.count = builder.add(state.count, slot.active.target);
    }
    builder.register_public_inputs(&targets.start.elements());
    builder.register_public_inputs(&state.elements());
}

pub(crate) fn assign(
    targets: &TransferExecutionTargets,
    input: &TransferExecutionInput,
    witness: &mut Witness,
) -> anyhow::Result<()> {
    anyhow::ensure!(
        input.transfers.len() <= targets.slots.len(),
        "{} transfers in a circuit for {}",
        input.transfers.len(),
        targets.slots.len()
    );
    targets.start.assign(witness, input.start)?;
    for (i, slot) in targets.slots.iter().enumerate() {
        let transfer = input.transfers.get(i);
        witness.set_bool_target(slot.active, transfer.is_some())?;
        let zero = Transfer {
            from: Digest::default(),
            to: Digest::default(),
            amount: 1,
            from_balance: 0,
            to_balance: 0,
        };
        let transfer = transfer.unwrap_or(&zero);
        witness.set_hash_target(slot.from, transfer.from.to_hash())?;
        witness.set_hash_target(slot.to, transfer.to.to_hash())?;
        for (target, value) in [
            (slot.amount, transfer.amount),
            (slot.from_balance, transfer.from_balance),
            (slot.to_balance, transfer.to_balance),
        ] {
            witness.set_target(target, canonical(value)?)?;
        }
    }
    Ok(())
}
