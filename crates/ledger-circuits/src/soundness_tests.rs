//! Forged witnesses of the basic circuits: each must fail, and the honest one must pass.
//!
//! A witness is forged where its circuit is weakest: in the values that the native code would never produce. Circuits
//! of small sizes have the same constraints a slot as the shipped ones.

use crate::circuits::public_data::{self, LogEntry, PublicDataInput};
use crate::circuits::storage_application::{self, StorageApplicationInput, StorageQuery};
use crate::circuits::transfer_execution::{self, Transfer, TransferExecutionInput};
use crate::circuits::{ChainState, STATE_LEN};
use crate::digest::{Digest, account_key};
use crate::execution::{BasicInput, Execution};
use crate::system::refusing_panics;
use crate::{Builder, C, Circuit, F, Kind, LedgerParams, Witness};
use plonky2::field::types::Field64;
use plonky2::plonk::circuit_data::CircuitConfig;
use proof_system::ProofSystem;

const PARAMS: LedgerParams = LedgerParams {
    tree_depth: 8,
    transfers_per_execution: 2,
    transfers_per_storage: 2,
    transfers_per_public_data: 2,
    leaf_fan_in: 2,
    node_fan_in: 2,
};

fn builder() -> Builder {
    Builder::new(CircuitConfig::standard_recursion_config())
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
    let statement = ledger.statement(batch);
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
    assert!(with(0, &|q| q.siblings[3] = Digest([1; 4])).is_none(), "another sibling");
    assert!(with(0, &|q| (q.is_new, q.old) = (true, 0)).is_none(), "an account that exists, as new");
    assert!(with(last, &|q| q.is_new = false).is_none(), "an account that does not exist, as old");
    assert!(with(last, &|q| q.old = 7).is_none(), "a new account with a balance");
    assert!(with(0, &|q| q.new += 1).is_none(), "value from nothing breaks the next query's root");
    let mut other_start = honest.clone();
    other_start.start.second = Digest([9; 4]);
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
    let statement = honest().3.statement(proving_model::BatchId { chain_id: 1, number: 2 }).to_json();
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
