// The constraints of plonky2's gates at a point, each gate's in its order.

#pragma once

#include "poseidon.cuh"

// Challenges that everything is run with.
#define CHALLENGES 3

// A kind of gate as a circuit has it: the number of its kind (device.rs has the same), its selector's column, its row among the selector's
// values, those of its selector's group; what its kind asks for; where in the tables its own begins.
struct Gate {
    u64 kind, selector, row, group_begin, group_end, a, b, c, table;
};

struct Point {
    // Of column 0 the value at this point; columns are 2^log_column apart.
    const u64 *wires, *constants;
    const u64 *public_inputs_hash;
    u32 log_column;
};

DEVICE u64 wire(const Point &point, u64 i) { return point.wires[i << point.log_column]; }

DEVICE u64 constant(const Point &point, u64 i) { return point.constants[i << point.log_column]; }

DEVICE Extension wires(const Point &point, u64 i) { return {wire(point, i), wire(point, i + 1)}; }

// Sums of terms times powers of each alpha; the next term's place.
struct Mix {
    const u64 *alphas;
    u32 terms, at;
    u64 sums[CHALLENGES];
};

DEVICE void emit(Mix &mix, u64 term) {
#pragma unroll
    for (u32 c = 0; c < CHALLENGES; c++) {
        mix.sums[c] = add(mix.sums[c], product(term, mix.alphas[c * mix.terms + mix.at]));
    }
    mix.at++;
}

DEVICE void emit(Mix &mix, Extension term) {
    emit(mix, term.a);
    emit(mix, term.b);
}

// a operations.
DEVICE void arithmetic(const Gate &gate, const Point &p, Mix &mix) {
    u64 factor = constant(p, 0), addend_factor = constant(p, 1);
    for (u64 i = 0; i < gate.a; i++) {
        u64 computed = product(product(wire(p, 4 * i), wire(p, 4 * i + 1)), factor);
        computed = add(computed, product(wire(p, 4 * i + 2), addend_factor));
        emit(mix, subtract(wire(p, 4 * i + 3), computed));
    }
}

// a operations.
DEVICE void arithmetic_extension(const Gate &gate, const Point &p, Mix &mix) {
    u64 factor = constant(p, 0), addend_factor = constant(p, 1);
    for (u64 i = 0; i < gate.a; i++) {
        Extension computed = scale(multiply(wires(p, 8 * i), wires(p, 8 * i + 2)), factor);
        computed = add(computed, scale(wires(p, 8 * i + 4), addend_factor));
        emit(mix, subtract(wires(p, 8 * i + 6), computed));
    }
}

// a operations.
DEVICE void multiplication_extension(const Gate &gate, const Point &p, Mix &mix) {
    u64 factor = constant(p, 0);
    for (u64 i = 0; i < gate.a; i++) {
        Extension computed = scale(multiply(wires(p, 6 * i), wires(p, 6 * i + 2)), factor);
        emit(mix, subtract(wires(p, 6 * i + 4), computed));
    }
}

// a limbs of base b.
DEVICE void base_sum(const Gate &gate, const Point &p, Mix &mix) {
    u64 sum = 0;
    for (u64 i = gate.a; i-- > 0;) sum = add(product(sum, gate.b), wire(p, 1 + i));
    emit(mix, subtract(sum, wire(p, 0)));
    for (u64 i = 0; i < gate.a; i++) {
        u64 limb = wire(p, 1 + i), all = limb;
        for (u64 digit = 1; digit < gate.b; digit++) all = product(all, subtract(limb, digit));
        emit(mix, all);
    }
}

// a constants.
DEVICE void constants(const Gate &gate, const Point &p, Mix &mix) {
    for (u64 i = 0; i < gate.a; i++) emit(mix, subtract(constant(p, i), wire(p, i)));
}

// a bits.
DEVICE void exponentiation(const Gate &gate, const Point &p, Mix &mix) {
    u64 base = wire(p, 0), before = 1;
    for (u64 i = 0; i < gate.a; i++) {
        // The highest bit first.
        u64 bit = wire(p, gate.a - i);
        u64 factor = add(product(bit, base), subtract(1, bit));
        u64 own = wire(p, 2 + gate.a + i);
        emit(mix, subtract(product(before, factor), own));
        before = i + 1 < gate.a ? product(own, own) : own;
    }
    emit(mix, subtract(wire(p, 1 + gate.a), before));
}

DEVICE void public_input(const Point &p, Mix &mix) {
    for (u64 i = 0; i < 4; i++) emit(mix, subtract(wire(p, i), p.public_inputs_hash[i]));
}

// 2^a items, b copies, c constants.
#define MOST_ITEMS 64
DEVICE void random_access(const Gate &gate, const Point &p, Mix &mix) {
    u64 bits = gate.a, items = 1ull << bits, copies = gate.b;
    u64 first_constant = (2 + items) * copies;
    u64 first_bit = first_constant + gate.c;
    u64 list[MOST_ITEMS];
    for (u64 copy = 0; copy < copies; copy++) {
        u64 first = (2 + items) * copy;
        u64 own_bits = first_bit + copy * bits;
        u64 index = 0;
        for (u64 i = 0; i < bits; i++) {
            u64 bit = wire(p, own_bits + i);
            emit(mix, product(bit, subtract(bit, 1)));
        }
        for (u64 i = bits; i-- > 0;) index = add(add(index, index), wire(p, own_bits + i));
        emit(mix, subtract(index, wire(p, first)));
        for (u64 i = 0; i < items; i++) list[i] = wire(p, first + 2 + i);
        for (u64 i = 0; i < bits; i++) {
            u64 bit = wire(p, own_bits + i);
            for (u64 k = 0; k < items >> (i + 1); k++) {
                list[k] = add(list[2 * k], product(bit, subtract(list[2 * k + 1], list[2 * k])));
            }
        }
        emit(mix, subtract(list[0], wire(p, first + 1)));
    }
    for (u64 i = 0; i < gate.c; i++) emit(mix, subtract(constant(p, i), wire(p, first_constant + i)));
}

// a coefficients, each of b elements.
DEVICE void reducing(const Gate &gate, const Point &p, Mix &mix) {
    Extension alpha = wires(p, 2), before = wires(p, 4);
    u64 first_sum = 6 + gate.a * gate.b;
    for (u64 i = 0; i < gate.a; i++) {
        Extension coefficient = gate.b == 2 ? wires(p, 6 + 2 * i) : Extension{wire(p, 6 + i), 0};
        // The last is the output.
        Extension sum = i + 1 == gate.a ? wires(p, 0) : wires(p, first_sum + 2 * i);
        emit(mix, subtract(add(multiply(before, alpha), coefficient), sum));
        before = sum;
    }
}

// a points, b of which (and b - 1 of each further part) are interpolated at once; the table has the points and then their weights.
DEVICE void coset_interpolation(const Gate &gate, const u64 *table, const Point &p, Mix &mix) {
    u64 points = gate.a, degree = gate.b;
    u64 intermediates = (points - 2) / (degree - 1);
    u64 evaluation_point = 1 + 2 * points;
    u64 first_intermediate = evaluation_point + 4;
    u64 shifted_point = first_intermediate + 4 * intermediates;
    u64 shift = wire(p, 0);
    emit(mix, subtract(product(shift, wire(p, shifted_point + 2)), 1));
    Extension at = wires(p, shifted_point);
    emit(mix, subtract(wires(p, evaluation_point), scale(at, shift)));
    Extension value = {0, 0}, all = {1, 0};
    u64 part = 0;
    for (u64 i = 0; i < points; i++) {
        if (i == 1 + (degree - 1) * (part + 1)) {
            Extension own_value = wires(p, first_intermediate + 2 * part);
            Extension own_all = wires(p, first_intermediate + 2 * (intermediates + part));
            emit(mix, subtract(own_value, value));
            emit(mix, subtract(own_all, all));
            value = own_value;
            all = own_all;
            part++;
        }
        Extension factor = subtract(at, {table[i], 0});
        Extension weighted = scale(wires(p, 1 + 2 * i), table[points + i]);
        value = add(multiply(value, factor), multiply(weighted, all));
        all = multiply(all, factor);
    }
    emit(mix, subtract(wires(p, evaluation_point + 2), value));
}

// What a wire says that an S-box is given, which it must be.
DEVICE u64 is_input(const Point &p, Mix &mix, u64 computed, u64 at) {
    u64 input = wire(p, at);
    emit(mix, subtract(canonical(computed), input));
    return input;
}

// As `full_rounds`; the rounds' inputs are the wires from `first` on, but for those of the first round of all, which has none.
DEVICE void poseidon_full_rounds(const Point &p, Mix &mix, u64 state[WIDTH], u64 first, const u64 *constants) {
    for (u32 round = 0; round < FULL_ROUNDS_AT_EACH_END; round++) {
#pragma unroll
        for (u32 i = 0; i < WIDTH; i++) {
            if (round > 0 || constants != FIRST_CONSTANTS + WIDTH) {
                state[i] = is_input(p, mix, state[i], first + WIDTH * round + i);
            }
            state[i] = seventh_power(state[i]);
        }
        multiply_by_matrix(state, constants + round * WIDTH);
    }
}

// The S-boxes' inputs are wires, but for the first round's.
DEVICE void poseidon(const Point &p, Mix &mix, const u64 *partial) {
    const u64 swap_wire = 2 * WIDTH, first_delta = swap_wire + 1;
    const u64 first_full = first_delta + 4;
    const u64 first_partial = first_full + WIDTH * (FULL_ROUNDS_AT_EACH_END - 1);
    const u64 last_full = first_partial + PARTIAL_ROUNDS;
    u64 swap = wire(p, swap_wire);
    emit(mix, product(swap, subtract(swap, 1)));
    u64 state[WIDTH];
#pragma unroll
    for (u32 i = 0; i < WIDTH; i++) state[i] = wire(p, i);
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        u64 delta = wire(p, first_delta + i);
        emit(mix, subtract(product(swap, subtract(state[i + 4], state[i])), delta));
        state[i] = add(state[i], delta);
        state[i + 4] = subtract(state[i + 4], delta);
    }
    add_constants(state, FIRST_CONSTANTS);
    poseidon_full_rounds(p, mix, state, first_full - WIDTH, FIRST_CONSTANTS + WIDTH);
    begin_partial_rounds(state, partial);
    for (u32 round = 0; round < PARTIAL_ROUNDS; round++) {
        state[0] = is_input(p, mix, state[0], first_partial + round);
        partial_round(state, partial, round);
    }
    add_constants(state, LAST_CONSTANTS);
    poseidon_full_rounds(p, mix, state, last_full, LAST_CONSTANTS + WIDTH);
#pragma unroll
    for (u32 i = 0; i < WIDTH; i++) emit(mix, subtract(canonical(state[i]), wire(p, WIDTH + i)));
}

// The matrix alone, on elements of the extension: its coordinates apart.
DEVICE void poseidon_matrix(const Point &p, Mix &mix) {
    u64 computed[2][WIDTH];
#pragma unroll
    for (u32 coordinate = 0; coordinate < 2; coordinate++) {
#pragma unroll
        for (u32 i = 0; i < WIDTH; i++) computed[coordinate][i] = wire(p, 2 * i + coordinate);
        multiply_by_matrix(computed[coordinate], LAST_CONSTANTS + FULL_ROUNDS_AT_EACH_END * WIDTH);
    }
#pragma unroll
    for (u32 i = 0; i < WIDTH; i++) {
        Extension own = {canonical(computed[0][i]), canonical(computed[1][i])};
        emit(mix, subtract(wires(p, 2 * (WIDTH + i)), own));
    }
}

DEVICE void evaluate_gate(const Gate &gate, const u64 *tables, const u64 *partial, const Point &p, Mix &mix) {
    switch (gate.kind) {
        case 0: break;
        case 1: arithmetic(gate, p, mix); break;
        case 2: arithmetic_extension(gate, p, mix); break;
        case 3: multiplication_extension(gate, p, mix); break;
        case 4: base_sum(gate, p, mix); break;
        case 5: constants(gate, p, mix); break;
        case 6: exponentiation(gate, p, mix); break;
        case 7: public_input(p, mix); break;
        case 8: random_access(gate, p, mix); break;
        case 9: reducing(gate, p, mix); break;
        case 10: coset_interpolation(gate, tables + gate.table, p, mix); break;
        case 11: poseidon(p, mix, partial); break;
        case 12: poseidon_matrix(p, mix); break;
    }
}
