//! The daemon `prover`: prove a batch on one machine, run components, verify proofs, look after keys, measure.

mod bench;
mod components;
#[cfg(test)]
mod configuration_tests;
mod database;
mod devices;
mod endpoints;
mod http;
mod local;
#[cfg(test)]
mod metrics_tests;
mod progress;
mod prove;
mod verify;

use clap::{Parser, Subcommand};
use launch::{CommonArgs, ProofSystemArgs, exit_code, with_runtime};
use proof_system::KeyPurpose;
use std::process::ExitCode;

/// Against the C library's, a batch takes 6 % less of the processors, whose columns it gets back without asking the system for their pages
/// again, and the queue an eighth less, whose jobs are freed by other threads than made them; memory 3 % more.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

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
    /// Run components of the pipeline until SIGTERM or Ctrl-C, which drain; a second one stops at once.
    Run(Box<components::RunArgs>),
    /// Serve a private PostgreSQL with the schema, or bring a database's schema up to date.
    Database {
        #[command(subcommand)]
        command: database::DatabaseCommand,
    },
    /// Generate the keys that are missing, and check the others.
    Keys(ProofSystemArgs),
    /// Look after this machine's devices.
    Gpu {
        #[command(subcommand)]
        command: devices::GpuCommand,
    },
    /// Measure this machine.
    Bench {
        #[command(subcommand)]
        command: bench::BenchCommand,
    },
}

fn main() -> ExitCode {
    launch::keep_files_private();
    let cli: Cli = launch::parse();
    launch::init_logging(cli.common.log_format);
    exit_code(match cli.command {
        Command::Verify(args) => verify::verify(&args),
        Command::Keys(system) => check_keys(&system),
        Command::Prove(args) => with_runtime(prove::prove(args)),
        Command::Run(args) => with_runtime(components::run(*args)),
        Command::Database { command } => with_runtime(database::run(command)),
        Command::Gpu { command } => devices::run(&command),
        Command::Bench { command } => with_runtime(bench::run(command)),
    })
}

fn check_keys(args: &ProofSystemArgs) -> anyhow::Result<()> {
    let system = args.open()?;
    for purpose in [KeyPurpose::Aggregate, KeyPurpose::Prove, KeyPurpose::Compress] {
        launch::load_keys(&*system, purpose)?;
    }
    tracing::info!("all keys in {} are those that this program ships", args.keys_folder().display());
    Ok(())
}
