//! How many bits of security the circuits' parameters give, computed from the key set's common data.
//!
//! A false statement is proven with a chance of at most the sum of the chances below; each is given as its negative binary
//! logarithm. p = 2^64 − 2^32 + 1 is the order of the field, q = p² that of the extension that points are drawn from, ρ = 2^-r
//! the rate, s the number of queries, g the bits of grinding, n the circuit's rows, c the number of challenges.
//!
//! | argument | bits | what it rests on |
//! |---|---|---|
//! | FRI queries, conjectured | −s·log2(1 − δ) + g, where H_q(δ) = 1 − ρ | proximity gaps up to the list-decoding bound of random codes |
//! | FRI queries, proven | s·r/2 + g | proximity gaps up to the Johnson bound, 1 − √ρ |
//! | permutation argument | c·(64 − log2(n·routed wires)) | Schwartz–Zippel over the base field |
//! | combination of constraints | c·(64 − log2(constraints)) | Schwartz–Zippel over the base field |
//! | opening point | 128 − log2(8·n) | Schwartz–Zippel over the extension |
//!
//! plonky2 counts s·r + g bits for the queries, which conjectures proximity gaps up to capacity, 1 − ρ. That was refuted in
//! November 2025 (ePrint 2025/2010, 2025/2046, 2025/2055): beyond the radius δ with H_q(δ) = 1 − ρ there are no gaps. H_q is the
//! q-ary entropy, δ·log_q(q − 1) − δ·log_q(δ) − (1 − δ)·log_q(1 − δ). The first row is the conjecture as it was repaired.
//!
//! The hashes are Poseidon digests of four elements: 128 bits against collisions.

use crate::{CommonData, F};
use plonky2::field::types::Field64;

/// Bits of security of one circuit's proofs, by argument.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SecurityBits {
    /// FRI's queries under the repaired conjecture.
    pub fri_conjectured: f64,
    /// FRI's queries by what is proven.
    pub fri_proven: f64,
    /// The permutation argument.
    pub permutation: f64,
    /// The combination of the constraints.
    pub constraints: f64,
    /// The point at which everything is opened.
    pub opening: f64,
}

impl SecurityBits {
    /// The bits of the circuit of this common data.
    #[must_use]
    pub fn of(common: &CommonData) -> Self {
        let fri = &common.config.fri_config;
        let (queries, grinding) = (fri.num_query_rounds as f64, f64::from(fri.proof_of_work_bits));
        let rate_bits = fri.rate_bits as f64;
        let challenges = common.config.num_challenges as f64;
        let rows = common.degree() as f64;
        let field_bits = (F::ORDER as f64).log2();
        // Gates' constraints, and those of the permutation argument: one for its start, and one a step of its products.
        let permutation_terms = challenges * (common.num_partial_products as f64 + 2.0);
        let constraints = common.num_gate_constraints as f64 + permutation_terms;
        Self {
            fri_conjectured: queries * -(1.0 - proximity_radius(rate_bits, 2.0 * field_bits)).log2()
                + grinding,
            fri_proven: queries * rate_bits / 2.0 + grinding,
            permutation: challenges * (field_bits - (rows * common.config.num_routed_wires as f64).log2()),
            constraints: challenges * (field_bits - constraints.log2()),
            opening: 2.0 * field_bits - (common.quotient_degree_factor as f64 * rows).log2(),
        }
    }

    /// The least of them under the repaired conjecture.
    #[must_use]
    pub fn conjectured(&self) -> f64 {
        self.fri_conjectured.min(self.permutation).min(self.constraints).min(self.opening)
    }
}

/// The δ below 1 − ρ with H_q(δ) = 1 − ρ, for ρ = 2^-`rate_bits` and q = 2^`order_bits`, by bisection.
fn proximity_radius(rate_bits: f64, order_bits: f64) -> f64 {
    let rate = (-rate_bits).exp2();
    // log_q(q − 1) is 1 to the precision of a double.
    let entropy = |x: f64| x - (x * x.log2() + (1.0 - x) * (1.0 - x).log2()) / order_bits;
    let (mut low, mut high) = (0.0, 1.0 - rate);
    for _ in 0..100 {
        let middle = f64::midpoint(low, high);
        if entropy(middle) < 1.0 - rate { low = middle } else { high = middle }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregation_tests::system;
    use crate::circuits::configs;
    use crate::keys::CircuitName;
    use plonky2::plonk::circuit_data::CircuitConfig;

    fn conjectured(config: &CircuitConfig) -> f64 {
        let fri = &config.fri_config;
        let bits = -(1.0 - proximity_radius(fri.rate_bits as f64, 128.0)).log2();
        fri.num_query_rounds as f64 * bits + f64::from(fri.proof_of_work_bits)
    }

    #[test]
    fn every_configuration_has_a_hundred_bits_under_the_repaired_conjecture() {
        // The library's standard has not: its 100 bits are those of the conjecture that was refuted.
        let standard = conjectured(&CircuitConfig::standard_recursion_config());
        assert!((98.6..98.7).contains(&standard), "{standard}");
        for config in [
            configs::recursion_config(),
            configs::scheduler_config(),
            configs::first_wrap_config(),
            configs::second_wrap_config(),
        ] {
            let bits = conjectured(&config);
            assert!((100.0..108.0).contains(&bits), "{bits} of {config:?}");
        }
    }

    /// Sizes matter to the permutation argument: those of the shipped circuits are computed here, from the rows that they have.
    #[test]
    fn every_circuit_of_a_key_set_has_a_hundred_bits() {
        for name in CircuitName::ALL {
            let verifier = system().keys().verifier(name).unwrap();
            let mut common = verifier.common.clone();
            let bits = SecurityBits::of(&common);
            assert!(bits.conjectured() >= 100.0, "{name:?}: {bits:?}");
            assert!((60.0..=62.0).contains(&bits.fri_proven), "{name:?}: {bits:?}");
            // The largest circuit that ships has 2^14 rows and 80 routed wires.
            common.trace_degree_bits = 14;
            common.config.num_routed_wires = 80;
            let bits = SecurityBits::of(&common);
            assert!((131.0..131.1).contains(&bits.permutation), "{name:?}: {bits:?}");
            common.config.num_challenges = 2;
            let bits = SecurityBits::of(&common);
            assert!((87.3..87.4).contains(&bits.permutation), "two challenges are too few: {bits:?}");
        }
    }
}
