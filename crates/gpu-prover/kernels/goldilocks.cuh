// The field of p = 2^64 - 2^32 + 1. An element is any residue below 2^64; `canonical` makes it the one below p.
//
// With e = 2^32 - 1, 2^64 is e and 2^96 is -1: a carry out of 64 bits is put right by adding e, a borrow by subtracting it.

#pragma once

#include <stdint.h>

#ifdef __CUDACC__
#define DEVICE __device__ __forceinline__
#else
#include "emulation.h"
#define DEVICE static inline
#endif

typedef uint64_t u64;
typedef uint32_t u32;

#define EPSILON 0xffffffffull
#define ORDER 0xffffffff00000001ull

DEVICE u64 canonical(u64 a) { return a >= ORDER ? a - ORDER : a; }

// A residue of high * 2^64 + low.
DEVICE u64 reduce(u64 high, u64 low) {
    u64 less = low - (high >> 32);
    // After a borrow `less` is at least 2^64 - 2^32, so that there is no second one.
    if (low < (high >> 32)) less -= EPSILON;
    u64 more = (high & EPSILON) * EPSILON;
    u64 sum = less + more;
    // `more` is below p, so that there is no second carry.
    if (sum < more) sum += EPSILON;
    return sum;
}

// Of canonical elements, canonical.
DEVICE u64 add(u64 a, u64 b) {
    u64 sum = a + b;
    return sum < a ? sum + EPSILON : canonical(sum);
}

// Of canonical elements, canonical.
DEVICE u64 subtract(u64 a, u64 b) { return a >= b ? a - b : a + (ORDER - b); }

DEVICE u64 multiply(u64 a, u64 b) { return reduce(__umul64hi(a, b), a * b); }

DEVICE u64 seventh_power(u64 a) {
    u64 second = multiply(a, a);
    return multiply(multiply(second, a), multiply(second, second));
}
