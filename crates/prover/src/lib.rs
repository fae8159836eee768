//! The program `prover`: prove a batch on one machine, run components, verify proofs, look after keys, measure.
//!
//! [`main`] is all of it. A program with a proof system of its own is three lines:
//!
//! ```no_run
//! use prover::ProofSystems;
//! # fn my_proof_system() -> std::sync::Arc<dyn proof_system::ProofSystem> {
//! #     std::sync::Arc::new(proof_system::mock::MockProofSystem::new(Default::default()))
//! # }
//!
//! fn main() -> std::process::ExitCode {
//!     prover::main(&ProofSystems::shipped().with("mine", "Proves what I need", |_| Ok(my_proof_system())))
//! }
//! ```

#[cfg(test)]
mod configuration_tests;
mod database;
mod devices;
mod keys;
#[cfg(test)]
mod metrics_tests;
mod prove;
mod run;
mod verify;

pub use cli_support::{Opening, ProofSystems};

use clap::{Parser, Subcommand};
use cli_support::{CommonArgs, exit_code, with_runtime};
use std::process::ExitCode;

/// A proving system: from a batch's input to one small proof, on one machine or many.
#[derive(Debug, Parser)]
#[command(
    name = "prover",
    version,
    after_help = "Exit status: 0 done; 1 failed, or the proof is refused; 2 the input or the call is wrong, and nothing was done."
)]
struct Cli {
    #[command(flatten)]
    common: CommonArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prove one input on this machine: sets up all it needs, proves, verifies. Run again, it resumes.
    Prove(prove::ProveArgs),
    /// Check a final proof against a statement; needs nothing else.
    Verify(verify::VerifyArgs),
    /// Run components of the pipeline until SIGTERM or Ctrl-C, which drain; a second one stops at once. SIGUSR1 takes no more jobs and ends
    /// when those that run are done.
    Run(Box<run::RunArgs>),
    /// Serve a private PostgreSQL with the schema, or bring a database's schema up to date.
    Database {
        #[command(subcommand)]
        command: database::DatabaseCommand,
    },
    /// Generate, list, check, publish and fetch the keys.
    Keys {
        #[command(subcommand)]
        command: keys::KeysCommand,
    },
    /// Look after this machine's devices.
    Gpu {
        #[command(subcommand)]
        command: devices::GpuCommand,
    },
    /// Measure this machine.
    Bench(bench::BenchArgs),
}

/// Runs the program on the process's arguments; `--proof-system` takes the names of these systems.
#[must_use]
pub fn main(systems: &ProofSystems) -> ExitCode {
    if let Some(status) = cli_support::as_first_process() {
        return status;
    }
    cli_support::keep_files_private();
    let cli: Cli = cli_support::parse(systems);
    cli_support::init_logging(cli.common.log_format);
    cli_support::size_thread_pool();
    exit_code(match cli.command {
        Command::Verify(args) => verify::verify(&args, systems),
        Command::Keys { command } => with_runtime(keys::run(command, systems)),
        Command::Prove(args) => with_runtime(prove::prove(args, systems)),
        Command::Run(args) => with_runtime(run::run(*args, systems)),
        Command::Database { command } => with_runtime(database::run(command)),
        Command::Gpu { command } => devices::run(&command),
        Command::Bench(args) => with_runtime(bench::run(args, systems)),
    })
}
