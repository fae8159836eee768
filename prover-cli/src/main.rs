//! The program `prover_cli`, with the proof systems that the project ships.

use std::process::ExitCode;

fn main() -> ExitCode {
    prover_cli::main(&prover_cli::ProofSystems::shipped())
}
