//! The ledger: the reference proof system of the pipeline, with real recursive proofs on any machine.
//!
//! # The statement
//!
//! A final proof for `(chain id, batch number, R₀, R₁, N, H)` shows knowledge of a sequence of N transfers
//! `(fromᵢ, toᵢ, amountᵢ)`, i = 1 … N, over account keys, such that
//!
//! 1. `H = h_N`, where `h₀ = 0` and `hᵢ = Poseidon(5, hᵢ₋₁, i, amountᵢ, fromᵢ, toᵢ)`: the public-data hash fixes every
//!    transfer and their order;
//! 2. `1 ≤ amountᵢ ≤ 2^62`;
//! 3. starting from the accounts committed to by `R₀`, each transfer in turn takes `amountᵢ` from the balance of `fromᵢ`
//!    and adds it to that of `toᵢ`, all balances involved are in `[0, 2^63)` before and after, and an account that did
//!    not exist counts as balance 0 and then exists;
//! 4. the accounts after the last transfer are those committed to by `R₁`.
//!
//! Hence no value was created or destroyed and no balance went below zero. Chain id and batch number are bound to the
//! proof and have no further meaning. An account's key is `Poseidon(1, length, name)` ([`digest::account_key`]), a state
//! root is that of the sparse Merkle tree of [`state_tree`]; an auditor computes all four values from the two CSV
//! files without any circuit, as [`LedgerProofSystem`] does for `statement.json`.
//!
//! # What it does not prove
//!
//! Who authorised a transfer: there are no signatures. That `R₀` is the state that anybody agreed on: compare it with
//! the `R₁` before it. That a sender differs from its receiver (such a transfer would change nothing). It hides nothing
//! either: the proofs are succinct, not zero-knowledge.
//!
//! That nobody else holds an account's place. An account's place in the state tree is 56 bits of its key (the low ones of the first element). Whoever wants the
//! place of one name that is not opened yet needs about 2^56 hashes to find another name with the same 56 bits. Opening that
//! name first keeps the wanted one out: its transfers are then refused, as no path leads to it. No balance can be taken that way, and
//! an opened account keeps its place, because the leaf holds the whole key.
//!
//! # How
//!
//! Circuits over Goldilocks with Poseidon (plonky2). [`security`] gives the formulas for the bits of security, and a test computes
//! them from the key set. By the repaired conjecture on FRI every circuit has at least 100 bits; by what is
//! proven (the Johnson bound) FRI has 60, and every other argument more than 100.
//!
//! | circuit | round | proves |
//! |---|---|---|
//! | transfer execution (light) | basic | rules 1 (order) to 3 on claimed balances; emits storage queries and log |
//! | storage application (heavy) | basic | the queries, applied to the state tree, root to root |
//! | public data (light) | basic | H is the hash of the log |
//! | leaf, one a kind | leaf | up to 4 basic proofs of its kind, chained |
//! | node | node | up to 3 leaves or nodes of one kind, chained; verifies itself, so any depth |
//! | recursion tip | tip | one proof a kind |
//! | scheduler | scheduler | both sides of the queue and of the log agree; exposes the statement |
//! | two wraps | compression | the scheduler's proof, ever smaller |

pub mod balances;
mod circuits;
mod decode;
pub mod digest;
mod execution;
pub mod final_proof;
pub mod generator;
pub mod input;
pub mod keys;
mod params;
pub mod security;
pub mod state_tree;
mod statement;
mod system;

pub use params::{Kind, LedgerParams};
pub use plonk_prover::CircuitProver;
pub use statement::{STATEMENT_BYTES_MAX, Statement};
pub use system::{LedgerProofSystem, PROTOCOL_VERSION, shipped_verification_key};

use plonky2::field::goldilocks_field::GoldilocksField;
use plonky2::iop::witness::PartialWitness;
use plonky2::plonk::circuit_builder::CircuitBuilder;
use plonky2::plonk::circuit_data::{
    CircuitData, CommonCircuitData, VerifierCircuitData, VerifierOnlyCircuitData,
};
use plonky2::plonk::config::PoseidonGoldilocksConfig;
use plonky2::plonk::proof::ProofWithPublicInputs;

/// Degree of the field extension that challenges come from.
const D: usize = 2;
type C = PoseidonGoldilocksConfig;
type F = GoldilocksField;
type Builder = CircuitBuilder<F, D>;
type Circuit = CircuitData<F, C, D>;
type CommonData = CommonCircuitData<F, D>;
type Proof = ProofWithPublicInputs<F, C, D>;
type Verifier = VerifierCircuitData<F, C, D>;
type VerifierKey = VerifierOnlyCircuitData<C, D>;
type Witness = PartialWitness<F>;

#[cfg(test)]
mod aggregation_tests;
#[cfg(test)]
mod soundness_tests;
