//! `prover_cli` with a proof system of one's own: the sum of `crates/proof-system/examples/sum.rs`.

#[allow(dead_code, missing_docs, reason = "an example of another crate")]
#[path = "../../crates/proof-system/examples/sum.rs"]
mod sum;

use prover_cli::ProofSystems;
use std::{process::ExitCode, sync::Arc};

fn main() -> ExitCode {
    let systems =
        ProofSystems::new().with("sum", "These numbers add up to that", |_| Ok(Arc::new(sum::Sum::new())));
    prover_cli::main(&systems)
}
