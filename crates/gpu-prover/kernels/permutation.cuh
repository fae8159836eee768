// The permutation argument's columns: Z and the partial products.

#pragma once

#include "goldilocks.cuh"

// Products of a row's wires, at most.
#define MOST_STEPS 64
// Of a scan's block: its threads, and what each takes.
#define SCAN_THREADS 256
#define SCAN_ELEMENTS 4

// Each row's quotients: for each of `steps` groups of `factors` among the first `routed` wires, the product of w + beta * k * x + gamma
// through that of w + beta * sigma + gamma. A thread has one row, and inverts once. `quotients` gets them row after row.
//
// Reads 16 bytes a routed wire and row, writes 8 a step; 6 products a wire, 3 a step, 73 a row.
extern "C" __global__ void permutation_quotients(const u64 *wires, const u64 *sigmas, const u64 *ks, const u64 *roots, u32 log_n,
                                                 u32 routed, u32 factors, u32 steps, u64 beta, u64 gamma, u64 *quotients) {
    u64 row = thread_number();
    if (row >> log_n) return;
    u64 beta_x = product(beta, power_of_root(roots, log_n, row));
    u64 *own = quotients + row * steps;
    // The product of the denominators of the steps before.
    u64 before[MOST_STEPS];
    u64 denominators[MOST_STEPS];
    u64 all = 1;
    for (u32 step = 0; step < steps; step++) {
        u64 numerator = 1, denominator = 1;
        for (u32 wire = step * factors; wire < routed && wire < (step + 1) * factors; wire++) {
            u64 place = ((u64)wire << log_n) + row;
            u64 value = add(wires[place], gamma);
            numerator = product(numerator, add(value, product(beta_x, ks[wire])));
            denominator = product(denominator, add(value, product(beta, sigmas[place])));
        }
        own[step] = numerator;
        before[step] = all;
        denominators[step] = denominator;
        all = product(all, denominator);
    }
    u64 inverted = inverse(all);
    for (u32 step = steps; step-- > 0;) {
        own[step] = product(own[step], product(before[step], inverted));
        inverted = product(inverted, denominators[step]);
    }
}

// Running products, in place, within blocks of SCAN_THREADS * SCAN_ELEMENTS; `totals` gets each block's product.
//
// Reads and writes 8 bytes an element. A thread has SCAN_ELEMENTS neighbours.
extern "C" __global__ void scan_blocks(u64 *elements, u64 count, u64 *totals) {
    __shared__ u64 products[SCAN_THREADS];
    u64 first = ((u64)blockIdx.x * SCAN_THREADS + threadIdx.x) * SCAN_ELEMENTS;
    u64 own[SCAN_ELEMENTS];
    u64 total = 1;
    for (u32 i = 0; i < SCAN_ELEMENTS; i++) {
        if (first + i < count) total = product(total, elements[first + i]);
        own[i] = total;
    }
    products[threadIdx.x] = total;
    for (u32 distance = 1; distance < SCAN_THREADS; distance *= 2) {
        __syncthreads();
        u64 other = threadIdx.x >= distance ? products[threadIdx.x - distance] : 1;
        __syncthreads();
        products[threadIdx.x] = product(products[threadIdx.x], other);
    }
    __syncthreads();
    u64 before = threadIdx.x == 0 ? 1 : products[threadIdx.x - 1];
    for (u32 i = 0; i < SCAN_ELEMENTS; i++) {
        if (first + i < count) elements[first + i] = product(own[i], before);
    }
    if (threadIdx.x == SCAN_THREADS - 1) totals[blockIdx.x] = products[threadIdx.x];
}

// Multiplies each block of `scan_blocks`, but the first, by the running product of the blocks before it.
extern "C" __global__ void scan_apply(u64 *elements, u64 count, const u64 *totals) {
    u64 i = thread_number();
    u64 block = i / (SCAN_THREADS * SCAN_ELEMENTS);
    if (i >= count || block == 0) return;
    elements[i] = product(elements[i], totals[block - 1]);
}

// One challenge's columns, of the running products of `permutation_quotients`: Z is the product of all rows before; the partial products are
// what a row's own steps, but the last, make of it. `z` and `partials` (steps - 1 columns) have 2^log_n rows. A thread has one row.
extern "C" __global__ void permutation_columns(const u64 *running, u32 log_n, u32 steps, u64 *z, u64 *partials) {
    u64 row = thread_number();
    if (row >> log_n) return;
    z[row] = row == 0 ? 1 : running[row * steps - 1];
    for (u32 step = 0; step + 1 < steps; step++) partials[((u64)step << log_n) + row] = running[row * steps + step];
}
