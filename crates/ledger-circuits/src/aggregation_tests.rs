//! Proofs swapped, cut out, carried over and relabelled, put into the aggregating circuits past all native checks: the
//! circuits themselves must refuse each.
//!
//! The key set is one of small circuits; what binds proofs together does not depend on their size.

use crate::circuits::recursion::{AGGREGATE_LEN, read_aggregate};
use crate::circuits::{STATE_LEN, wrap};
use crate::decode::refusing_panics;
use crate::input::LedgerInput;
use crate::keys::{CircuitName, LedgerKeys};
use crate::{C, D, F, Kind, LedgerParams, LedgerProofSystem, Proof, Verifier, Witness};
use keystore::Keystore;
use plonky2::field::types::{Field, PrimeField64};
use proof_system::{ProofSystem, Uncontrolled, conformance};
use proving_model::{AggregationRound, BatchId};
use std::sync::OnceLock;

/// With fewer transfers the basic circuits have so few rows that verifying them takes other gates than the shape has.
const PER_CIRCUIT: usize = 32;

const PARAMS: LedgerParams = LedgerParams {
    tree_depth: 8,
    transfers_per_execution: PER_CIRCUIT,
    transfers_per_storage: PER_CIRCUIT,
    transfers_per_public_data: PER_CIRCUIT,
    leaf_fan_in: 2,
    node_fan_in: 2,
};

pub(crate) const BATCH: BatchId = BatchId { chain_id: 5, number: 6 };

/// The small key set, generated once a test process.
pub(crate) fn system() -> &'static LedgerProofSystem {
    static SYSTEM: OnceLock<LedgerProofSystem> = OnceLock::new();
    SYSTEM.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let system =
            LedgerProofSystem::with_params(PARAMS, Keystore::new(folder.path().join("ledger"), None));
        for name in CircuitName::ALL {
            system.keys().circuit(name).unwrap();
            system.keys().verifier(name).unwrap();
        }
        system
    })
}

/// So many transfers of this amount, from ada to bob and from bob to cyd in turn.
pub(crate) fn input(transfers: usize, amount: u64) -> LedgerInput {
    let pairs = [("ada", "bob"), ("bob", "cyd")];
    LedgerInput {
        accounts: vec![("ada".to_owned(), 1000), ("bob".to_owned(), 500)],
        transfers: (0..transfers)
            .map(|i| (pairs[i % 2].0.to_owned(), pairs[i % 2].1.to_owned(), amount))
            .collect(),
    }
}

fn prove_basics(input: &LedgerInput) -> [Vec<Proof>; 3] {
    let system = system();
    let mut proofs = [Vec::new(), Vec::new(), Vec::new()];
    let mut emit = |circuit: proof_system::BasicCircuit| {
        let kind = Kind::from_circuit_id(circuit.id).unwrap();
        let place = Kind::ALL.iter().position(|known| *known == kind).unwrap();
        let circuit_type =
            proof_system::CircuitType { round: AggregationRound::BasicCircuits, id: circuit.id };
        let vector = system.synthesize(circuit_type, &circuit.payload, &Uncontrolled).unwrap();
        let bytes = system.prove(circuit_type, vector, &Uncontrolled).unwrap();
        let verifier = system.keys().verifier(CircuitName::Basic(kind)).unwrap();
        proofs[place].push(Proof::from_bytes(bytes[2..].to_vec(), &verifier.common).unwrap());
        true
    };
    system.generate_circuits(BATCH, &input.encode(), &mut emit, &Uncontrolled).unwrap();
    proofs
}

/// Proves an aggregating circuit over these children, with no native check; `None` when the circuit refuses.
fn aggregate(name: CircuitName, children: &[(bool, &Proof)]) -> Option<Proof> {
    let system = system();
    let circuit = system.keys().circuit(name).unwrap();
    let children = children.iter().map(|(is_node, proof)| (*is_node, (*proof).clone())).collect();
    let mut witness = Witness::new();
    system.assign_children(name, BATCH, children, &mut witness).ok()?;
    refusing_panics("forged", || {
        let proof = circuit.prove(witness)?;
        circuit.verify(proof.clone())?;
        Ok(proof)
    })
    .ok()
}

fn leaf(kind: Kind, basics: &[&Proof]) -> Option<Proof> {
    let basics: Vec<(bool, &Proof)> = basics.iter().map(|proof| (false, *proof)).collect();
    aggregate(CircuitName::Leaf(kind), &basics)
}

/// Transfers that fill three circuits of each kind.
const TRANSFERS: usize = 3 * PER_CIRCUIT;

/// The honest aggregates of three circuits of each kind: two leaves and their node.
struct Aggregates {
    basics: [Vec<Proof>; 3],
    leaves: [[Proof; 2]; 3],
    nodes: [Proof; 3],
}

impl Aggregates {
    fn of(amount: u64) -> Self {
        let basics = prove_basics(&input(TRANSFERS, amount));
        let leaves = [0, 1, 2].map(|place| {
            let (kind, basics) = (Kind::ALL[place], &basics[place]);
            [leaf(kind, &[&basics[0], &basics[1]]).unwrap(), leaf(kind, &[&basics[2]]).unwrap()]
        });
        let nodes = leaves
            .each_ref()
            .map(|[first, second]| aggregate(CircuitName::Node, &[(false, first), (false, second)]).unwrap());
        Self { basics, leaves, nodes }
    }
}

/// Two batches of the same size, of other transfers.
fn batches() -> &'static [Aggregates; 2] {
    static BATCHES: OnceLock<[Aggregates; 2]> = OnceLock::new();
    BATCHES.get_or_init(|| [Aggregates::of(10), Aggregates::of(20)])
}

/// A proof that claims something else.
fn claiming(proof: &Proof, at: usize) -> Proof {
    let mut forged = proof.clone();
    forged.public_inputs[at] += F::ONE;
    forged
}

#[test]
fn a_leaf_takes_only_proofs_of_its_own_circuit_that_chain() {
    let [this, other] = batches();
    let kind = Kind::TransferExecution;
    let [first, second, third] = this.basics[0].as_slice() else { panic!("three circuits") };
    assert!(leaf(kind, &[second, third]).is_some(), "a leaf may start anywhere; the scheduler may not");
    assert!(leaf(kind, &[second, first]).is_none(), "in the wrong order");
    assert!(leaf(kind, &[first, third]).is_none(), "with a gap");
    assert!(leaf(kind, &[first, first]).is_none(), "one proof twice");
    assert!(leaf(kind, &[first, &other.basics[0][1]]).is_none(), "from another batch");
    assert!(leaf(kind, &[&this.basics[1][0]]).is_none(), "of another kind");
    for at in [0, STATE_LEN, 2 * STATE_LEN - 1] {
        assert!(leaf(kind, &[&claiming(first, at)]).is_none(), "public value {at} claimed falsely");
    }
    // The same constraints under another key: the one circuit, built with another domain separator.
    let params = PARAMS;
    let mut builder = crate::Builder::new(crate::circuits::configs::recursion_config());
    builder.set_domain_separator(vec![F::from_canonical_usize(77)]);
    crate::circuits::transfer_execution::define(&mut builder, &params);
    let foreign = builder.build::<C>();
    let mut witness = Witness::new();
    let targets = crate::circuits::transfer_execution::allocate(
        &mut crate::Builder::new(crate::circuits::configs::recursion_config()),
        &params,
    );
    let this_input = input(TRANSFERS, 10);
    let mut execution = crate::execution::Execution::new(PARAMS, &this_input.accounts).unwrap();
    let mut circuits = this_input
        .transfers
        .iter()
        .flat_map(|(from, to, amount)| execution.apply(from, to, *amount).unwrap());
    let honest = circuits.find_map(|circuit| match circuit {
        crate::execution::BasicInput::TransferExecution(honest) => Some(honest),
        _ => None,
    });
    let honest = honest.unwrap();
    crate::circuits::transfer_execution::assign(&targets, &honest, &mut witness).unwrap();
    let proof = foreign.prove(witness).unwrap();
    foreign.verify(proof.clone()).unwrap();
    assert_eq!(proof.public_inputs, first.public_inputs, "it claims exactly the same");
    assert!(leaf(kind, &[&proof]).is_none(), "a proof made with another circuit");
}

#[test]
fn a_node_takes_only_leaves_and_nodes_of_one_kind_that_chain() {
    let [this, other] = batches();
    let node = |children: &[(bool, &Proof)]| aggregate(CircuitName::Node, children);
    let [first, second] = &this.leaves[0];
    assert!(node(&[(true, &this.nodes[0])]).is_some(), "a node over a node");
    assert!(node(&[(false, second), (false, first)]).is_none(), "in the wrong order");
    assert!(node(&[(false, first), (false, first)]).is_none(), "one leaf twice");
    assert!(node(&[(false, first), (false, &other.leaves[0][1])]).is_none(), "from another batch");
    assert!(node(&[(false, first), (false, &this.leaves[1][1])]).is_none(), "of another kind");
    assert!(node(&[(true, first)]).is_none(), "a leaf as a node");
    assert!(node(&[(false, &this.nodes[0])]).is_none(), "a node as a leaf");
    let mut relabelled = first.clone();
    relabelled.public_inputs[0] = Kind::PublicData.element();
    assert!(node(&[(false, &relabelled)]).is_none(), "a leaf under another kind's name");
    for at in [1, 1 + STATE_LEN, AGGREGATE_LEN, AGGREGATE_LEN + 67] {
        assert!(node(&[(false, &claiming(first, at))]).is_none(), "public value {at} claimed falsely");
    }
}

/// The node's own key goes up as a public value; only the tip can say that it is the right one.
#[test]
fn a_node_key_of_the_provers_own_choice_ends_at_the_tip() {
    let [this, _] = batches();
    let system = system();
    let kind = Kind::TransferExecution;
    // A leaf may carry any key: it is the tip that compares.
    let circuit = system.keys().circuit(CircuitName::Leaf(kind)).unwrap();
    let basic = system.keys().verifier(CircuitName::Basic(kind)).unwrap();
    let mut builder = crate::Builder::new(circuit.common.config.clone());
    let targets = crate::circuits::recursion::allocate_leaf(&mut builder, &basic.common, PARAMS.leaf_fan_in);
    let own_key = vec![F::from_canonical_u64(7); this.leaves[0][0].public_inputs.len() - AGGREGATE_LEN];
    let mut witness = Witness::new();
    crate::circuits::recursion::assign_leaf(&targets, &this.basics[0][..2], &own_key, &mut witness).unwrap();
    let carrying = circuit.prove(witness).unwrap();
    circuit.verify(carrying.clone()).unwrap();

    let tip = |first: (bool, &Proof)| {
        aggregate(CircuitName::Tip, &[first, (true, &this.nodes[1]), (true, &this.nodes[2])])
    };
    assert!(tip((false, &this.leaves[0][0])).is_some(), "the honest leaf");
    assert!(tip((false, &carrying)).is_none(), "a leaf that carries another node key");
    let node = [(false, &carrying), (false, &this.leaves[0][1])];
    assert!(aggregate(CircuitName::Node, &node).is_none(), "children that carry different keys");
}

#[test]
fn the_tip_takes_one_proof_of_each_kind_in_its_place() {
    let [this, _] = batches();
    let [execution, storage, data] = &this.nodes;
    let tip = |children: [(bool, &Proof); 3]| aggregate(CircuitName::Tip, &children);
    assert!(tip([(true, storage), (true, execution), (true, data)]).is_none(), "kinds swapped");
    assert!(tip([(true, execution), (true, storage), (true, storage)]).is_none(), "one kind twice");
    assert!(tip([(false, execution), (true, storage), (true, data)]).is_none(), "a node as a leaf");
    let forged = claiming(storage, 1 + STATE_LEN + 4);
    assert!(tip([(true, execution), (true, &forged), (true, data)]).is_none(), "another root after");
}

#[test]
fn the_scheduler_ties_the_kinds_together_and_exposes_the_statement() {
    let [this, other] = batches();
    let tip = |children: [(bool, &Proof); 3]| aggregate(CircuitName::Tip, &children).unwrap();
    let schedule = |tip: &Proof| aggregate(CircuitName::Scheduler, &[(false, tip)]);
    let [execution, storage, data] = this.nodes.each_ref().map(|node| (true, node));
    let [_, other_storage, other_data] = other.nodes.each_ref().map(|node| (true, node));

    let honest_tip = tip([execution, storage, data]);
    let scheduled = schedule(&honest_tip).unwrap();
    let statement = crate::execution::statement_of(PARAMS, BATCH, &input(TRANSFERS, 10)).unwrap();
    let found: Vec<u64> = scheduled.public_inputs.iter().map(PrimeField64::to_canonical_u64).collect();
    assert_eq!(found[..4], [5, 0, 6, 0], "chain and number, each low half first");
    assert_eq!(found[4..8], statement.root_before.numbers());
    assert_eq!(found[8..12], statement.root_after.numbers());
    assert_eq!(found[12], TRANSFERS as u64, "transfers");
    assert_eq!(found[13..], statement.public_data_hash.numbers());

    assert!(schedule(&tip([execution, other_storage, data])).is_none(), "storage of another batch");
    assert!(schedule(&tip([execution, storage, other_data])).is_none(), "public data of another batch");
    let first_half = this.leaves.each_ref().map(|[first, _]| (false, first));
    let [first_execution, first_storage, first_data] = first_half;
    assert!(schedule(&tip([execution, storage, first_data])).is_none(), "half of the log");
    assert!(schedule(&tip([execution, first_storage, data])).is_none(), "half of the storage queries");
    assert!(schedule(&tip([first_execution, storage, data])).is_none(), "half of the transfers");
    let second_half = this.leaves.each_ref().map(|[_, second]| (false, second));
    assert!(schedule(&tip(second_half)).is_none(), "chains that do not start empty");
    for at in [0, honest_tip.public_inputs.len() - 1] {
        assert!(schedule(&claiming(&honest_tip, at)).is_none(), "public value {at} claimed falsely");
    }

    // What the scheduler says is what the wraps say, and nothing else.
    let keys: &LedgerKeys = system().keys();
    let inner: &Verifier = &keys.verifier(CircuitName::Scheduler).unwrap();
    let circuit = keys.circuit(CircuitName::FirstWrap).unwrap();
    for at in 0..scheduled.public_inputs.len() {
        let mut builder =
            plonky2::plonk::circuit_builder::CircuitBuilder::<F, D>::new(circuit.common.config.clone());
        let targets = wrap::allocate(&mut builder, &inner.common);
        let mut witness = Witness::new();
        wrap::assign(&targets, &claiming(&scheduled, at), &mut witness).unwrap();
        let forged =
            refusing_panics("forged", || circuit.prove(witness).and_then(|proof| circuit.verify(proof)));
        assert!(forged.is_err(), "value {at} of the statement claimed falsely");
    }
}

#[test]
fn an_aggregate_says_what_it_covers() {
    let [this, _] = batches();
    let (kind, start, end) = read_aggregate(&this.nodes[0].public_inputs).unwrap();
    assert_eq!((kind, start.count, end.count), (Kind::TransferExecution, 0, TRANSFERS as u64));
}

#[test]
fn passes_the_conformance_suite() {
    conformance::check(system(), &input(TRANSFERS, 3).encode(), &input(1, 4).encode());
}
