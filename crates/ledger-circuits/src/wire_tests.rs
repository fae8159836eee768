//! Every wire of the basic circuits, changed past the generators: the proof must not verify.
//!
//! Forged inputs mostly show that the honest generators refuse. Here a witness is computed honestly and changed afterwards,
//! wire by wire, so that constraints alone can find it. Two changes a wire: of the wire alone, which breaks its copies, and of all its
//! copies at once, which leaves it to the gates.
//!
//! The ordinary run takes a sample. `scripts/sweep-wires` takes every wire, in about ten minutes.

use super::{PARAMS, build, builder, honest};
use crate::circuits::{public_data, storage_application, transfer_execution};
use crate::decode::refusing_panics;
use crate::{Circuit, F, Witness};
use plonk_prover::{prove, witness_of};
use plonky2::field::types::Field;
use plonky2::iop::generator::generate_partial_witness;
use plonky2::iop::witness::PartitionWitness;
use rayon::prelude::*;
use std::collections::BTreeSet;

/// Every so many wires, unless `WIRE_STRIDE` says otherwise. A prime, so that the sample has wires of every column.
const STRIDE: usize = 61;
/// The wires that the gate of the public inputs reads: their hash.
const HASH_WIRES: usize = 4;

/// A circuit and all values of an honest witness, by wire.
struct Honest {
    circuit: Circuit,
    values: Vec<Option<F>>,
}

impl Honest {
    fn of(circuit: Circuit, witness: Witness) -> Self {
        let values = generate_partial_witness(witness, &circuit.prover_only, &circuit.common).unwrap().values;
        Self { circuit, values }
    }

    fn wires(&self) -> usize {
        self.circuit.common.degree() * self.circuit.common.config.num_wires
    }

    fn verifies(&self, witness: &PartitionWitness<'_, F>) -> bool {
        refusing_panics("forged", || {
            let proof = prove(&self.circuit.prover_only, &self.circuit.common, witness)?;
            self.circuit.verify(proof)
        })
        .is_ok()
    }

    /// Whether a proof verifies in which this wire has another value than its copies.
    fn verifies_without_a_copy(&self, wire: usize) -> bool {
        let map = &self.circuit.prover_only.representative_map;
        // Each target stands for itself.
        let mut values: Vec<Option<F>> = map.iter().map(|place| self.values[*place]).collect();
        values[wire] = values[wire].map(|value| value + F::ONE);
        let itself: Vec<usize> = (0..map.len()).collect();
        let witness = PartitionWitness {
            values,
            representative_map: &itself,
            num_wires: self.circuit.common.config.num_wires,
            degree: self.circuit.common.degree(),
        };
        self.verifies(&witness)
    }

    /// Whether a proof verifies in which this wire and all its copies have another value.
    fn verifies_with_all_copies(&self, wire: usize) -> bool {
        let mut values = self.values.clone();
        let place = self.circuit.prover_only.representative_map[wire];
        values[place] = values[place].map(|value| value + F::ONE);
        self.verifies(&witness_of(&self.circuit, values))
    }

    /// The wires that may be changed without anybody noticing, among every `stride`th of those that are set.
    fn free_wires(&self, stride: usize) -> (usize, BTreeSet<usize>) {
        let map = &self.circuit.prover_only.representative_map;
        let set: Vec<usize> = (0..self.wires()).filter(|wire| self.values[map[*wire]].is_some()).collect();
        let tried: Vec<usize> = set.into_iter().step_by(stride).collect();
        let free = tried
            .par_iter()
            .filter(|wire| self.verifies_without_a_copy(**wire) || self.verifies_with_all_copies(**wire))
            .copied()
            .collect();
        (tried.len(), free)
    }
}

/// The three basic circuits over the honest transfers.
fn circuits() -> [(&'static str, Honest); 3] {
    let (execution, storage, data, _) = honest();
    let mut witness = Witness::new();
    let targets = transfer_execution::allocate(&mut builder(), &PARAMS);
    transfer_execution::assign(&targets, &execution, &mut witness).unwrap();
    let execution = Honest::of(build(transfer_execution::define), witness);
    let mut witness = Witness::new();
    let targets = storage_application::allocate(&mut builder(), &PARAMS);
    storage_application::assign(&targets, &storage, &mut witness).unwrap();
    let storage = Honest::of(build(storage_application::define), witness);
    let mut witness = Witness::new();
    public_data::assign(&public_data::allocate(&mut builder(), &PARAMS), &data, &mut witness).unwrap();
    let data = Honest::of(build(public_data::define), witness);
    [("transfer execution", execution), ("storage application", storage), ("public data", data)]
}

#[test]
fn no_wire_can_be_changed_but_those_that_no_constraint_reads() {
    let stride = std::env::var("WIRE_STRIDE").map_or(STRIDE, |text| text.parse().unwrap());
    for (name, honest) in circuits() {
        assert!(
            honest.verifies(&witness_of(&honest.circuit, honest.values.clone())),
            "{name}: the honest witness"
        );
        let (tried, free) = honest.free_wires(stride);
        assert!(tried > 0 && free.len() < tried, "{name}: {} of {tried} wires", free.len());
        let columns = honest.circuit.common.config.num_wires;
        let rows: BTreeSet<usize> = free.iter().map(|wire| wire / columns).collect();
        eprintln!("{name}: {tried} wires changed, {} free, in rows {rows:?}", free.len());
        // The gate of the public inputs reads their hash; the generator fills its other wires at random.
        assert!(rows.len() <= 1, "{name}: wires of rows {rows:?} can be changed");
        assert!(free.iter().all(|wire| wire % columns >= HASH_WIRES), "{name}: {free:?}");
    }
}
