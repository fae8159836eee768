//! Evaluating and combining polynomials, and encoding one over the extension.

use crate::{Extension, F};
use plonky2::field::extension::quadratic::QuadraticExtension;
use plonky2::field::polynomial::PolynomialCoeffs;
use plonky2::field::types::Field;
use plonky2::util::reverse_index_bits_in_place;
use rayon::prelude::*;

/// Coefficients that a task combines.
const COEFFICIENTS_PER_TASK: usize = 1 << 10;

/// The values of polynomials at a point.
pub(crate) fn evaluate(polynomials: &[PolynomialCoeffs<F>], point: Extension) -> Vec<Extension> {
    let longest = polynomials.iter().map(PolynomialCoeffs::len).max().unwrap_or(0);
    let powers: Vec<Extension> = point.powers().take(longest).collect();
    polynomials
        .par_iter()
        .map(|polynomial| {
            let terms = polynomial.coeffs.iter().zip(&powers);
            terms.map(|(coefficient, power)| scale(*power, *coefficient)).sum()
        })
        .collect()
}

/// `Σ α^i · (p_i(x) - p_i(z)) / (x - z)`, over all points z and the polynomials opened there.
pub(crate) fn combine(
    openings: &[(Extension, Vec<&PolynomialCoeffs<F>>)],
    alpha: Extension,
) -> Vec<Extension> {
    let mut combined: Vec<Extension> = Vec::new();
    for (point, polynomials) in openings {
        let length = polynomials.iter().map(|polynomial| polynomial.len()).max().unwrap_or(0);
        let powers: Vec<Extension> = alpha.powers().take(polynomials.len()).collect();
        let mut sum = vec![Extension::ZERO; length];
        sum.par_chunks_mut(COEFFICIENTS_PER_TASK).enumerate().for_each(|(task, sum)| {
            for (polynomial, power) in polynomials.iter().zip(&powers) {
                let coefficients = &polynomial.coeffs[task * COEFFICIENTS_PER_TASK..];
                for (sum, coefficient) in sum.iter_mut().zip(coefficients) {
                    *sum += scale(*power, *coefficient);
                }
            }
        });
        let quotient = PolynomialCoeffs::new(sum).divide_by_linear(*point);
        let shift = alpha.exp_u64(polynomials.len() as u64);
        combined.resize(length, Extension::ZERO);
        // The quotient is one shorter: there is no remainder to keep.
        let quotient = quotient.coeffs.into_iter().chain(std::iter::repeat(Extension::ZERO));
        for (combined, quotient) in combined.iter_mut().zip(quotient) {
            *combined = *combined * shift + quotient;
        }
    }
    combined
}

/// The values of a polynomial on a coset 2^rate_bits times as large as it is long, in the order of the tree's leaves: by the reversed bits
/// of their places.
///
/// The coset lies in the base field, so the two coordinates are transformed apart.
pub(crate) fn encode(coefficients: &[Extension], rate_bits: usize, shift: F) -> Vec<Extension> {
    let coordinate = |i: usize| {
        let own: Vec<F> = coefficients.iter().map(|coefficient| coefficient.0[i]).collect();
        PolynomialCoeffs::new(own).lde(rate_bits).coset_fft_with_options(shift, Some(rate_bits), None).values
    };
    let (first, second) = rayon::join(|| coordinate(0), || coordinate(1));
    let mut values: Vec<Extension> =
        first.into_iter().zip(second).map(|(a, b)| QuadraticExtension([a, b])).collect();
    reverse_index_bits_in_place(&mut values);
    values
}

fn scale(element: Extension, factor: F) -> Extension {
    QuadraticExtension(element.0.map(|coordinate| coordinate * factor))
}
