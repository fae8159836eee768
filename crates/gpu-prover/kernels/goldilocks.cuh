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

// Canonical.
DEVICE u64 product(u64 a, u64 b) { return canonical(multiply(a, b)); }

DEVICE u64 power(u64 base, u64 exponent) {
    u64 result = 1;
    for (; exponent; exponent >>= 1) {
        if (exponent & 1) result = product(result, base);
        base = product(base, base);
    }
    return result;
}

DEVICE u64 squared(u64 a, u32 times) {
    for (u32 i = 0; i < times; i++) a = multiply(a, a);
    return a;
}

// Of zero, zero. The exponent p - 2 is 31 ones, a zero and 32 ones in binary; each value here is a power whose exponent has so many ones.
DEVICE u64 inverse(u64 a) {
    u64 two = multiply(squared(a, 1), a);
    u64 three = multiply(squared(two, 1), a);
    u64 six = multiply(squared(three, 3), three);
    u64 twelve = multiply(squared(six, 6), six);
    u64 twenty_four = multiply(squared(twelve, 12), twelve);
    u64 thirty = multiply(squared(twenty_four, 6), six);
    u64 thirty_one = multiply(squared(thirty, 1), a);
    u64 twice = multiply(squared(thirty_one, 32), thirty_one);
    return product(squared(twice, 1), a);
}

// The i-th power of a primitive 2^log_n-th root of unity, of a table of the powers below 2^(log_n - 1).
DEVICE u64 power_of_root(const u64 *roots, u32 log_n, u64 i) {
    u64 half = (1ull << log_n) >> 1;
    return i < half || log_n == 0 ? roots[i] : ORDER - roots[i - half];
}

// Of the quadratic extension: a + b * X, with X^2 = 7. Canonical.
struct Extension {
    u64 a, b;
};

DEVICE Extension add(Extension x, Extension y) { return {add(x.a, y.a), add(x.b, y.b)}; }

DEVICE Extension subtract(Extension x, Extension y) { return {subtract(x.a, y.a), subtract(x.b, y.b)}; }

DEVICE Extension scale(Extension x, u64 factor) { return {product(x.a, factor), product(x.b, factor)}; }

DEVICE Extension multiply(Extension x, Extension y) {
    u64 seven = product(product(x.b, y.b), 7);
    return {add(product(x.a, y.a), seven), add(product(x.a, y.b), product(x.b, y.a))};
}

// (a - b * X) / (a^2 - 7 * b^2).
DEVICE Extension inverse(Extension x) {
    u64 norm = subtract(product(x.a, x.a), product(product(x.b, x.b), 7));
    return scale({x.a, subtract(0, x.b)}, inverse(norm));
}

DEVICE u64 thread_number() { return (u64)blockIdx.x * blockDim.x + threadIdx.x; }

DEVICE u64 reverse_bits(u64 value, u32 bits) { return bits == 0 ? 0 : __brevll(value) >> (64 - bits); }
