//! The daemon `prover`: prove a batch on one machine, run components, verify proofs, look after keys.

mod components;
mod prove;
mod verify;

use clap::{Parser, Subcommand};
use std::{path::PathBuf, process::ExitCode};

/// A proving system: from a batch's input to one small proof, on one machine or many.
#[derive(Debug, Parser)]
#[command(name = "prover", version)]
struct Cli {
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
    Run(components::RunArgs),
    /// Serve a private PostgreSQL with the schema, and print its URL; or bring a database's schema up to date.
    Database {
        #[command(subcommand)]
        command: DatabaseCommand,
    },
    /// Generate the keys that are missing, and check the others.
    Keys {
        /// The key folder [default: the user's cache folder].
        #[arg(long, env = "ROUNDHOUSE_KEYS")]
        keys: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
enum DatabaseCommand {
    /// Serve a private PostgreSQL in this folder until SIGTERM or Ctrl-C.
    Serve {
        /// The cluster's folder; created where it is not yet.
        #[arg(long)]
        data: PathBuf,
    },
    /// Bring the schema up to date.
    Migrate {
        /// The database's URL.
        #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
        database_url: String,
    },
}

/// Exit statuses, beside 0: the proof is refused or the work failed; the input or the call is wrong.
const FAILED: u8 = 1;
const BAD_INPUT: u8 = 2;

/// The input is wrong, as opposed to something around it.
#[derive(Debug)]
struct BadInput(String);

impl std::fmt::Display for BadInput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadInput {}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,sqlx=warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    let result = match cli.command {
        Command::Verify(args) => verify::verify(&args),
        Command::Keys { keys } => components::check_keys(keys),
        Command::Prove(args) => with_runtime(prove::prove(args)),
        Command::Run(args) => with_runtime(components::run(args)),
        Command::Database { command: DatabaseCommand::Serve { data } } => {
            with_runtime(components::serve_database(data))
        }
        Command::Database { command: DatabaseCommand::Migrate { database_url } } => {
            with_runtime(components::migrate(database_url))
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::from(if error.is::<BadInput>() { BAD_INPUT } else { FAILED })
        }
    }
}

fn with_runtime(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(work);
    // An execution that outlasted the drain timeout is released already; its thread is not waited for.
    runtime.shutdown_background();
    result
}
