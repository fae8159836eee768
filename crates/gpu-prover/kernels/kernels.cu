// The kernels. Each says what it computes, how its data lies, and what it costs at least.
//
// Elements are canonical wherever kernels leave them. A commitment's values lie by column, and within a column by coset: of the rows
// t * 2^rate_bits + j those with the same j are neighbours. Coefficients lie in bit-reversed order. An extension's two coordinates are two
// columns, but where a kernel says so.

#include "commitment.cuh"
#include "constraints.cuh"
#include "openings.cuh"
#include "permutation.cuh"
