// The kernels. Each says what it computes, how its data lies, and what it costs at least.

#include "poseidon.cuh"

DEVICE u64 thread_number() { return (u64)blockIdx.x * blockDim.x + threadIdx.x; }

DEVICE u64 reverse_bits(u64 value, u32 bits) { return bits == 0 ? 0 : __brevll(value) >> (64 - bits); }

DEVICE void write_digest(u64 *digests, u64 place, const u64 state[WIDTH]) {
#pragma unroll
    for (int i = 0; i < DIGEST; i++) digests[place * DIGEST + i] = canonical(state[i]);
}

// The digests of the rows of a matrix, as leaves of a Merkle tree: leaf i is the row whose number is that of i with its bits reversed.
//
// `columns` holds `width` columns, each `stride` elements after the one before; the first 2^log_rows of each count. `digests` gets
// 4 elements a leaf. A thread has one row: neighbouring threads read neighbouring elements of a column.
//
// Reads 8 bytes an element and writes 32 a row; ceil(width / 8) permutations a row, which is the floor: at 135 columns 17 of them for
// 1.1 kB read.
extern "C" __global__ void hash_leaves(const u64 *columns, u64 stride, u32 width, u32 log_rows, u64 *digests) {
    u64 row = thread_number();
    if (row >> log_rows) return;
    u64 state[WIDTH] = {0};
    // Tells leaves from nodes, and lengths from each other.
    state[RATE] = width + 1;
    for (u32 begin = 0; begin < width; begin += RATE) {
#pragma unroll
        for (u32 i = 0; i < RATE; i++) {
            if (begin + i < width) state[i] = columns[(begin + i) * stride + row];
        }
        permute(state);
    }
    write_digest(digests, reverse_bits(row, log_rows), state);
}

// One level of a Merkle tree: `parents[i]` from `children[2 i]` and `children[2 i + 1]`, digests of 4 elements each.
//
// A thread has one parent. Reads 64 bytes and writes 32; one permutation.
extern "C" __global__ void hash_nodes(const u64 *children, u64 *parents, u64 count) {
    u64 parent = thread_number();
    if (parent >= count) return;
    u64 state[WIDTH] = {0};
#pragma unroll
    for (int i = 0; i < 2 * DIGEST; i++) state[i] = children[parent * 2 * DIGEST + i];
    permute(state);
    write_digest(parents, parent, state);
}
