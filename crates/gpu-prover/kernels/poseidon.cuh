// Poseidon of width 12 over Goldilocks: 4 full rounds, 22 partial ones, 4 full ones; the S-box is the seventh power.
//
// The matrix is circulant with small entries, plus 8 at the first place of its diagonal. It is multiplied over the integers, for the
// elements' halves apart: twelve products of 32 and 6 bits are below 2^42. The next round's constants are added before the halves are
// joined, where they cost no carry.
//
// A permutation is 118 S-boxes of 4 products each, and 30 matrices of 288 products of 32 bits.

#pragma once

#include "goldilocks.cuh"

#define WIDTH 12
#define RATE 8
#define DIGEST 4
#define FULL_ROUNDS_AT_EACH_END 4
#define ROUNDS 30

#include "poseidon_constants.inc"

// The next round's constants; none after the last.
DEVICE u64 constant_of_round(int round, int i) { return round < ROUNDS ? ROUND_CONSTANTS[round * WIDTH + i] : 0; }

DEVICE void multiply_by_matrix(u64 state[WIDTH], int next_round) {
    const u32 circulant[WIDTH] = {17, 15, 41, 16, 2, 28, 13, 13, 39, 18, 34, 20};
    u32 low[WIDTH], high[WIDTH];
#pragma unroll
    for (int i = 0; i < WIDTH; i++) {
        low[i] = (u32)state[i];
        high[i] = (u32)(state[i] >> 32);
    }
#pragma unroll
    for (int row = 0; row < WIDTH; row++) {
        u64 constant = constant_of_round(next_round, row);
        u64 lows = (u32)constant;
        u64 highs = constant >> 32;
#pragma unroll
        for (int i = 0; i < WIDTH; i++) {
            lows += (u64)low[(row + i) % WIDTH] * circulant[i];
            highs += (u64)high[(row + i) % WIDTH] * circulant[i];
        }
        if (row == 0) {
            lows += (u64)low[0] * 8;
            highs += (u64)high[0] * 8;
        }
        // highs * 2^32: its lower half moved up, and its upper half times 2^64, which is 2^32 - 1.
        u64 over = highs >> 32;
        u64 rest = lows + (over << 32) - over;
        u64 sum = (highs << 32) + rest;
        state[row] = sum < rest ? sum + EPSILON : sum;
    }
}

DEVICE void add_first_constants(u64 state[WIDTH]) {
#pragma unroll
    for (int i = 0; i < WIDTH; i++) {
        u64 constant = ROUND_CONSTANTS[i];
        u64 sum = state[i] + constant;
        state[i] = sum < constant ? sum + EPSILON : sum;
    }
}

DEVICE void permute(u64 state[WIDTH]) {
    add_first_constants(state);
    for (int round = 0; round < ROUNDS; round++) {
        bool is_full = round < FULL_ROUNDS_AT_EACH_END || round >= ROUNDS - FULL_ROUNDS_AT_EACH_END;
        state[0] = seventh_power(state[0]);
        if (is_full) {
#pragma unroll
            for (int i = 1; i < WIDTH; i++) state[i] = seventh_power(state[i]);
        }
        multiply_by_matrix(state, round + 1);
    }
}

DEVICE void write_digest(u64 *digests, u64 place, const u64 state[WIDTH]) {
#pragma unroll
    for (int i = 0; i < DIGEST; i++) digests[place * DIGEST + i] = canonical(state[i]);
}
