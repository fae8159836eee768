//! The permutation argument: that wires which are connected have the same value.

use crate::committer::Permutation;
use crate::{C, D, F};
use plonky2::field::types::Field;
use plonky2::plonk::circuit_data::{CommonCircuitData, ProverOnlyCircuitData};
use rayon::prelude::*;

/// Rows whose divisions share one inversion.
const ROWS_TOGETHER: usize = 32;

/// For each challenge the values of Z on the subgroup, and after all of them the partial products, again by challenge: the columns
/// to commit to, in their order.
///
/// Z of the next row is Z of this one times the product, over the routed wires, of `w + β·k·x + γ` through `w + β·σ + γ`. The
/// constraints' degree bounds how many factors a product takes, so the way from one Z to the next is in steps.
pub(crate) fn z_and_partial_products(
    wires: &[Vec<F>],
    challenges: &[Permutation],
    prover_data: &ProverOnlyCircuitData<F, C, D>,
    common: &CommonCircuitData<F, D>,
) -> Vec<Vec<F>> {
    let (mut zs, mut products) = (Vec::new(), Vec::new());
    for challenge in challenges {
        let (z, partial) = of_challenge(wires, challenge, prover_data, common);
        zs.push(z);
        products.extend(partial);
    }
    zs.extend(products);
    zs
}

fn of_challenge(
    wires: &[Vec<F>],
    Permutation { beta, gamma }: &Permutation,
    prover_data: &ProverOnlyCircuitData<F, C, D>,
    common: &CommonCircuitData<F, D>,
) -> (Vec<F>, Vec<Vec<F>>) {
    let routed = common.config.num_routed_wires;
    let factors = common.permutation_partial_product_degree();
    let steps = routed.div_ceil(factors);
    let rows = prover_data.subgroup.len();
    // By row: each step's numerator through its denominator.
    let mut quotients = vec![F::ZERO; rows * steps];
    quotients.par_chunks_mut(ROWS_TOGETHER * steps).enumerate().for_each(|(chunk, quotients)| {
        let mut denominators = Vec::with_capacity(quotients.len());
        for (row, quotients) in (chunk * ROWS_TOGETHER..).zip(quotients.chunks_mut(steps)) {
            let beta_x = *beta * prover_data.subgroup[row];
            let sigmas = &prover_data.sigmas[row];
            for (step, numerator) in quotients.iter_mut().enumerate() {
                let mut denominator = F::ONE;
                *numerator = F::ONE;
                for wire in step * factors..routed.min((step + 1) * factors) {
                    let value = wires[wire][row] + *gamma;
                    *numerator *= value + beta_x * common.k_is[wire];
                    denominator *= value + *beta * sigmas[wire];
                }
                denominators.push(denominator);
            }
        }
        for (quotient, inverse) in quotients.iter_mut().zip(F::batch_multiplicative_inverse(&denominators)) {
            *quotient *= inverse;
        }
    });
    let mut z = Vec::with_capacity(rows);
    let mut products = vec![Vec::with_capacity(rows); steps - 1];
    let mut accumulated = F::ONE;
    for row in quotients.chunks(steps) {
        z.push(accumulated);
        for (step, quotient) in row.iter().enumerate() {
            accumulated *= *quotient;
            // The last is Z of the next row.
            if let Some(product) = products.get_mut(step) {
                product.push(accumulated);
            }
        }
    }
    (z, products)
}
