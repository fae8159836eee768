//! The configurations of all circuits, in one place: how many queries, at which rate, with how many challenges.
//!
//! | circuits | rate | queries | grinding bits | challenges |
//! |---|---|---|---|---|
//! | basic, leaf, node, recursion tip | 2^-3 | 28 | 18 | 3 |
//! | scheduler | 2^-4 | 21 | 18 | 3 |
//! | first wrap | 2^-6 | 14 | 18 | 3 |
//! | second wrap | 2^-8 | 10 | 22 | 3 |
//!
//! Two bits of grinding stand where one more query would do: a 29th query makes a leaf of four storage proofs outgrow 2^14
//! rows, and every leaf and node would take twice the time.
//!
//! A lower rate costs the prover, who proves these circuits once a batch, and saves queries, which are most of a proof.
//! [`crate::security`] says what the numbers are worth.

use plonky2::fri::{FriConfig, FriReductionStrategy};
use plonky2::plonk::circuit_data::CircuitConfig;

/// Runs of the permutation argument and of the constraints' combination, each with challenges of its own. They are elements
/// of the base field, so that two runs are worth 87 bits for a circuit of 2^14 rows, and three 131. The third costs a proof 8 %
/// (`prover bench circuit --log-size 14` of programs built with two and with three, in turn: 2.30 s and 2.49 s on 2 cores, medians of
/// three).
const CHALLENGES: usize = 3;

/// Configuration of basic circuits, leaves, nodes and the recursion tip.
pub(crate) fn recursion_config() -> CircuitConfig {
    let standard = CircuitConfig::standard_recursion_config();
    CircuitConfig {
        num_challenges: CHALLENGES,
        fri_config: FriConfig { num_query_rounds: 28, proof_of_work_bits: 18, ..standard.fri_config },
        ..standard
    }
}

/// Configuration of the scheduler. With fewer queries to check the first wrap fits half the rows, and the first wrap is the
/// circuit whose rows cost most.
pub(crate) fn scheduler_config() -> CircuitConfig {
    with_rate(4, 21)
}

/// Configuration of the first wrap.
pub(crate) fn first_wrap_config() -> CircuitConfig {
    with_rate(6, 14)
}

/// Configuration of the second wrap, whose proof is the final proof.
pub(crate) fn second_wrap_config() -> CircuitConfig {
    CircuitConfig {
        // Fewer routed wires mean fewer openings; with fewer than 37 the circuit needs more rows.
        num_routed_wires: 37,
        fri_config: FriConfig {
            proof_of_work_bits: 22,
            cap_height: 0,
            reduction_strategy: FriReductionStrategy::MinSize(None),
            ..with_rate(8, 10).fri_config
        },
        ..recursion_config()
    }
}

/// The recursion configuration at a rate of 2^-`rate_bits`, with as many queries.
fn with_rate(rate_bits: usize, num_query_rounds: usize) -> CircuitConfig {
    let recursion = recursion_config();
    CircuitConfig {
        fri_config: FriConfig { rate_bits, num_query_rounds, ..recursion.fri_config },
        ..recursion
    }
}
