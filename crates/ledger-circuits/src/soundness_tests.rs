//! Forged witnesses of the basic circuits: each must fail, and the honest one must pass.
//!
//! A witness is forged where its circuit is weakest: in the values that the native code would never produce. Circuits
//! of small sizes have the same constraints a slot as the shipped ones.

use crate::circuits::public_data::{self, LogEntry, PublicDataInput};
use crate::circuits::storage_application::{self, StorageApplicationInput, StorageQuery};
use crate::circuits::transfer_execution::{self, Transfer, TransferExecutionInput};
use crate::circuits::{ChainState, STATE_LEN, configs};
use crate::decode::refusing_panics;
use crate::digest::{Digest, account_key};
use crate::execution::{BasicInput, Execution};
use crate::{Builder, C, Circuit, F, Kind, LedgerParams, Witness};
use plonky2::field::types::Field64;
use plonky2::fri::FriConfig;
use plonky2::plonk::circuit_data::CircuitConfig;
use proof_system::ProofSystem;

#[path = "wire_tests.rs"]
mod wires;

const PARAMS: LedgerParams = LedgerParams {
    tree_depth: 8,
    transfers_per_execution: 2,
    transfers_per_storage: 2,
    transfers_per_public_data: 2,
    leaf_fan_in: 2,
    node_fan_in: 2,
};

/// Gates and constraints are those of the shipped circuits. Fewer queries and no grinding make thousands of proofs a matter of seconds:
/// they guard against proofs of false openings, and every proof here is of honest openings of a false witness.
fn builder() -> Builder {
    let config = configs::recursion_config();
    let fri_config = FriConfig { num_query_rounds: 2, proof_of_work_bits: 0, ..config.fri_config };
    Builder::new(CircuitConfig { security_bits: 0, fri_config, ..config })
}

fn build(define: impl Fn(&mut Builder, &LedgerParams)) -> Circuit {
    let mut builder = builder();
    define(&mut builder, &PARAMS);
    builder.build::<C>()
}

/// Proves and verifies; `None` when any step refuses.
fn prove(circuit: &Circuit, witness: Witness) -> Option<Vec<F>> {
    refusing_panics("forged", || {
        let proof = circuit.prove(witness)?;
        circuit.verify(proof.clone())?;
        Ok(proof.public_inputs)
    })
    .ok()
}

fn execute(circuit: &Circuit, input: &TransferExecutionInput) -> Option<Vec<F>> {
    let mut witness = Witness::new();
    let targets = transfer_execution::allocate(&mut builder(), &PARAMS);
    transfer_execution::assign(&targets, input, &mut witness).ok()?;
    prove(circuit, witness)
}

fn apply(circuit: &Circuit, input: &StorageApplicationInput) -> Option<Vec<F>> {
    let mut witness = Witness::new();
    let targets = storage_application::allocate(&mut builder(), &PARAMS);
    storage_application::assign(&targets, input, &mut witness).ok()?;
    prove(circuit, witness)
}

/// The honest circuits of two transfers; the second opens an account.
fn honest() -> (TransferExecutionInput, StorageApplicationInput, PublicDataInput, Execution) {
    let accounts = [("ada".to_owned(), 100), ("bob".to_owned(), 5)];
    let mut execution = Execution::new(PARAMS, &accounts).unwrap();
    let mut circuits = execution.apply("ada", "bob", 60).unwrap();
    circuits.extend(execution.apply("bob", "cyd", 65).unwrap());
    let mut circuits = circuits.into_iter();
    let (
        Some(BasicInput::TransferExecution(e)),
        Some(BasicInput::StorageApplication(s)),
        Some(BasicInput::PublicData(p)),
    ) = (circuits.next(), circuits.next(), circuits.next())
    else {
        panic!("one circuit of each kind");
    };
    (e, s, p, execution)
}

#[test]
fn the_circuits_agree_with_the_native_ledger() {
    let (execution, storage, data, ledger) = honest();
    let batch = proving_model::BatchId { chain_id: 0, number: 0 };
    let statement = ledger.statement(batch).unwrap();
    let end = |public_inputs: Vec<F>| ChainState::from_elements(&public_inputs[STATE_LEN..]);
    let executed = end(execute(&build(transfer_execution::define), &execution).unwrap());
    let applied = end(apply(&build(storage_application::define), &storage).unwrap());
    let mut witness = Witness::new();
    public_data::assign(&public_data::allocate(&mut builder(), &PARAMS), &data, &mut witness).unwrap();
    let hashed = end(prove(&build(public_data::define), witness).unwrap());

    assert_eq!(applied.second, statement.root_after);
    assert_eq!(hashed.second, statement.public_data_hash);
    assert_eq!((executed.count, hashed.count, applied.count), (2, 2, 0));
    assert_eq!(executed.first, applied.first, "one queue");
    assert_eq!(executed.second, hashed.first, "one log");
}

#[test]
fn a_forged_transfer_is_refused() {
    let circuit = build(transfer_execution::define);
    let (honest, ..) = honest();
    let with = |change: &dyn Fn(&mut Transfer)| {
        let mut input = honest.clone();
        change(&mut input.transfers[0]);
        execute(&circuit, &input)
    };
    assert!(with(&|_| ()).is_some());
    assert!(with(&|t| t.amount = 0).is_none(), "zero");
    assert!(with(&|t| (t.amount, t.from_balance) = ((1 << 62) + 1, 1 << 62)).is_none(), "amount too large");
    assert!(with(&|t| t.amount = F::ORDER - 1).is_none(), "a negative amount");
    assert!(with(&|t| t.amount = 101).is_none(), "overdraft");
    assert!(with(&|t| t.to_balance = (1 << 63) - 1).is_none(), "the receiver overflows");
    assert!(with(&|t| t.to_balance = F::ORDER - 60).is_none(), "the receiver wraps around");
    assert!(with(&|t| t.to_balance = 1 << 63).is_none(), "a balance out of range");
}

/// Each operand at the ends of what a field element can be, with the others chosen so that every other rule holds.
#[test]
fn every_operand_of_a_transfer_is_in_its_range() {
    let circuit = build(transfer_execution::define);
    let (honest, ..) = honest();
    let proves = |amount: u64, from_balance: u64, to_balance: u64| {
        let mut input = honest.clone();
        let transfer = &mut input.transfers[0];
        (transfer.amount, transfer.from_balance, transfer.to_balance) = (amount, from_balance, to_balance);
        execute(&circuit, &input).is_some()
    };
    let (end, largest) = (1_u64 << 63, 1_u64 << 62);
    for (amount, from_balance, to_balance) in
        [(1, end - 1, 0), (largest, largest, 0), (largest, end - 1, largest - 1), (1, 1, end - 2)]
    {
        assert!(proves(amount, from_balance, to_balance), "{amount}, {from_balance}, {to_balance}");
    }
    for (amount, from_balance, to_balance, what) in [
        (60, end, 0, "a sender above the range who sends himself into it"),
        (60, end + 10, 0, "a sender further above"),
        (largest, end + largest - 1, 0, "the most that one transfer brings into the range"),
        (1, F::ORDER - 1, 0, "a sender with the largest element"),
        (largest, F::ORDER - 1, 0, "who sends the most"),
        (largest + 1, end - 1, 0, "one more than the largest amount"),
        (end, end, 0, "an amount of 2^63"),
        (F::ORDER - 1, 5, 5, "a negative amount"),
        (0, 5, 5, "no amount"),
        (1, 0, 0, "overdrawn by one"),
        (1, 5, end - 1, "a receiver at the end"),
        (1, 5, end, "a receiver above the range"),
        (60, 100, F::ORDER - 60, "a receiver who wraps around to zero"),
        (1, 5, F::ORDER - 1, "a receiver with the largest element"),
    ] {
        assert!(!proves(amount, from_balance, to_balance), "{what} is proven");
    }
}

/// A number of a payload stands for one element: that plus the field's order is refused, and not reduced.
#[test]
fn a_payloads_numbers_are_not_taken_modulo_the_order() {
    let circuits = (build(transfer_execution::define), build(storage_application::define));
    let (execution, storage, data, _) = honest();
    let more = |number: &mut u64| *number += F::ORDER;
    for change in [
        &|e: &mut TransferExecutionInput| more(&mut e.transfers[0].amount) as (),
        &|e: &mut TransferExecutionInput| more(&mut e.transfers[0].from_balance),
        &|e: &mut TransferExecutionInput| more(&mut e.transfers[0].to_balance),
        &|e: &mut TransferExecutionInput| more(&mut e.start.count),
    ] as [&dyn Fn(&mut TransferExecutionInput); 4]
    {
        let mut input = execution.clone();
        change(&mut input);
        assert!(execute(&circuits.0, &input).is_none());
    }
    for change in [
        &|s: &mut StorageApplicationInput| more(&mut s.queries[0].old) as (),
        &|s: &mut StorageApplicationInput| more(&mut s.queries[0].new),
        &|s: &mut StorageApplicationInput| more(&mut s.start.count),
    ] as [&dyn Fn(&mut StorageApplicationInput); 3]
    {
        let mut input = storage.clone();
        change(&mut input);
        assert!(apply(&circuits.1, &input).is_none());
    }
    let mut data = data;
    more(&mut data.entries[0].amount);
    let targets = public_data::allocate(&mut builder(), &PARAMS);
    assert!(public_data::assign(&targets, &data, &mut Witness::new()).is_err());
}

#[test]
fn a_forged_storage_query_is_refused() {
    let circuit = build(storage_application::define);
    let (_, honest, ..) = honest();
    let last = honest.queries.len() - 1;
    let with = |i: usize, change: &dyn Fn(&mut StorageQuery)| {
        let mut input = honest.clone();
        change(&mut input.queries[i]);
        apply(&circuit, &input)
    };
    assert!(with(0, &|_| ()).is_some());
    assert!(with(0, &|q| q.old += 1).is_none(), "another old balance");
    assert!(with(0, &|q| q.key = account_key("bob")).is_none(), "another account");
    assert!(with(0, &|q| q.siblings[3] = Digest::new([1; 4]).unwrap()).is_none(), "another sibling");
    assert!(with(0, &|q| (q.is_new, q.old) = (true, 0)).is_none(), "an account that exists, as new");
    assert!(with(last, &|q| q.is_new = false).is_none(), "an account that does not exist, as old");
    assert!(with(last, &|q| q.old = 7).is_none(), "a new account with a balance");
    assert!(with(0, &|q| q.new += 1).is_none(), "value from nothing breaks the next query's root");
    let mut other_start = honest.clone();
    other_start.start.second = Digest::new([9; 4]).unwrap();
    assert!(apply(&circuit, &other_start).is_none(), "another root");
}

#[test]
fn a_changed_log_entry_changes_both_hashes() {
    let circuit = build(public_data::define);
    let (_, _, honest, _) = honest();
    let end = |change: &dyn Fn(&mut LogEntry)| {
        let mut input = honest.clone();
        change(&mut input.entries[1]);
        let mut witness = Witness::new();
        public_data::assign(&public_data::allocate(&mut builder(), &PARAMS), &input, &mut witness).unwrap();
        ChainState::from_elements(&prove(&circuit, witness).unwrap()[STATE_LEN..])
    };
    let expected = end(&|_| ());
    for changed in [
        end(&|e| e.amount += 1),
        end(&|e| e.from = account_key("eve")),
        end(&|e| std::mem::swap(&mut e.from, &mut e.to)),
    ] {
        assert!(changed.first != expected.first && changed.second != expected.second);
    }
}

#[test]
fn nonsense_is_refused_by_every_stage_without_keys() {
    let dir = tempfile::tempdir().unwrap();
    let system = crate::LedgerProofSystem::shipped(dir.path()).unwrap();
    let statement =
        honest().3.statement(proving_model::BatchId { chain_id: 1, number: 2 }).unwrap().to_json();
    for proof in [b"".as_slice(), b"RHPROOF1", &[0; 60_000]] {
        assert!(system.verify_final(proof, &statement).is_err());
        assert!(
            system
                .verify_final(&crate::final_proof::reseal(&[proof, &[7; 100]].concat()), &statement)
                .is_err()
        );
    }
    assert_eq!(Kind::from_circuit_id(proving_model::CircuitId(9)), None);
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none(), "verifying writes no keys");
}
