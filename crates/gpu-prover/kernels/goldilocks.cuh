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

DEVICE u64 canonical(u64 a) {
    // Only the elements from p on have these upper bits and lower ones.
    u32 high = (u32)(a >> 32), low = (u32)a;
    bool is_over = high == 0xffffffffu && low != 0;
    return (u64)(is_over ? 0 : high) << 32 | (is_over ? low - 1 : low);
}

// A residue of over * 2^128 + high * 2^64 + low, for `over` up to 64. With high's halves h and l that is low + 2^32 * l - l - h - 2^32 * over.
DEVICE u64 reduce(u32 over, u64 high, u64 low) {
#ifdef __CUDA_ARCH__
    u64 result;
    // In chains of carries, which C++ has no words for. `c` counts what is carried beyond 64 bits, -1, 0 or 1, which is put right by
    // adding as many 2^32 - 1; that carries no more.
    asm("{\n"
        ".reg .u32 r0, r1, l, h, s0, s1, c, d;\n"
        "mov.b64 {r0, r1}, %1;\n"
        "mov.b64 {l, h}, %2;\n"
        "add.cc.u32 s0, l, h;\n"
        "addc.u32 s1, %3, 0;\n"
        "sub.cc.u32 r0, r0, s0;\n"
        "subc.cc.u32 r1, r1, s1;\n"
        "subc.u32 c, 0, 0;\n"
        "add.cc.u32 r1, r1, l;\n"
        "addc.u32 c, c, 0;\n"
        "max.s32 d, c, 0;\n"
        "sub.cc.u32 r0, r0, c;\n"
        "subc.u32 r1, r1, 0;\n"
        "add.u32 r1, r1, d;\n"
        "mov.b64 %0, {r0, r1};\n"
        "}"
        : "=l"(result)
        : "l"(low), "l"(high), "r"(over));
    return result;
#else
    u64 less = low - ((high >> 32) + ((u64)over << 32));
    // After a borrow `less` is at least 2^64 - 65 * 2^32, so that there is no second one.
    if (low < (high >> 32) + ((u64)over << 32)) less -= EPSILON;
    u64 more = (high & EPSILON) * EPSILON;
    u64 sum = less + more;
    // `more` is below p, so that there is no second carry.
    if (sum < more) sum += EPSILON;
    return sum;
#endif
}

// Of canonical elements, canonical.
DEVICE u64 add(u64 a, u64 b) {
#ifdef __CUDA_ARCH__
    // As below: the sum if p cannot be subtracted from it, and else the difference.
    u64 result;
    asm("{\n"
        ".reg .u32 a0, a1, b0, b1, c, s0, s1;\n"
        ".reg .pred is_less;\n"
        "mov.b64 {a0, a1}, %1;\n"
        "mov.b64 {b0, b1}, %2;\n"
        "add.cc.u32 a0, a0, b0;\n"
        "addc.cc.u32 a1, a1, b1;\n"
        "addc.u32 c, 0, 0;\n"
        "sub.cc.u32 s0, a0, 1;\n"
        "subc.cc.u32 s1, a1, 0xffffffff;\n"
        "subc.u32 c, c, 0;\n"
        "setp.lt.s32 is_less, c, 0;\n"
        "selp.u32 s0, a0, s0, is_less;\n"
        "selp.u32 s1, a1, s1, is_less;\n"
        "mov.b64 %0, {s0, s1};\n"
        "}"
        : "=l"(result)
        : "l"(a), "l"(b));
    return result;
#else
    u64 sum = a + b;
    return sum < a ? sum + EPSILON : canonical(sum);
#endif
}

// Of canonical elements, canonical.
DEVICE u64 subtract(u64 a, u64 b) {
#ifdef __CUDA_ARCH__
    u64 result;
    // After a borrow `c` is 2^32 - 1.
    asm("{\n"
        ".reg .u32 a0, a1, b0, b1, c;\n"
        "mov.b64 {a0, a1}, %1;\n"
        "mov.b64 {b0, b1}, %2;\n"
        "sub.cc.u32 a0, a0, b0;\n"
        "subc.cc.u32 a1, a1, b1;\n"
        "subc.u32 c, 0, 0;\n"
        "sub.cc.u32 a0, a0, c;\n"
        "subc.u32 a1, a1, 0;\n"
        "mov.b64 %0, {a0, a1};\n"
        "}"
        : "=l"(result)
        : "l"(a), "l"(b));
    return result;
#else
    return a >= b ? a - b : a + (ORDER - b);
#endif
}

// A sum of products of any residues, at most 64 of them, which is reduced once: 160 bits.
struct Sum {
#ifdef __CUDA_ARCH__
    // The products of equal halves, and those of unlike ones, which count 2^32 times: so each takes its place as it is made.
    u32 equal[5] = {0}, unlike[3] = {0};
#else
    unsigned __int128 sum = 0;
    u32 over = 0;
#endif
};

DEVICE void add_product(Sum &sum, u64 a, u64 b) {
#ifdef __CUDA_ARCH__
    u32 *e = sum.equal, *u = sum.unlike;
    asm("{\n"
        ".reg .u32 a0, a1, b0, b1;\n"
        "mov.b64 {a0, a1}, %8;\n"
        "mov.b64 {b0, b1}, %9;\n"
        "mad.lo.cc.u32 %0, a0, b0, %0;\n"
        "madc.hi.cc.u32 %1, a0, b0, %1;\n"
        "madc.lo.cc.u32 %2, a1, b1, %2;\n"
        "madc.hi.cc.u32 %3, a1, b1, %3;\n"
        "addc.u32 %4, %4, 0;\n"
        "mad.lo.cc.u32 %5, a0, b1, %5;\n"
        "madc.hi.cc.u32 %6, a0, b1, %6;\n"
        "addc.u32 %7, %7, 0;\n"
        "mad.lo.cc.u32 %5, a1, b0, %5;\n"
        "madc.hi.cc.u32 %6, a1, b0, %6;\n"
        "addc.u32 %7, %7, 0;\n"
        "}"
        : "+r"(e[0]), "+r"(e[1]), "+r"(e[2]), "+r"(e[3]), "+r"(e[4]), "+r"(u[0]), "+r"(u[1]), "+r"(u[2])
        : "l"(a), "l"(b));
#else
    unsigned __int128 product = (unsigned __int128)a * b;
    sum.sum += product;
    sum.over += sum.sum < product;
#endif
}

DEVICE u64 residue(const Sum &sum) {
#ifdef __CUDA_ARCH__
    const u32 *e = sum.equal, *u = sum.unlike;
    u64 low, high;
    u32 over;
    asm("{\n"
        ".reg .u32 r1, r2, r3;\n"
        "add.cc.u32 r1, %4, %8;\n"
        "addc.cc.u32 r2, %5, %9;\n"
        "addc.cc.u32 r3, %6, %10;\n"
        "addc.u32 %2, %7, 0;\n"
        "mov.b64 %0, {%3, r1};\n"
        "mov.b64 %1, {r2, r3};\n"
        "}"
        : "=l"(low), "=l"(high), "=r"(over)
        : "r"(e[0]), "r"(e[1]), "r"(e[2]), "r"(e[3]), "r"(e[4]), "r"(u[0]), "r"(u[1]), "r"(u[2]));
    return reduce(over, high, low);
#else
    return reduce(sum.over, (u64)(sum.sum >> 64), (u64)sum.sum);
#endif
}

// Of any residues.
DEVICE u64 multiply(u64 a, u64 b) {
#ifdef __CUDA_ARCH__
    u64 low, high;
    // The compiler makes the halves of a product apart, and one product of 32 bits twice.
    asm("{\n"
        ".reg .u32 a0, a1, b0, b1, r0, r1, r2, r3, u0, u1, u2;\n"
        ".reg .u64 equal, unlike;\n"
        "mov.b64 {a0, a1}, %2;\n"
        "mov.b64 {b0, b1}, %3;\n"
        "mul.wide.u32 unlike, a0, b1;\n"
        "mov.b64 {u0, u1}, unlike;\n"
        "mad.lo.cc.u32 u0, a1, b0, u0;\n"
        "madc.hi.cc.u32 u1, a1, b0, u1;\n"
        "addc.u32 u2, 0, 0;\n"
        "mul.wide.u32 equal, a0, b0;\n"
        "mov.b64 {r0, r1}, equal;\n"
        "mul.wide.u32 equal, a1, b1;\n"
        "mov.b64 {r2, r3}, equal;\n"
        "add.cc.u32 r1, r1, u0;\n"
        "addc.cc.u32 r2, r2, u1;\n"
        "addc.u32 r3, r3, u2;\n"
        "mov.b64 %0, {r0, r1};\n"
        "mov.b64 %1, {r2, r3};\n"
        "}"
        : "=l"(low), "=l"(high)
        : "l"(a), "l"(b));
    return reduce(0, high, low);
#else
    unsigned __int128 product = (unsigned __int128)a * b;
    return reduce(0, (u64)(product >> 64), (u64)product);
#endif
}

// a * b + c, of any residues: below 2^128.
DEVICE u64 multiply_add(u64 a, u64 b, u64 c) {
#ifdef __CUDA_ARCH__
    u64 low, high;
    asm("{\n"
        ".reg .u32 a0, a1, b0, b1, r0, r1, r2, r3, u0, u1, u2;\n"
        "mov.b64 {a0, a1}, %2;\n"
        "mov.b64 {b0, b1}, %3;\n"
        "mov.b64 {r0, r1}, %4;\n"
        "mad.lo.cc.u32 r0, a0, b0, r0;\n"
        "madc.hi.cc.u32 r1, a0, b0, r1;\n"
        "madc.lo.cc.u32 r2, a1, b1, 0;\n"
        "madc.hi.u32 r3, a1, b1, 0;\n"
        "mul.lo.u32 u0, a0, b1;\n"
        "mul.hi.u32 u1, a0, b1;\n"
        "mad.lo.cc.u32 u0, a1, b0, u0;\n"
        "madc.hi.cc.u32 u1, a1, b0, u1;\n"
        "addc.u32 u2, 0, 0;\n"
        "add.cc.u32 r1, r1, u0;\n"
        "addc.cc.u32 r2, r2, u1;\n"
        "addc.u32 r3, r3, u2;\n"
        "mov.b64 %0, {r0, r1};\n"
        "mov.b64 %1, {r2, r3};\n"
        "}"
        : "=l"(low), "=l"(high)
        : "l"(a), "l"(b), "l"(c));
    return reduce(0, high, low);
#else
    unsigned __int128 sum = (unsigned __int128)a * b + c;
    return reduce(0, (u64)(sum >> 64), (u64)sum);
#endif
}

// A residue of high * 2^32 + low, both below 2^60: high's upper half counts 2^64.
DEVICE u64 join(u64 high, u64 low) {
#ifdef __CUDA_ARCH__
    u64 result;
    // `c` counts what is carried beyond 64 bits.
    asm("{\n"
        ".reg .u32 l0, l1, h0, h1, c;\n"
        "mov.b64 {l0, l1}, %1;\n"
        "mov.b64 {h0, h1}, %2;\n"
        "sub.cc.u32 l0, l0, h1;\n"
        "subc.u32 h1, h1, 0;\n"
        "add.u32 l1, l1, h1;\n"
        "add.cc.u32 l1, l1, h0;\n"
        "addc.u32 c, 0, 0;\n"
        "sub.cc.u32 l0, l0, c;\n"
        "subc.u32 l1, l1, 0;\n"
        "add.u32 l1, l1, c;\n"
        "mov.b64 %0, {l0, l1};\n"
        "}"
        : "=l"(result)
        : "l"(low), "l"(high));
    return result;
#else
    u64 over = high >> 32;
    u64 rest = low + (over << 32) - over;
    u64 sum = (high << 32) + rest;
    return sum < rest ? sum + EPSILON : sum;
#endif
}

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
