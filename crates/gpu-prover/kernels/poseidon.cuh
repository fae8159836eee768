// Poseidon of width 12 over Goldilocks: 4 full rounds, 22 partial ones, 4 full ones; the S-box is the seventh power.
//
// A full round's matrix is circulant with small entries, plus 8 at the first place of its diagonal. It is multiplied over the integers, for
// the elements' halves apart: twelve products of 32 and 6 bits are below 2^42. The next round's constants are added before the halves are
// joined, where they cost no carry.
//
// The partial rounds are those of the paper's appendix B: what of a round's matrix leaves the first element alone moves before the round's
// S-box, through all rounds up to the first. There it is one dense matrix; each round keeps a row, a column and one constant.
//
// Products of 32 bits: 118 S-boxes of four of 64 bits each, 8 matrices of 288, and 121 + 22 * 23 products of 64 bits in the partial rounds.

#pragma once

#include "goldilocks.cuh"

// Of kernels that permute in a loop: their blocks' threads, and so many blocks a multiprocessor, which leaves each 102 registers.
#define HASH_BOUNDS __launch_bounds__(128, 5)

#define WIDTH 12
#define RATE 8
#define DIGEST 4
#define FULL_ROUNDS_AT_EACH_END 4
#define PARTIAL_ROUNDS 22
// Elements of the table of the partial rounds: of each round, padded to 16 bytes, and with the matrix before them.
#define PARTIAL_ROUND_ELEMENTS (2 * WIDTH)
#define PARTIAL_ELEMENTS (PARTIAL_ROUNDS * PARTIAL_ROUND_ELEMENTS + (WIDTH - 1) * (WIDTH - 1))

#include "poseidon_constants.inc"

// Multiplies by a full round's matrix, and adds constants.
DEVICE void multiply_by_matrix(u64 state[WIDTH], const u64 *constants) {
    const u32 circulant[WIDTH] = {17, 15, 41, 16, 2, 28, 13, 13, 39, 18, 34, 20};
    u32 low[WIDTH], high[WIDTH];
#pragma unroll
    for (int i = 0; i < WIDTH; i++) {
        low[i] = (u32)state[i];
        high[i] = (u32)(state[i] >> 32);
    }
#pragma unroll
    for (int row = 0; row < WIDTH; row++) {
        u64 lows = (u32)constants[row];
        u64 highs = constants[row] >> 32;
#pragma unroll
        for (int i = 0; i < WIDTH; i++) {
            u32 entry = circulant[i] + (row == 0 && i == 0 ? 8 : 0);
            lows += (u64)low[(row + i) % WIDTH] * entry;
            highs += (u64)high[(row + i) % WIDTH] * entry;
        }
        state[row] = join(highs, lows);
    }
}

// Of any residue and a canonical one, any residue.
DEVICE u64 add_constant(u64 a, u64 constant) {
    u64 sum = a + constant;
    return sum < constant ? sum + EPSILON : sum;
}

DEVICE void add_constants(u64 state[WIDTH], const u64 *constants) {
#pragma unroll
    for (int i = 0; i < WIDTH; i++) state[i] = add_constant(state[i], constants[i]);
}

// Full rounds from this one on, whose constants are added already. `constants` has those of each next round.
DEVICE void full_rounds(u64 state[WIDTH], const u64 *constants) {
    for (int round = 0; round < FULL_ROUNDS_AT_EACH_END; round++) {
#pragma unroll
        for (int i = 0; i < WIDTH; i++) state[i] = seventh_power(state[i]);
        multiply_by_matrix(state, constants + round * WIDTH);
    }
}

// The table of the partial rounds, in memory that a block shares: every warp reads all of it at each permutation, and it is larger than what
// a multiprocessor keeps of constants. To be called by all threads of a block, at a kernel's beginning.
DEVICE const u64 *partial_table() {
#ifdef __CUDA_ARCH__
    __shared__ __align__(16) u64 table[PARTIAL_ELEMENTS];
    for (u32 i = threadIdx.x; i < PARTIAL_ELEMENTS; i += blockDim.x) table[i] = PARTIAL_TABLE[i];
    __syncthreads();
    return table;
#else
    return PARTIAL_TABLE;
#endif
}

// What of the partial rounds' matrices comes before the first of them. The rows of its matrix are at the table's end.
DEVICE void begin_partial_rounds(u64 state[WIDTH], const u64 *table) {
    const u64 *matrix = table + PARTIAL_ROUNDS * PARTIAL_ROUND_ELEMENTS;
    u64 moved[WIDTH];
#pragma unroll
    for (int row = 1; row < WIDTH; row++) {
        Sum sum;
#pragma unroll
        for (int i = 1; i < WIDTH; i++) add_product(sum, state[i], matrix[(row - 1) * (WIDTH - 1) + i - 1]);
        moved[row] = residue(sum);
    }
#pragma unroll
    for (int i = 1; i < WIDTH; i++) state[i] = moved[i];
}

// The table has of each round the elements of its row and of its column in turn, and then its constant.
DEVICE void partial_round(u64 state[WIDTH], const u64 *table, int round) {
    const u64 *own = table + round * PARTIAL_ROUND_ELEMENTS;
    u64 first = add_constant(seventh_power(state[0]), own[2 * (WIDTH - 1)]);
    Sum sum;
    add_product(sum, first, PARTIAL_CORNER);
#pragma unroll
    for (int i = 1; i < WIDTH; i++) {
        u64 of_row = own[2 * (i - 1)], of_column = own[2 * (i - 1) + 1];
        add_product(sum, state[i], of_row);
        state[i] = multiply_add(first, of_column, state[i]);
    }
    state[0] = residue(sum);
}

DEVICE void permute(u64 state[WIDTH], const u64 *table) {
    // Else the compiler reads the table before a loop over permutations, into registers.
    asm volatile("" ::: "memory");
    add_constants(state, FIRST_CONSTANTS);
    full_rounds(state, FIRST_CONSTANTS + WIDTH);
    begin_partial_rounds(state, table);
    for (int round = 0; round < PARTIAL_ROUNDS; round++) partial_round(state, table, round);
    add_constants(state, LAST_CONSTANTS);
    full_rounds(state, LAST_CONSTANTS + WIDTH);
}

DEVICE void write_digest(u64 *digests, u64 place, const u64 state[WIDTH]) {
#pragma unroll
    for (int i = 0; i < DIGEST; i++) digests[place * DIGEST + i] = canonical(state[i]);
}
