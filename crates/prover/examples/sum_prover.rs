//! The program `prover` with a proof system of one's own: the sum of `crates/proof-system/examples/sum.rs`.

#[allow(dead_code, missing_docs, reason = "an example of another crate")]
#[path = "../../proof-system/examples/sum.rs"]
mod sum;

use prover::ProofSystems;
use std::{process::ExitCode, sync::Arc};

fn main() -> ExitCode {
    let systems =
        ProofSystems::new().with("sum", "These numbers add up to that", |_| Ok(Arc::new(sum::Sum::new())));
    prover::main(&systems)
}
