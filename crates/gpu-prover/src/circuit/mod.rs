//! A circuit on a device, and its proofs there: here what all of them share and the steps that read it; one at work is `committer`.

// Kernels are started with what their comments say, and two of them take their arguments in one struct.
#![allow(unsafe_code)]

mod committer;

use crate::commitment::{Commitment, DIGEST, Direction, Domain, powers_by_coset};
use crate::device::{Buffer, Device, launch, threads};
use crate::driver::DriverError;
use crate::gates::{Gates, UnknownGate};
use crate::upload::write_wires;
use crate::{D, DeviceError, Extension, F};
use committer::{Columns, DeviceCommitter};
use cust::function::{BlockSize, GridSize};
use cust::memory::{DeviceCopy, DevicePointer};
use plonk_prover::committer::{Constraints, Opened, Oracle, Permutation, Polynomials};
use plonk_prover::{Circuit, Proof, ProveError, Stage, Stages};
use plonky2::field::types::{Field, PrimeField64};
use plonky2::iop::witness::PartitionWitness;
use plonky2::plonk::circuit_data::{CircuitData, CommonCircuitData};
use plonky2::util::{log2_strict, reverse_index_bits_in_place};
use std::sync::Arc;

/// What the kernels have fixed: `CHALLENGES`, `MOST_COSETS`, `MOST_STEPS`, `SUM_THREADS`, `SCAN_THREADS` times `SCAN_ELEMENTS`.
const CHALLENGES: usize = 3;
const MOST_COSETS: usize = 16;
const MOST_STEPS: usize = 64;
const SUM_THREADS: u32 = 256;
const SCAN_THREADS: u32 = 256;
const SCAN_BLOCK: usize = 1_024;

/// A circuit on a device: what all its proofs share.
#[derive(Debug)]
pub struct DeviceCircuit {
    device: Device,
    circuit: Arc<Circuit>,
    domain: Domain,
    /// Constants and sigmas: the polynomials, and their values on the coset.
    fixed: Buffer,
    fixed_extension: Buffer,
    /// Sigmas on the rows.
    sigmas: Buffer,
    ks: Buffer,
    gates: Buffer,
    gate_count: u32,
    tables: Buffer,
    quotient_bits: u32,
    /// Of the quotient's cosets: shift, vanishing polynomial, its inverse.
    cosets: Buffer,
    inverse_powers: Buffer,
    matrix: Buffer,
}

/// The kernels' `struct Quotient`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct QuotientArguments {
    fixed: DevicePointer<u64>,
    wires: DevicePointer<u64>,
    zs: DevicePointer<u64>,
    mixed: DevicePointer<u64>,
    alphas: DevicePointer<u64>,
    ks: DevicePointer<u64>,
    roots: DevicePointer<u64>,
    cosets: DevicePointer<u64>,
    gates: DevicePointer<u64>,
    tables: DevicePointer<u64>,
    public_inputs_hash: [u64; 4],
    betas: [u64; CHALLENGES],
    gammas: [u64; CHALLENGES],
    log_n: u32,
    rate_bits: u32,
    quotient_bits: u32,
    constants: u32,
    selectors: u32,
    routed: u32,
    factors: u32,
    partials: u32,
    gate_count: u32,
    terms: u32,
}

// SAFETY: numbers and the device's addresses.
unsafe impl DeviceCopy for QuotientArguments {}

/// The kernels' `struct Opening`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct OpeningArguments {
    values: DevicePointer<u64>,
    codeword: DevicePointer<u64>,
    roots: DevicePointer<u64>,
    shifts: DevicePointer<u64>,
    point: [u64; D],
    value: [u64; D],
    shift: [u64; D],
    log_n: u32,
    rate_bits: u32,
    is_first: u32,
}

// SAFETY: as above.
unsafe impl DeviceCopy for OpeningArguments {}

/// Bytes that a circuit and a proof of it take of a device's memory at a time, at most: what the circuit keeps, and, when the openings are
/// combined, all three commitments, two codewords and what is combined.
#[must_use]
pub fn device_bytes(common: &CommonCircuitData<F, D>) -> usize {
    let config = &common.config;
    let rows = common.degree();
    let points = rows << config.fri_config.rate_bits;
    let cosets = common.quotient_degree_factor;
    let tree = 2 * points * DIGEST;
    let fixed = common.sigmas_range().end;
    // Polynomials and their values, and the tables of `Domain` and of the quotient.
    let kept = fixed * (rows + points) + config.num_routed_wires * rows + (1 + cosets) * rows + points;
    let steps = common.num_partial_products + 1;
    let widths = config.num_wires + CHALLENGES * steps + CHALLENGES * cosets;
    let commitments = widths * (rows + points) + 3 * tree;
    let opening = 2 * D * points + D * rows;
    let elements = kept + commitments + opening;
    // Small tables, and what lies between ranges; whole mebibytes, as arenas are asked for.
    ((elements + elements / 50) * size_of::<u64>() + (1 << 20)).next_multiple_of(1 << 20)
}

fn canonical<'e>(elements: impl Iterator<Item = &'e F>) -> Vec<u64> {
    elements.map(PrimeField64::to_canonical_u64).collect()
}

fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn pair(element: Extension) -> [u64; D] {
    element.0.map(|coordinate| coordinate.to_canonical_u64())
}

impl DeviceCircuit {
    /// Puts a circuit on a device.
    ///
    /// # Errors
    /// [`DeviceError`]: of circuits that the kernels do not have it says why.
    pub fn new(device: &Device, circuit: &Arc<Circuit>) -> Result<Self, DeviceError> {
        let CircuitData { prover_only: prover_data, common, .. } = &**circuit;
        let rate_bits = common.config.fri_config.rate_bits;
        let degree_bits = common.degree_bits();
        let quotient_cosets = common.quotient_degree_factor;
        let unsupported = |what| Err(ProveError::Unsupported(what).into());
        if common.config.num_challenges != CHALLENGES {
            return unsupported("another number of challenges than three, on a device");
        }
        if !quotient_cosets.is_power_of_two() || quotient_cosets > MOST_COSETS {
            return unsupported("constraints of a degree that is no power of two up to 16, on a device");
        }
        if common.num_partial_products >= MOST_STEPS {
            return unsupported("more than 64 partial products, on a device");
        }
        if common.num_lookup_selectors > 0 {
            return unsupported("lookup tables");
        }
        let gates = Gates::of(common).map_err(|UnknownGate(name)| DeviceError::UnknownGate(name))?;
        let domain = Domain::new(device, small(degree_bits), small(rate_bits))?;

        let mut fixed_columns: Vec<Vec<F>> = Vec::new();
        for polynomial in &prover_data.constants_sigmas_commitment.polynomials[..common.sigmas_range().end] {
            let mut coefficients = polynomial.coeffs.clone();
            coefficients.resize(common.degree(), F::ZERO);
            reverse_index_bits_in_place(&mut coefficients);
            fixed_columns.push(coefficients);
        }
        let fixed = device.upload(&canonical(fixed_columns.iter().flatten()))?;
        let fixed_extension = domain.extend(&fixed, small(fixed_columns.len()))?;
        drop(fixed_columns);
        let routed = common.config.num_routed_wires;
        let sigma = |wire| prover_data.sigmas.iter().map(move |row: &Vec<F>| &row[wire]);
        let sigmas = device.upload(&canonical((0..routed).flat_map(sigma)))?;
        let ks = device.upload(&canonical(common.k_is.iter()))?;

        let quotient_bits = log2_strict(quotient_cosets);
        let step = 1 << (rate_bits - quotient_bits);
        let first = F::primitive_root_of_unity(degree_bits + rate_bits).exp_u64(step);
        let shifts: Vec<F> =
            first.powers().take(quotient_cosets).map(|power| power * F::coset_shift()).collect();
        let cosets = shifts.iter().flat_map(|shift| {
            let vanishing = shift.exp_power_of_2(degree_bits) - F::ONE;
            [*shift, vanishing, vanishing.inverse()].map(|value| value.to_canonical_u64())
        });
        let inverses = shifts.iter().map(F::inverse);
        // Of (g_j^n)^k, by k and j.
        let scale = F::from_canonical_usize(quotient_cosets).inverse();
        let matrix = (0..quotient_cosets).flat_map(|k| {
            let powers =
                inverses.clone().map(move |inverse| inverse.exp_power_of_2(degree_bits).exp_u64(k as u64));
            powers.map(|power| (power * scale).to_canonical_u64()).collect::<Vec<_>>()
        });
        Ok(Self {
            device: device.clone(),
            circuit: circuit.clone(),
            fixed,
            fixed_extension,
            sigmas,
            ks,
            gate_count: small(common.gates.len()),
            gates: device.upload(&gates.words)?,
            tables: device.upload(&gates.tables)?,
            quotient_bits: small(quotient_bits),
            cosets: device.upload(&cosets.collect::<Vec<_>>())?,
            inverse_powers: device.upload(&powers_by_coset(inverses.clone(), common.degree()))?,
            matrix: device.upload(&matrix.collect::<Vec<_>>())?,
            domain,
        })
    }

    /// Proves on the device, as [`plonk_prover::prove`] does on the processor: the same proof.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn prove(
        &self,
        witness: &PartitionWitness<'_, F>,
        stages: &mut Stages,
    ) -> Result<Proof, DeviceError> {
        let mut columns = vec![0; witness.degree * witness.num_wires];
        write_wires(witness, &mut columns);
        let wires = stages.time(Stage::Upload, || self.device.upload(&columns))?;
        let public_inputs = plonk_prover::public_inputs(&self.circuit.prover_only, witness);
        self.prove_uploaded(public_inputs, wires, stages, &mut || ())
    }

    /// As [`DeviceCircuit::prove`], of a witness whose wires are on the device. `between` is called between two parts of the work.
    pub(crate) fn prove_uploaded(
        &self,
        public_inputs: Vec<F>,
        wires: Buffer,
        stages: &mut Stages,
        between: &mut dyn FnMut(),
    ) -> Result<Proof, DeviceError> {
        let wires = Columns { width: small(wires.len() >> self.log_rows()), values: wires };
        let mut committer = DeviceCommitter { circuit: self, stages, between };
        plonk_prover::prove_with(
            &mut committer,
            &self.circuit.prover_only,
            self.common(),
            public_inputs,
            wires,
        )
    }

    fn common(&self) -> &CommonCircuitData<F, D> {
        &self.circuit.common
    }

    fn cap_height(&self) -> u32 {
        small(self.common().config.fri_config.cap_height)
    }

    /// The steps from one Z to the next.
    fn steps(&self) -> usize {
        self.common().num_partial_products + 1
    }

    fn log_rows(&self) -> u32 {
        self.domain.log_rows
    }

    /// Where the coefficients of some polynomials begin.
    fn coefficients(&self, polynomials: &Polynomials<'_, Commitment>) -> DevicePointer<u64> {
        let all = match polynomials.oracle {
            Oracle::Circuit => &self.fixed,
            Oracle::Proof(commitment) => &commitment.coefficients,
        };
        assert!(polynomials.range.end << self.log_rows() <= all.len(), "it has no such polynomials");
        all.at(polynomials.range.start << self.log_rows())
    }

    /// One challenge's Z and partial products, written to their places among the columns.
    fn permutation_of(
        &self,
        wires: &Buffer,
        columns: &Buffer,
        challenge: usize,
        Permutation { beta, gamma }: Permutation,
    ) -> Result<(), DriverError> {
        let (device, log_n, steps) = (&self.device, self.log_rows(), self.steps());
        let rows = 1usize << log_n;
        let running = device.allocate(rows * steps)?;
        let (grid, block) = threads(rows as u64);
        launch!(
            device,
            "permutation_quotients",
            grid,
            block,
            wires.pointer(),
            self.sigmas.pointer(),
            self.ks.pointer(),
            self.domain.roots.pointer(),
            log_n,
            small(self.common().config.num_routed_wires),
            small(self.common().quotient_degree_factor),
            small(steps),
            beta.to_canonical_u64(),
            gamma.to_canonical_u64(),
            running.pointer()
        )?;
        scan(&running)?;
        let first_partial = CHALLENGES + challenge * (steps - 1);
        launch!(
            device,
            "permutation_columns",
            grid,
            block,
            running.pointer(),
            log_n,
            small(steps),
            columns.at(challenge * rows),
            columns.at(first_partial * rows)
        )
    }

    /// The mixed constraints through the vanishing polynomial, for each alpha on each of the quotient's cosets.
    fn mixed(&self, constraints: &Constraints<'_, Commitment>) -> Result<Buffer, DriverError> {
        let (device, common) = (&self.device, self.common());
        let terms = CHALLENGES * (1 + self.steps()) + common.num_gate_constraints;
        let of_two = |value: fn(&Permutation) -> F| {
            std::array::from_fn(|i| value(&constraints.permutation[i]).to_canonical_u64())
        };
        let powers = constraints.alphas.iter().flat_map(|alpha| crate::commitment::powers_of(*alpha, terms));
        let alphas = device.upload(&powers.collect::<Vec<_>>())?;
        let points = 1usize << (self.log_rows() + self.quotient_bits);
        let mixed = device.allocate(CHALLENGES * points)?;
        let arguments = QuotientArguments {
            fixed: self.fixed_extension.pointer(),
            wires: constraints.wires.extension.pointer(),
            zs: constraints.zs.extension.pointer(),
            mixed: mixed.pointer(),
            alphas: alphas.pointer(),
            ks: self.ks.pointer(),
            roots: self.domain.roots.pointer(),
            cosets: self.cosets.pointer(),
            gates: self.gates.pointer(),
            tables: self.tables.pointer(),
            public_inputs_hash: constraints.public_inputs_hash.elements.map(|e| e.to_canonical_u64()),
            betas: of_two(|permutation| permutation.beta),
            gammas: of_two(|permutation| permutation.gamma),
            log_n: self.log_rows(),
            rate_bits: self.domain.rate_bits,
            quotient_bits: self.quotient_bits,
            constants: small(common.num_constants),
            selectors: small(common.selectors_info.num_selectors()),
            routed: small(common.config.num_routed_wires),
            factors: small(common.quotient_degree_factor),
            partials: small(common.num_partial_products),
            gate_count: self.gate_count,
            terms: small(terms),
        };
        let (grid, block) = threads(points as u64);
        launch!(device, "constraints", grid, block, arguments)?;
        Ok(mixed)
    }

    /// The pieces of the quotients of which these are the values.
    fn pieces(&self, mixed: &Buffer) -> Result<Buffer, DriverError> {
        let (log_n, bits) = (self.log_rows(), self.quotient_bits);
        self.domain.transform(mixed, small(CHALLENGES << bits), Direction::ToCoefficients)?;
        let pieces = self.device.allocate(mixed.len())?;
        let (GridSize { x, .. }, block) = threads(1 << log_n);
        launch!(
            &self.device,
            "join_cosets",
            GridSize::xy(x, small(CHALLENGES)),
            block,
            mixed.pointer(),
            pieces.pointer(),
            log_n,
            bits,
            self.inverse_powers.pointer(),
            self.matrix.pointer()
        )?;
        Ok(pieces)
    }

    /// What one opening adds to the codeword.
    fn open_into(
        &self,
        codeword: &Buffer,
        opened: &Opened<'_, Commitment>,
        alpha: Extension,
        is_first: bool,
    ) -> Result<(), DriverError> {
        let (device, log_n) = (&self.device, self.log_rows());
        let powers: Vec<Extension> = alpha.powers().take(opened.values.len()).collect();
        let value: Extension = opened.values.iter().zip(&powers).map(|(value, power)| *value * *power).sum();
        let factors = device.upload(&powers.iter().flat_map(|power| pair(*power)).collect::<Vec<_>>())?;
        let sum = device.allocate(D << log_n)?;
        let (grid, block) = threads(1 << log_n);
        let mut before = 0;
        for polynomials in &opened.polynomials {
            let is_first = u32::from(before == 0);
            launch!(
                device,
                "combine",
                grid,
                block,
                self.coefficients(polynomials),
                log_n,
                small(polynomials.range.len()),
                factors.at(D * before),
                is_first,
                sum.pointer()
            )?;
            before += polynomials.range.len();
        }
        let values = self.domain.extend(&sum, small(D))?;
        let arguments = OpeningArguments {
            values: values.pointer(),
            codeword: codeword.pointer(),
            roots: self.domain.roots.pointer(),
            shifts: self.domain.shifts.pointer(),
            point: pair(opened.point),
            value: pair(value),
            shift: pair(alpha.exp_u64(before as u64)),
            log_n,
            rate_bits: self.domain.rate_bits,
            is_first: u32::from(is_first),
        };
        let (grid, block) = threads(1 << self.domain.log_all());
        launch!(device, "divide_opening", grid, block, arguments)
    }
}

/// Running products, in place.
fn scan(elements: &Buffer) -> Result<(), DriverError> {
    let device = elements.device();
    let (count, blocks) = (elements.len() as u64, elements.len().div_ceil(SCAN_BLOCK));
    let totals = device.allocate(blocks)?;
    launch!(
        device,
        "scan_blocks",
        GridSize::x(small(blocks)),
        BlockSize::x(SCAN_THREADS),
        elements.pointer(),
        count,
        totals.pointer()
    )?;
    if blocks > 1 {
        scan(&totals)?;
        let (grid, block) = threads(count);
        launch!(device, "scan_apply", grid, block, elements.pointer(), count, totals.pointer())?;
    }
    Ok(())
}
