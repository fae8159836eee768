// Committing to polynomials: interpolation, low-degree extension, Merkle trees.

#pragma once

#include "poseidon.cuh"

// The digests of the rows of a matrix, as leaves of a Merkle tree: leaf i is the row whose number is that of i with its bits reversed.
//
// `columns` holds `width` columns of 2^log_rows elements, one after the other. A column's elements lie by coset: row t * 2^rate_bits + j is at
// j * 2^(log_rows - rate_bits) + t. `digests` gets 4 elements a leaf. A thread has one row: neighbouring threads read neighbouring elements
// of a column.
//
// Reads 8 bytes an element and writes 32 a row; ceil(width / 8) permutations a row, which is the roofline: at 135 columns 17 of them for
// 1.1 kB read.
extern "C" __global__ void HASH_BOUNDS hash_leaves(const u64 *columns, u32 width, u32 log_rows, u32 rate_bits, u64 *digests) {
    const u64 *table = partial_table();
    u64 place = thread_number();
    if (place >> log_rows) return;
    u64 state[WIDTH] = {0};
    // Tells leaves from nodes, and lengths from each other.
    state[RATE] = width + 1;
    for (u32 begin = 0; begin < width; begin += RATE) {
#pragma unroll
        for (u32 i = 0; i < RATE; i++) {
            if (begin + i < width) state[i] = columns[((u64)(begin + i) << log_rows) + place];
        }
        permute(state, table);
    }
    u32 log_coset = log_rows - rate_bits;
    u64 row = ((place & ((1ull << log_coset) - 1)) << rate_bits) | (place >> log_coset);
    write_digest(digests, reverse_bits(row, log_rows), state);
}

// One level of a Merkle tree: `parents[i]` from `children[2 i]` and `children[2 i + 1]`, digests of 4 elements each.
//
// A thread has one parent. Reads 64 bytes and writes 32; one permutation.
extern "C" __global__ void hash_nodes(const u64 *children, u64 *parents, u64 count) {
    const u64 *table = partial_table();
    u64 parent = thread_number();
    if (parent >= count) return;
    u64 state[WIDTH] = {0};
#pragma unroll
    for (int i = 0; i < 2 * DIGEST; i++) state[i] = children[parent * 2 * DIGEST + i];
    permute(state, table);
    write_digest(parents, parent, state);
}

// Of a pass below: so many elements a block keeps in shared memory, at most.
#define PASS_ELEMENTS 4096

// Some layers of a number-theoretic transform, in place: those whose butterflies pair elements that differ in one of `bits` bits of their
// index, from `low_bit` on. As many passes as it takes make the transform; each reads and writes the data once.
//
// With `inverse` the layers go from the highest bit down (decimation in frequency): values in natural order become coefficients in
// bit-reversed order, and the last pass (from bit 0) multiplies by `scale`, which is 1 / 2^log_n. Without it they go up (decimation in
// time): coefficients in bit-reversed order become values in natural order. `roots` has w^i for i < 2^(log_n - 1), of the primitive
// 2^log_n-th root or of its inverse.
//
// Each of gridDim.y transforms has 2^log_n elements, one after the other. A block takes 2^bits elements that a pass connects, for 2^tile_bits
// (at most `low_bit`) neighbours each, so that it reads neighbouring elements together; 2^(bits + tile_bits) is at most PASS_ELEMENTS. It has
// half as many threads, or a multiple of them to share.
//
// 16 bytes moved an element and pass, and bits / 2 products an element: the roofline is the memory's.
extern "C" __global__ void transform_pass(u64 *data, u32 log_n, u32 low_bit, u32 bits, u32 tile_bits, const u64 *roots,
                                          u32 inverse, u64 scale) {
    __shared__ u64 tile[PASS_ELEMENTS];
    u64 *elements = data + ((u64)blockIdx.y << log_n);
    // This block's place: the bits above those of the pass, and those below that are above the tile's.
    u32 tiles_bits = low_bit - tile_bits;
    u64 above = (u64)blockIdx.x >> tiles_bits;
    u64 below = ((u64)blockIdx.x & ((1ull << tiles_bits) - 1)) << tile_bits;
    u64 first = (above << (low_bit + bits)) | below;
    u32 count = 1u << (bits + tile_bits);
    u32 tile_mask = (1u << tile_bits) - 1;
    for (u32 i = threadIdx.x; i < count; i += blockDim.x) {
        tile[i] = canonical(elements[first + ((u64)(i >> tile_bits) << low_bit) + (i & tile_mask)]);
    }
    for (u32 layer = 0; layer < bits; layer++) {
        __syncthreads();
        // The bit within the pass.
        u32 bit = inverse ? bits - 1 - layer : layer;
        for (u32 i = threadIdx.x; i < count / 2; i += blockDim.x) {
            u32 neighbour = i & tile_mask;
            u32 pair = i >> tile_bits;
            u32 lower = pair & ((1u << bit) - 1);
            u32 left = ((((pair >> bit) << (bit + 1)) | lower) << tile_bits) | neighbour;
            u32 right = left + (1u << (bit + tile_bits));
            u64 index = ((u64)lower << low_bit) | below | neighbour;
            u64 root = roots[index << (log_n - 1 - low_bit - bit)];
            u64 a = tile[left], b = tile[right];
            if (inverse) {
                tile[left] = add(a, b);
                tile[right] = canonical(multiply(subtract(a, b), root));
            } else {
                u64 turned = canonical(multiply(b, root));
                tile[left] = add(a, turned);
                tile[right] = subtract(a, turned);
            }
        }
    }
    __syncthreads();
    bool is_last = inverse && low_bit == 0;
    for (u32 i = threadIdx.x; i < count; i += blockDim.x) {
        u64 element = is_last ? canonical(multiply(tile[i], scale)) : tile[i];
        elements[first + ((u64)(i >> tile_bits) << low_bit) + (i & tile_mask)] = element;
    }
}

// Spreads polynomials over cosets: `spread[j][i] = coefficients[i] * powers[j][i]` for each of 2^rate_bits cosets j and 2^log_n coefficients i,
// both in the order of the coefficients. A thread has one element of the result; gridDim.y polynomials lie one after the other, here 2^log_n
// elements each and there 2^(log_n + rate_bits).
//
// Reads 16 bytes and writes 8 an element, one product.
extern "C" __global__ void spread_over_cosets(const u64 *coefficients, u64 *spread, u32 log_n, u32 rate_bits, const u64 *powers) {
    u64 i = thread_number();
    if (i >> (log_n + rate_bits)) return;
    u64 polynomial = blockIdx.y;
    u64 coefficient = coefficients[(polynomial << log_n) + (i & ((1ull << log_n) - 1))];
    spread[(polynomial << (log_n + rate_bits)) + i] = canonical(multiply(coefficient, powers[i]));
}
