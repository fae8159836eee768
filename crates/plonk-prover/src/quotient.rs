//! The quotient: all constraints, mixed by powers of a challenge, through the polynomial that vanishes on the circuit's rows.

use crate::commitment::Commitment;
use crate::committer::{Constraints, Permutation};
use crate::{C, D, F, ProveError};
use plonky2::field::polynomial::{PolynomialCoeffs, PolynomialValues};
use plonky2::field::types::Field;
use plonky2::field::zero_poly_coset::ZeroPolyOnCoset;
use plonky2::plonk::circuit_data::{CommonCircuitData, ProverOnlyCircuitData};
use plonky2::plonk::vars::EvaluationVarsBaseBatch;
use plonky2::util::log2_ceil;
use rayon::prelude::*;

/// Points that are evaluated together.
const POINTS_TOGETHER: usize = 32;

/// The quotient of each alpha, in pieces of the circuit's degree.
///
/// # Errors
/// [`ProveError::Unsatisfied`] when the constraints do not vanish on all rows.
pub(crate) fn quotients(
    prover_data: &ProverOnlyCircuitData<F, C, D>,
    common: &CommonCircuitData<F, D>,
    constraints: &Constraints<'_, Commitment>,
) -> Result<Vec<PolynomialCoeffs<F>>, ProveError> {
    let quotient = Quotient { prover_data, common, constraints };
    let quotient_bits = log2_ceil(common.quotient_degree_factor);
    let vanishing = ZeroPolyOnCoset::<F>::new(common.degree_bits(), quotient_bits);
    let points = F::two_adic_subgroup(common.degree_bits() + quotient_bits);
    let mixed: Vec<Vec<F>> = points
        .par_chunks(POINTS_TOGETHER)
        .enumerate()
        .flat_map_iter(|(chunk, points)| {
            quotient.at_points(chunk * POINTS_TOGETHER, points, quotient_bits, &vanishing)
        })
        .collect();
    let alphas = constraints.alphas.len();
    let mut pieces = Vec::new();
    for alpha in 0..alphas {
        let values = mixed.iter().skip(alpha).step_by(alphas).flatten().copied().collect();
        let mut quotient = PolynomialValues::<F>::new(values).coset_ifft(F::coset_shift());
        quotient.trim_to_len(common.quotient_degree()).map_err(|_| ProveError::Unsatisfied)?;
        pieces.extend(quotient.chunks(common.degree()));
    }
    Ok(pieces)
}

/// What the quotient is made of.
struct Quotient<'a> {
    prover_data: &'a ProverOnlyCircuitData<F, C, D>,
    common: &'a CommonCircuitData<F, D>,
    constraints: &'a Constraints<'a, Commitment>,
}

impl Quotient<'_> {
    /// For each alpha, the mixed constraints through the vanishing polynomial at each of these points.
    fn at_points(
        &self,
        first: usize,
        points: &[F],
        quotient_bits: usize,
        vanishing: &ZeroPolyOnCoset<F>,
    ) -> Vec<Vec<F>> {
        let Self { common, prover_data, constraints } = self;
        let Constraints { public_inputs_hash, wires, zs, permutation, alphas } = constraints;
        let n = points.len();
        // The commitments have more points than the quotient's degree asks for: every so many-th is taken.
        let rate_bits = common.config.fri_config.rate_bits;
        let step = 1 << (rate_bits - quotient_bits);
        let all = points_in_all(common, quotient_bits);
        let next = 1 << quotient_bits;
        let gather = |columns: &[Vec<F>], ahead: usize| -> Vec<F> {
            let index = |k: usize| ((first + k + ahead) % all) * step;
            columns.iter().flat_map(|column| (0..n).map(move |k| column[index(k)])).collect()
        };
        let local_wires = gather(&wires.columns, 0);
        let local_zs = gather(&zs.columns, 0);
        let next_zs = gather(&zs.columns[common.zs_range()], next);
        // The circuit's own are by row.
        let fixed_count = common.sigmas_range().end;
        let mut fixed = vec![F::ZERO; fixed_count * n];
        for k in 0..n {
            let row = prover_data.constants_sigmas_commitment.get_lde_values(first + k, step);
            for (column, value) in row[..fixed_count].iter().enumerate() {
                fixed[column * n + k] = *value;
            }
        }
        let (constants, sigmas) = fixed.split_at(common.num_constants * n);

        let variables = EvaluationVarsBaseBatch::new(n, constants, &local_wires, public_inputs_hash);
        let gates = gate_constraints(common, variables);
        let shifted: Vec<F> = points.iter().map(|x| F::coset_shift() * *x).collect();
        // That Z starts at one: L_0 · (Z - 1), with L_0 = Z_H / (rows · (x - 1)).
        let rows = F::from_canonical_usize(common.degree());
        let denominators: Vec<F> = shifted.iter().map(|x| rows * (*x - F::ONE)).collect();
        let first_row: Vec<F> = F::batch_multiplicative_inverse(&denominators)
            .into_iter()
            .enumerate()
            .map(|(k, inverse)| inverse * vanishing.eval(first + k))
            .collect();
        let mut terms: Vec<F> = Vec::new();
        for challenge in 0..permutation.len() {
            let z = &local_zs[challenge * n..][..n];
            terms.extend(z.iter().zip(&first_row).map(|(z, first_row)| *first_row * (*z - F::ONE)));
        }
        for (challenge, permutation) in permutation.iter().enumerate() {
            self.permutation_terms(
                permutation,
                challenge,
                &Points { shifted: &shifted, wires: &local_wires, sigmas, zs: &local_zs, next_zs: &next_zs },
                &mut terms,
            );
        }
        terms.extend(gates);

        alphas
            .iter()
            .map(|alpha| {
                // By Horner's rule from the last term on, for all points beside each other.
                let mut mixed = vec![F::ZERO; n];
                for term in terms.chunks_exact(n).rev() {
                    for (mixed, term) in mixed.iter_mut().zip(term) {
                        *mixed = *mixed * *alpha + *term;
                    }
                }
                for (k, mixed) in mixed.iter_mut().enumerate() {
                    *mixed *= vanishing.eval_inverse(first + k);
                }
                mixed
            })
            .collect()
    }

    /// That each accumulated product is the one before it times its factors: `before · numerators - after · denominators`.
    fn permutation_terms(
        &self,
        Permutation { beta, gamma }: &Permutation,
        challenge: usize,
        points: &Points<'_>,
        terms: &mut Vec<F>,
    ) {
        let common = self.common;
        let n = points.shifted.len();
        let column = |values: &[F], i: usize, k: usize| values[i * n + k];
        let beta_x: Vec<F> = points.shifted.iter().map(|x| *beta * *x).collect();
        let factors = common.permutation_partial_product_degree();
        let routed = common.config.num_routed_wires;
        let partials = common.num_partial_products;
        let first_partial = common.partial_products_range().start + challenge * partials;
        for step in 0..=partials {
            for (k, beta_x) in beta_x.iter().enumerate() {
                let mut before = match step {
                    0 => column(points.zs, challenge, k),
                    step => column(points.zs, first_partial + step - 1, k),
                };
                let mut after = if step == partials {
                    column(points.next_zs, challenge, k)
                } else {
                    column(points.zs, first_partial + step, k)
                };
                for wire in step * factors..routed.min((step + 1) * factors) {
                    let value = column(points.wires, wire, k) + *gamma;
                    before *= value + *beta_x * common.k_is[wire];
                    after *= value + *beta * column(points.sigmas, wire, k);
                }
                terms.push(before - after);
            }
        }
    }
}

/// What is known at some points: by column, then by point.
struct Points<'a> {
    shifted: &'a [F],
    wires: &'a [F],
    sigmas: &'a [F],
    zs: &'a [F],
    next_zs: &'a [F],
}

/// The constraints of all gates, each times its selector's filter: by constraint, then by point. A row has one gate, so they share places.
fn gate_constraints(common: &CommonCircuitData<F, D>, variables: EvaluationVarsBaseBatch<'_, F>) -> Vec<F> {
    let selectors = &common.selectors_info;
    let mut sums = vec![F::ZERO; common.num_gate_constraints * variables.len()];
    for (i, gate) in common.gates.iter().enumerate() {
        let selector = selectors.selector_indices[i];
        let constraints = gate.0.eval_filtered_base_batch(
            variables,
            i,
            selector,
            selectors.groups[selector].clone(),
            selectors.num_selectors(),
            common.num_lookup_selectors,
        );
        for (sum, constraint) in sums.iter_mut().zip(constraints) {
            *sum += constraint;
        }
    }
    sums
}

fn points_in_all(common: &CommonCircuitData<F, D>, quotient_bits: usize) -> usize {
    1 << (common.degree_bits() + quotient_bits)
}
