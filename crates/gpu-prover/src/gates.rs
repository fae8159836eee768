//! A circuit's gates, as the kernels know them.

use crate::{D, F};
use plonky2::field::types::{Field, PrimeField64};
use plonky2::gates::arithmetic_base::ArithmeticGate;
use plonky2::gates::arithmetic_extension::ArithmeticExtensionGate;
use plonky2::gates::base_sum::BaseSumGate;
use plonky2::gates::constant::ConstantGate;
use plonky2::gates::coset_interpolation::CosetInterpolationGate;
use plonky2::gates::exponentiation::ExponentiationGate;
use plonky2::gates::gate::GateRef;
use plonky2::gates::multiplication_extension::MulExtensionGate;
use plonky2::gates::noop::NoopGate;
use plonky2::gates::poseidon::PoseidonGate;
use plonky2::gates::poseidon_mds::PoseidonMdsGate;
use plonky2::gates::public_input::PublicInputGate;
use plonky2::gates::random_access::RandomAccessGate;
use plonky2::gates::reducing::ReducingGate;
use plonky2::gates::reducing_extension::ReducingExtensionGate;
use plonky2::plonk::circuit_data::CommonCircuitData;

/// Items of a random access, at most: the kernels' `MOST_ITEMS`.
const MOST_ITEMS: usize = 64;

/// A kind of gate: its number in `gates.cuh`, what it asks for, and its table.
#[derive(Debug, Default, PartialEq, Eq)]
struct Kind {
    number: u64,
    parameters: [u64; 3],
    table: Vec<u64>,
}

/// The gates of a circuit: nine words each (`struct Gate` of `gates.cuh`), and their tables.
#[derive(Debug)]
pub(crate) struct Gates {
    pub(crate) words: Vec<u64>,
    pub(crate) tables: Vec<u64>,
}

/// A gate that has no kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnknownGate(pub(crate) String);

impl Gates {
    pub(crate) fn of(common: &CommonCircuitData<F, D>) -> Result<Self, UnknownGate> {
        let selectors = &common.selectors_info;
        let (mut words, mut tables) = (Vec::new(), Vec::new());
        for (row, gate) in common.gates.iter().enumerate() {
            let Kind { number, parameters: [a, b, c], table } =
                kind(gate).ok_or_else(|| UnknownGate(gate.0.id()))?;
            let selector = selectors.selector_indices[row];
            let group = &selectors.groups[selector];
            let [selector, row, begin, end, table_begin] =
                [selector, row, group.start, group.end, tables.len()].map(|value| value as u64);
            words.extend([number, selector, row, begin, end, a, b, c, table_begin]);
            tables.extend(table);
        }
        Ok(Self { words, tables })
    }
}

fn kind(gate: &GateRef<F, D>) -> Option<Kind> {
    let gate = gate.0.as_any();
    let plain = |number, parameters: [usize; 3]| {
        Some(Kind { number, parameters: parameters.map(|parameter| parameter as u64), table: Vec::new() })
    };
    if gate.is::<NoopGate>() {
        plain(0, [0; 3])
    } else if let Some(gate) = gate.downcast_ref::<ArithmeticGate>() {
        plain(1, [gate.num_ops, 0, 0])
    } else if let Some(gate) = gate.downcast_ref::<ArithmeticExtensionGate<D>>() {
        plain(2, [gate.num_ops, 0, 0])
    } else if let Some(gate) = gate.downcast_ref::<MulExtensionGate<D>>() {
        plain(3, [gate.num_ops, 0, 0])
    } else if let Some(gate) = gate.downcast_ref::<BaseSumGate<2>>() {
        plain(4, [gate.num_limbs, 2, 0])
    } else if let Some(gate) = gate.downcast_ref::<BaseSumGate<4>>() {
        plain(4, [gate.num_limbs, 4, 0])
    } else if gate.is::<ConstantGate>() {
        // Its number of constants is its own affair, and that of its constraints.
        let constraints =
            plonky2::gates::gate::Gate::<F, D>::num_constraints(gate.downcast_ref::<ConstantGate>()?);
        plain(5, [constraints, 0, 0])
    } else if let Some(gate) = gate.downcast_ref::<ExponentiationGate<F, D>>() {
        plain(6, [gate.num_power_bits, 0, 0])
    } else if gate.is::<PublicInputGate>() {
        plain(7, [0; 3])
    } else if let Some(gate) = gate.downcast_ref::<RandomAccessGate<F, D>>() {
        (1 << gate.bits <= MOST_ITEMS).then_some(())?;
        plain(8, [gate.bits, gate.num_copies, gate.num_extra_constants])
    } else if let Some(gate) = gate.downcast_ref::<ReducingGate<D>>() {
        plain(9, [gate.num_coeffs, 1, 0])
    } else if let Some(gate) = gate.downcast_ref::<ReducingExtensionGate<D>>() {
        plain(9, [gate.num_coeffs, D, 0])
    } else if let Some(gate) = gate.downcast_ref::<CosetInterpolationGate<F, D>>() {
        let points = F::two_adic_subgroup(gate.subgroup_bits);
        let table = points.iter().chain(&gate.barycentric_weights).map(F::to_canonical_u64).collect();
        Some(Kind { number: 10, parameters: [points.len() as u64, gate.degree as u64, 0], table })
    } else if gate.is::<PoseidonGate<F, D>>() {
        plain(11, [0; 3])
    } else if gate.is::<PoseidonMdsGate<F, D>>() {
        plain(12, [0; 3])
    } else {
        None
    }
}
