//! The permutation in AVX2: each of twelve registers holds one element of four states.
//!
//! An element is any residue below 2^64. With p = 2^64 - 2^32 + 1 and ε = 2^32 - 1, 2^64 is ε and 2^96 is -1, so that a carry out
//! of 64 bits is put right by adding ε. AVX2 compares signed numbers only: what is compared for a carry has its highest
//! bit flipped before.
//!
//! The round's matrix is circulant with small entries, plus 8 at the first place of its diagonal (the library's
//! `MDS_MATRIX_CIRC` and `MDS_MATRIX_DIAG`). It is multiplied over the integers, for the elements' halves apart, which cannot
//! overflow; and as a product of polynomials modulo x^12 - 1 = (x^3 - 1)(x^3 + 1)(x^6 + 1), where all its coefficients are powers of two.
//! The matrix is cheap so that even the partial rounds, of one S-box each, use it whole: the sparse form of those rounds, which is
//! faster for one state, multiplies by full-width constants. The next round's constants are added before the halves are
//! joined, where they cost no carry.

// Intrinsics that touch memory, and the call of code for a processor that was just found to be there.
#![allow(unsafe_code)]

use super::{LANES, States};
use plonky2::hash::poseidon::{
    ALL_ROUND_CONSTANTS, HALF_N_FULL_ROUNDS, N_PARTIAL_ROUNDS, N_ROUNDS, SPONGE_WIDTH,
};
use std::arch::x86_64::{
    __m256i, _mm256_add_epi64, _mm256_and_si256, _mm256_blend_epi32, _mm256_castps_si256,
    _mm256_castsi256_ps, _mm256_cmpgt_epi64, _mm256_loadu_si256, _mm256_movehdup_ps, _mm256_moveldup_ps,
    _mm256_mul_epu32, _mm256_set1_epi64x, _mm256_slli_epi64, _mm256_srli_epi64, _mm256_storeu_si256,
    _mm256_sub_epi64, _mm256_xor_si256,
};

/// Four 64-bit numbers.
type V = __m256i;

const EPSILON: i64 = 0xffff_ffff;
/// The highest bit: 2^63 to subtract of an unsigned number, so that signed comparisons order it.
const FLIP: i64 = i64::MIN;

/// Permutes four states; false where the processor has no AVX2, and nothing is done.
pub(super) fn permute(states: &mut States) -> bool {
    if !is_x86_feature_detected!("avx2") {
        return false;
    }
    // SAFETY: the processor has AVX2.
    unsafe { permute_vectors(states) };
    true
}

#[target_feature(enable = "avx2")]
fn permute_vectors(states: &mut States) {
    const { assert!(LANES * size_of::<u64>() == size_of::<V>()) };
    // SAFETY: each element's lanes are as many bytes as a register, and the instruction asks for no alignment.
    let mut state = states.each_ref().map(|lanes| unsafe { _mm256_loadu_si256(lanes.as_ptr().cast()) });
    let constants = |round: usize| &ALL_ROUND_CONSTANTS[SPONGE_WIDTH * round..SPONGE_WIDTH * (round + 1)];
    for (element, constant) in state.iter_mut().zip(constants(0)) {
        *element = add_residue(*element, splat(constant.cast_signed()));
    }
    let partial = HALF_N_FULL_ROUNDS..HALF_N_FULL_ROUNDS + N_PARTIAL_ROUNDS;
    for round in 0..N_ROUNDS {
        if partial.contains(&round) {
            state[0] = seventh_power(state[0]);
        } else {
            for element in &mut state {
                *element = seventh_power(*element);
            }
        }
        let next = if round + 1 < N_ROUNDS { constants(round + 1) } else { &[0; SPONGE_WIDTH] };
        state = multiply_by_matrix(&state, next);
    }
    for (lanes, element) in states.iter_mut().zip(state) {
        // SAFETY: as above.
        unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), element) };
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn splat(value: i64) -> V {
    _mm256_set1_epi64x(value)
}

#[inline]
#[target_feature(enable = "avx2")]
fn add(a: V, b: V) -> V {
    _mm256_add_epi64(a, b)
}

#[inline]
#[target_feature(enable = "avx2")]
fn sub(a: V, b: V) -> V {
    _mm256_sub_epi64(a, b)
}

#[inline]
#[target_feature(enable = "avx2")]
fn shl<const BITS: i32>(a: V) -> V {
    _mm256_slli_epi64::<BITS>(a)
}

#[inline]
#[target_feature(enable = "avx2")]
fn shr<const BITS: i32>(a: V) -> V {
    _mm256_srli_epi64::<BITS>(a)
}

#[inline]
#[target_feature(enable = "avx2")]
fn flip(a: V) -> V {
    _mm256_xor_si256(a, splat(FLIP))
}

/// ε where the flipped `small` is more than the flipped `large`, else 0: a carry, or a borrow.
#[inline]
#[target_feature(enable = "avx2")]
fn epsilon_if_above(large: V, small: V) -> V {
    shr::<32>(_mm256_cmpgt_epi64(large, small))
}

/// The upper halves, in the places of the lower; what is above them is left as it is.
#[inline]
#[target_feature(enable = "avx2")]
fn upper(a: V) -> V {
    _mm256_castps_si256(_mm256_movehdup_ps(_mm256_castsi256_ps(a)))
}

/// A residue plus a number below p.
#[inline]
#[target_feature(enable = "avx2")]
fn add_residue(a: V, b: V) -> V {
    let a = flip(a);
    let sum = add(a, b);
    flip(add(sum, epsilon_if_above(a, sum)))
}

/// A residue of `high · 2^64 + low`.
#[inline]
#[target_feature(enable = "avx2")]
fn reduce(high: V, low: V) -> V {
    // high = h · 2^32 + l stands for h · 2^96 + l · 2^64, which is l · ε - h.
    let low = flip(low);
    let less = sub(low, shr::<32>(high));
    let less = sub(less, epsilon_if_above(less, low));
    let sum = add(less, _mm256_mul_epu32(high, splat(EPSILON)));
    flip(add(sum, epsilon_if_above(less, sum)))
}

#[inline]
#[target_feature(enable = "avx2")]
fn multiply(a: V, b: V) -> V {
    let (a_upper, b_upper) = (upper(a), upper(b));
    let lowest = _mm256_mul_epu32(a, b);
    let highest = _mm256_mul_epu32(a_upper, b_upper);
    let middle = add(_mm256_mul_epu32(a_upper, b), shr::<32>(lowest));
    let other = add(_mm256_mul_epu32(a, b_upper), _mm256_and_si256(middle, splat(EPSILON)));
    let high = add(add(highest, shr::<32>(middle)), shr::<32>(other));
    let upper_of_low = _mm256_castps_si256(_mm256_moveldup_ps(_mm256_castsi256_ps(other)));
    reduce(high, _mm256_blend_epi32::<0b1010_1010>(lowest, upper_of_low))
}

#[inline]
#[target_feature(enable = "avx2")]
fn square(a: V) -> V {
    let a_upper = upper(a);
    let lowest = _mm256_mul_epu32(a, a);
    let middle = _mm256_mul_epu32(a, a_upper);
    let highest = _mm256_mul_epu32(a_upper, a_upper);
    // middle counts twice, hence 33 and 31. It is at most (2^32 - 1)^2, and leaves room for what is added.
    let carried = add(middle, shr::<33>(lowest));
    reduce(add(highest, shr::<31>(carried)), add(lowest, shl::<33>(middle)))
}

#[inline]
#[target_feature(enable = "avx2")]
fn seventh_power(a: V) -> V {
    let second = square(a);
    multiply(multiply(second, a), square(second))
}

/// The product of the matrix and a state, plus these constants.
#[inline]
#[target_feature(enable = "avx2")]
fn multiply_by_matrix(state: &[V; SPONGE_WIDTH], constants: &[u64]) -> [V; SPONGE_WIDTH] {
    let mut lower = [splat(0); SPONGE_WIDTH];
    let mut higher = [splat(0); SPONGE_WIDTH];
    for (i, element) in state.iter().enumerate() {
        lower[i] = _mm256_and_si256(*element, splat(EPSILON));
        higher[i] = shr::<32>(*element);
    }
    let (mut low, mut high) = (multiply_by_circulant(&lower), multiply_by_circulant(&higher));
    low[0] = add(low[0], shl::<3>(lower[0]));
    high[0] = add(high[0], shl::<3>(higher[0]));
    let mut product = [splat(0); SPONGE_WIDTH];
    for (i, constant) in constants.iter().enumerate() {
        // Both are below 2^42. high · 2^32 is its lower half, moved up, and its upper half times ε.
        let low = add(low[i], splat((constant & 0xffff_ffff).cast_signed()));
        let high = add(high[i], splat((constant >> 32).cast_signed()));
        let over = shr::<32>(high);
        let rest = sub(add(low, shl::<32>(over)), over);
        let moved = flip(shl::<32>(high));
        let sum = add(moved, rest);
        product[i] = flip(add(sum, epsilon_if_above(moved, sum)));
    }
    product
}

/// The product of the circulant matrix and a vector of numbers below 2^32, over the integers: below 2^40.
///
/// As polynomials modulo x^12 - 1, in x^3 = y: the vector's three interleaved parts are transformed over the fourth roots of unity
/// (y = 1, -1, i), multiplied there by the matrix's transform, and transformed back. The quarters and halves of the way back are in
/// the coefficients.
#[inline]
#[target_feature(enable = "avx2")]
fn multiply_by_circulant(v: &[V; SPONGE_WIDTH]) -> [V; SPONGE_WIDTH] {
    let zero = splat(0);
    let (mut one, mut minus) = ([zero; 3], [zero; 3]);
    let (mut real, mut imaginary) = ([zero; 3], [zero; 3]);
    for b in 0..3 {
        let (even, odd) = (add(v[b], v[b + 6]), add(v[b + 3], v[b + 9]));
        (one[b], minus[b]) = (add(even, odd), sub(even, odd));
        (real[b], imaginary[b]) = (sub(v[b], v[b + 6]), sub(v[b + 3], v[b + 9]));
    }
    // x^3 = 1: times 16 + 32 x + 16 x^2.
    let sum = add(add(one[0], one[1]), one[2]);
    let at_one = [shl::<4>(add(sum, one[2])), shl::<4>(add(sum, one[0])), shl::<4>(add(sum, one[1]))];
    // x^3 = -1: times -1 - 8 x + 2 x^2.
    let [m0, m1, m2] = minus;
    let at_minus = [
        sub(shl::<3>(m2), add(m0, shl::<1>(m1))),
        sub(zero, add(shl::<3>(m0), add(m1, shl::<1>(m2)))),
        sub(shl::<1>(m0), add(shl::<3>(m1), m2)),
    ];
    // x^3 = i: times (2 + i) - (4 + i) x + (16 - i) x^2. `first` and so on are the products with each coefficient.
    let mut first = [(zero, zero); 3];
    let mut second = [(zero, zero); 3];
    let mut third = [(zero, zero); 3];
    for b in 0..3 {
        let (r, i) = (real[b], imaginary[b]);
        first[b] = (sub(shl::<1>(r), i), add(shl::<1>(i), r));
        second[b] = (sub(shl::<2>(r), i), add(shl::<2>(i), r));
        third[b] = (add(shl::<4>(r), i), sub(shl::<4>(i), r));
    }
    // What passes x^3 is turned by i: (r, i) becomes (-i, r).
    let at_i = [
        (add(sub(first[0].0, third[1].1), second[2].1), sub(add(first[0].1, third[1].0), second[2].0)),
        (sub(sub(first[1].0, second[0].0), third[2].1), add(sub(first[1].1, second[0].1), third[2].0)),
        (add(sub(third[0].0, second[1].0), first[2].0), add(sub(third[0].1, second[1].1), first[2].1)),
    ];
    let mut product = [zero; SPONGE_WIDTH];
    for b in 0..3 {
        let (even, odd) = (add(at_one[b], at_minus[b]), sub(at_one[b], at_minus[b]));
        let (r, i) = at_i[b];
        (product[b], product[b + 6]) = (add(even, r), sub(even, r));
        (product[b + 3], product[b + 9]) = (add(odd, i), sub(odd, i));
    }
    product
}
