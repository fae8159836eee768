// What CUDA C++ has and C++ has not, for kernels compiled for the host (emulator.cpp).

#pragma once

#include <stdint.h>

#define __global__
#define __device__
#define __constant__ static const
#define __launch_bounds__(...)
// Blocks run one after the other, so that what a block shares may be static.
#define __shared__ static

struct Place {
    uint32_t x, y, z;
};
extern Place threadIdx, blockIdx, blockDim, gridDim;

// Gives way to the block's other threads until all of them are here.
void __syncthreads();

static inline uint64_t __brevll(uint64_t value) {
    uint64_t reversed = 0;
    for (int i = 0; i < 64; i++) reversed |= ((value >> i) & 1) << (63 - i);
    return reversed;
}

// Threads run one after the other.
static inline unsigned long long atomicMin(unsigned long long *place, unsigned long long value) {
    unsigned long long before = *place;
    if (value < before) *place = value;
    return before;
}
