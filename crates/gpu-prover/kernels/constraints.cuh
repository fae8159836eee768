// All constraints of a circuit at the points of a coset, mixed, through the polynomial that vanishes on its rows.

#pragma once

#include "gates.cuh"

// What `constraints` reads and writes.
struct Quotient {
    // On the whole coset, by column: constants (selectors first) and sigmas; wires; Z of each challenge, then partial products.
    const u64 *fixed, *wires, *zs;
    // For each alpha 2^(log_n + quotient_bits) values, by coset.
    u64 *mixed;
    // For each alpha its powers, one a term.
    const u64 *alphas;
    const u64 *ks, *roots;
    // For each of the 2^quotient_bits cosets: its shift, what the vanishing polynomial is there, and that one's inverse.
    const u64 *cosets;
    const Gate *gates;
    const u64 *tables;
    u64 public_inputs_hash[4];
    u64 betas[CHALLENGES], gammas[CHALLENGES];
    u32 log_n, rate_bits, quotient_bits;
    // Columns of `fixed` before the sigmas, and how many of them are selectors.
    u32 constants, selectors;
    u32 routed, factors, partials;
    u32 gate_count, terms;
};

// Its value is not zero on the rows of this gate alone. 2^32 - 1 is a selector's value on rows of other groups.
DEVICE u64 filter(const Gate &gate, u64 selector, bool has_others) {
    u64 result = has_others ? subtract(0xffffffffull, selector) : 1;
    for (u64 row = gate.group_begin; row < gate.group_end; row++) {
        if (row != gate.row) result = product(result, subtract(row, selector));
    }
    return result;
}

// For each alpha the sum of alpha^i times the i-th constraint, through the vanishing polynomial. The constraints: that each Z starts at
// one; that each product is the one before it times its factors; those of the gates, each times its gate's filter.
//
// A thread has one point. What it costs is its gates' products; it reads each column at least once, 8 bytes a point.
extern "C" __global__ void constraints(Quotient q) {
    const u64 *partial = partial_table();
    u64 place = thread_number();
    if (place >> (q.log_n + q.quotient_bits)) return;
    u32 log_all = q.log_n + q.rate_bits;
    u64 coset = place >> q.log_n, mask = (1ull << q.log_n) - 1, t = place & mask;
    // The commitments may have more cosets than these.
    u64 begin = coset << (q.rate_bits - q.quotient_bits) << q.log_n;
    u64 here = begin + t, next = begin + ((t + 1) & mask);
    u64 x = product(q.cosets[3 * coset], power_of_root(q.roots, q.log_n, t));
    u64 vanishing = q.cosets[3 * coset + 1];
    const u64 *sigmas = q.fixed + ((u64)q.constants << log_all) + here;
    const u64 *zs = q.zs + here;
    Point point = {q.wires + here, q.fixed + ((u64)q.selectors << log_all) + here, q.public_inputs_hash, log_all};

    Mix mix = {q.alphas, q.terms, 0, {0}};
    u64 first_row = product(vanishing, inverse(product(1ull << q.log_n, subtract(x, 1))));
    for (u32 c = 0; c < CHALLENGES; c++) emit(mix, product(first_row, subtract(zs[(u64)c << log_all], 1)));
    for (u32 c = 0; c < CHALLENGES; c++) {
        u64 beta = q.betas[c], beta_x = product(beta, x);
        u64 before = zs[(u64)c << log_all];
        for (u32 step = 0; step <= q.partials; step++) {
            u64 after = step == q.partials ? q.zs[((u64)c << log_all) + next]
                                           : zs[(u64)(CHALLENGES + c * q.partials + step) << log_all];
            u64 left = before, right = after;
            for (u32 w = step * q.factors; w < q.routed && w < (step + 1) * q.factors; w++) {
                u64 value = add(wire(point, w), q.gammas[c]);
                left = product(left, add(value, product(beta_x, q.ks[w])));
                right = product(right, add(value, product(beta, sigmas[(u64)w << log_all])));
            }
            emit(mix, subtract(left, right));
            before = after;
        }
    }
    for (u32 i = 0; i < q.gate_count; i++) {
        const Gate &gate = q.gates[i];
        Mix own = {q.alphas, q.terms, mix.at, {0}};
        evaluate_gate(gate, q.tables, partial, point, own);
        u64 selector = q.fixed[(gate.selector << log_all) + here];
        u64 factor = filter(gate, selector, q.selectors > 1);
        for (u32 c = 0; c < CHALLENGES; c++) mix.sums[c] = add(mix.sums[c], product(factor, own.sums[c]));
    }
    for (u32 c = 0; c < CHALLENGES; c++) {
        q.mixed[((u64)c << (q.log_n + q.quotient_bits)) + place] = product(mix.sums[c], q.cosets[3 * coset + 2]);
    }
}

// The pieces of polynomials of degree below 2^(log_n + coset_bits), each 2^log_n coefficients, from their interpolations on cosets. With r_j
// that on coset j, of shift g_j: its i-th coefficient is the sum over k of g_j^i * (g_j^n)^k times the i-th of piece k. So
// piece k has as its i-th the sum over j of matrix[k][j] * g_j^-i times the i-th of r_j.
//
// `interpolated` and `pieces` have the 2^coset_bits (at most MOST_COSETS) of each of gridDim.y polynomials one after the other;
// `inverse_powers` has g_j^-i, in the order of the coefficients. A thread has one place of all pieces.
//
// Reads 16 bytes and writes 8 an element; 2^coset_bits + 1 products.
#define MOST_COSETS 16
extern "C" __global__ void join_cosets(const u64 *interpolated, u64 *pieces, u32 log_n, u32 coset_bits, const u64 *inverse_powers,
                                       const u64 *matrix) {
    u64 i = thread_number();
    if (i >> log_n) return;
    u64 first = ((u64)blockIdx.y << (log_n + coset_bits)) + i;
    u32 cosets = 1u << coset_bits;
    u64 own[MOST_COSETS];
    for (u32 j = 0; j < cosets; j++) {
        own[j] = product(interpolated[first + ((u64)j << log_n)], inverse_powers[((u64)j << log_n) + i]);
    }
    for (u32 k = 0; k < cosets; k++) {
        u64 sum = 0;
        for (u32 j = 0; j < cosets; j++) sum = add(sum, product(matrix[k * cosets + j], own[j]));
        pieces[first + ((u64)k << log_n)] = sum;
    }
}
