// Opening polynomials, and proving that what was opened is of low degree.

#pragma once

#include "poseidon.cuh"

// Threads of a block that sums.
#define SUM_THREADS 256

// The powers of a point of the extension, z^i for i below 2^log_n, in bit-reversed order: two columns.
//
// Writes 16 bytes an element; at most 10 * log_n products.
extern "C" __global__ void powers_of_point(u64 point_a, u64 point_b, u32 log_n, u64 *powers) {
    u64 i = thread_number();
    if (i >> log_n) return;
    Extension square = {point_a, point_b}, result = {1, 0};
    for (u32 bit = log_n; bit-- > 0;) {
        if ((i >> bit) & 1) result = multiply(result, square);
        square = multiply(square, square);
    }
    powers[i] = result.a;
    powers[(1ull << log_n) + i] = result.b;
}

// The values of polynomials at a point, of whose powers `powers` are: `values` gets a pair for each of gridDim.x polynomials. A block of
// SUM_THREADS has one.
//
// Reads 8 bytes a coefficient, and the powers, which all blocks share; 2 products a coefficient.
extern "C" __global__ void evaluate(const u64 *coefficients, u32 log_n, const u64 *powers, u64 *values) {
    __shared__ Extension sums[SUM_THREADS];
    u64 count = 1ull << log_n;
    const u64 *own = coefficients + ((u64)blockIdx.x << log_n);
    Extension sum = {0, 0};
    for (u64 i = threadIdx.x; i < count; i += SUM_THREADS) {
        sum = add(sum, scale(Extension{powers[i], powers[count + i]}, own[i]));
    }
    sums[threadIdx.x] = sum;
    for (u32 half = SUM_THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) sums[threadIdx.x] = add(sums[threadIdx.x], sums[threadIdx.x + half]);
    }
    if (threadIdx.x == 0) {
        values[2 * (u64)blockIdx.x] = sums[0].a;
        values[2 * (u64)blockIdx.x + 1] = sums[0].b;
    }
}

// Adds up `width` polynomials, each times its factor (`factors`: pairs). A thread has one coefficient of the sum, two columns, which begins at
// zero when `is_first`.
//
// Reads 8 bytes a coefficient, and 2 products.
extern "C" __global__ void combine(const u64 *coefficients, u32 log_n, u32 width, const u64 *factors, u32 is_first, u64 *sum) {
    u64 i = thread_number();
    if (i >> log_n) return;
    u64 count = 1ull << log_n;
    Extension own = {0, 0};
    if (!is_first) own = {sum[i], sum[count + i]};
    for (u32 column = 0; column < width; column++) {
        Extension factor = {factors[2 * column], factors[2 * column + 1]};
        own = add(own, scale(factor, coefficients[((u64)column << log_n) + i]));
    }
    sum[i] = own.a;
    sum[count + i] = own.b;
}

// What an opening at z adds to the codeword: (P(x) - P(z)) / (x - z), after what was there before times `shift`; zero was when `is_first`.
struct Opening {
    // P on the coset, by coset, two columns; the codeword, in natural order, two columns.
    const u64 *values;
    u64 *codeword;
    const u64 *roots;
    // Each coset's shift.
    const u64 *shifts;
    Extension point, value, shift;
    u32 log_n, rate_bits, is_first;
};

// A thread has one point. Reads 32 bytes and writes 16; some 90 products, most of them those of the inverse.
extern "C" __global__ void divide_opening(Opening o) {
    u64 place = thread_number();
    u32 log_all = o.log_n + o.rate_bits;
    if (place >> log_all) return;
    u64 coset = place >> o.log_n, t = place & ((1ull << o.log_n) - 1);
    u64 x = product(o.shifts[coset], power_of_root(o.roots, o.log_n, t));
    Extension own = subtract({o.values[place], o.values[(1ull << log_all) + place]}, o.value);
    own = multiply(own, inverse(subtract({x, 0}, o.point)));
    u64 natural = (t << o.rate_bits) | coset;
    u64 *a = o.codeword + natural, *b = a + (1ull << log_all);
    if (!o.is_first) own = add(own, multiply(Extension{*a, *b}, o.shift));
    *a = own.a;
    *b = own.b;
}

// The digests of a codeword's leaves: 2^arity_bits neighbours by the reversed bits of their places, which are every so many-th by their
// places. `codeword` has 2^log_n elements in natural order, two columns. A thread has one leaf.
//
// Reads 16 bytes an element and writes 32 a leaf; ceil(2^arity_bits / 4) permutations a leaf.
extern "C" __global__ void HASH_BOUNDS hash_codeword(const u64 *codeword, u32 log_n, u32 arity_bits, u64 *digests) {
    const u64 *table = partial_table();
    u32 log_leaves = log_n - arity_bits;
    u64 leaf = thread_number();
    if (leaf >> log_leaves) return;
    u64 state[WIDTH] = {0};
    u32 width = 2u << arity_bits;
    state[RATE] = width + 1;
    for (u32 begin = 0; begin < width; begin += RATE) {
#pragma unroll
        for (u32 i = 0; i < RATE; i++) {
            u32 element = begin + i;
            u64 place = (reverse_bits(element >> 1, arity_bits) << log_leaves) + leaf;
            if (element < width) state[i] = codeword[((u64)(element & 1) << log_n) + place];
        }
        permute(state, table);
    }
    write_digest(digests, reverse_bits(leaf, log_leaves), state);
}

// Folds a codeword: of P(x) = sum of x^i * P_i(x^arity), known on a coset, makes the sum of beta^i * P_i(x) on the coset's powers.
//
// On arity points x * w^m, with w a primitive root of order arity, the inverse transform of P's values has x^i * P_i(x^arity) as its i-th. So the
// result is the sum over m of P(x * w^m) times 1 / arity times that over i of (beta / x * w^-m)^i. `inverse_roots` has w^-m. A thread
// has one element of the result. Both codewords are in natural order, two columns.
//
// Reads 16 bytes an element and writes 16 a result; 5 * arity^2 products a result.
extern "C" __global__ void fold(const u64 *codeword, u32 log_n, u32 arity_bits, u64 beta_a, u64 beta_b, u64 inverse_shift,
                                u64 inverse_generator, u64 inverse_arity, const u64 *inverse_roots, u64 *folded) {
    u32 log_folded = log_n - arity_bits, arity = 1u << arity_bits;
    u64 i = thread_number();
    if (i >> log_folded) return;
    u64 inverse_x = product(inverse_shift, power(inverse_generator, i));
    Extension ratio = scale(Extension{beta_a, beta_b}, inverse_x);
    Extension sum = {0, 0};
    for (u32 m = 0; m < arity; m++) {
        Extension step = scale(ratio, inverse_roots[m]), weight = {1, 0};
        for (u32 k = 1; k < arity; k++) weight = add(multiply(weight, step), {1, 0});
        u64 place = ((u64)m << log_folded) + i;
        sum = add(sum, multiply(weight, {codeword[place], codeword[(1ull << log_n) + place]}));
    }
    sum = scale(sum, inverse_arity);
    folded[i] = sum.a;
    folded[(1ull << log_folded) + i] = sum.b;
}

// Looks for a proof of work: tries `first` and those after it, one a thread, each at `place` of the state. `found` gets the smallest that makes
// the last element of the permuted state's rate one with `bits` leading zeros. One permutation each; what comes after a smaller one is not
// tried.
extern "C" __global__ void work(const u64 *start, u32 place, u32 bits, u64 first, u64 *found) {
    const u64 *table = partial_table();
    u64 candidate = first + thread_number();
    if (candidate >= *(volatile const u64 *)found) return;
    u64 state[WIDTH];
#pragma unroll
    for (u32 i = 0; i < WIDTH; i++) state[i] = i == place ? candidate : start[i];
    permute(state, table);
    u64 challenge = canonical(state[RATE - 1]);
    if (bits == 0 || challenge >> (64 - bits) == 0) atomicMin((unsigned long long *)found, (unsigned long long)candidate);
}

// Elements by their places.
extern "C" __global__ void gather(const u64 *elements, const u64 *places, u64 count, u64 *gathered) {
    u64 i = thread_number();
    if (i < count) gathered[i] = elements[places[i]];
}
