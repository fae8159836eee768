//! `prover_cli`, the admin tool. Data goes to standard output, words to standard error.
//!
//! A program that proves with a proof system of its own calls [`main`] with it, so that `insert-batch` reads that system's inputs.

mod batch;
mod config;
mod file;
mod input;
mod job;
mod operate;
mod proof;
mod set_batch;
mod stats;
mod status;
mod version;
mod watch;
mod words;

use clap::{Parser, Subcommand};
pub use cli_support::ProofSystems;
use cli_support::{BadInput, CommonArgs, Secret, exit_code, with_runtime};
use job_store::StoreError;
use outside::printable_lines;
use schemars::JsonSchema;
use serde::Serialize;
use std::{io::Write, process::ExitCode};

/// Looks after versions, batches and proofs.
#[derive(Debug, Parser)]
#[command(
    name = "prover_cli",
    version,
    after_help = "Exit status: 0 done; 1 failed; 2 the input or the call is wrong, and nothing was done."
)]
struct Cli {
    /// The database's URL; holds a password: prefer the environment or the configuration file.
    #[arg(env = "DATABASE_URL", hide_env_values = true)]
    database_url: Option<Secret>,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    common: CommonArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make this program's protocol version, and the keys that it stands for, known to the database.
    InsertVersion(version::InsertVersionArgs),
    /// Check an input, store it, and queue its batch.
    InsertBatch(batch::InsertBatchArgs),
    /// Change a batch's priority or deadline.
    SetBatch(set_batch::SetBatchArgs),
    /// Say in which order a chain's batches are proven, and how much of the fleet is its.
    SetChain(batch::SetChainArgs),
    /// How things are.
    Status {
        #[command(subcommand)]
        command: status::StatusCommand,
    },
    /// The same live: everything, or one batch until it is over.
    Watch(watch::WatchArgs),
    /// Why a job, or a batch, does not run; or where it does.
    Why(job::WhyArgs),
    /// Every attempt of a job: who ran it, where, how long, how it ended.
    Attempts(job::AttemptsArgs),
    /// Give the failed jobs of a batch new budgets, and queue them again.
    Requeue(operate::RequeueArgs),
    /// Make a batch again from a round on: outputs of that round and of those after it are forgotten.
    Restart(operate::RestartArgs),
    /// Hold back a chain, or a stage of all chains: nothing of it is started, what runs goes on.
    Pause(operate::PauseArgs),
    /// End a pause.
    Resume(operate::PauseArgs),
    /// Take a job out of circulation: it fails, and stays so until it is released.
    Quarantine(operate::QuarantineArgs),
    /// Give a failed or quarantined job new budgets, and another chance.
    Release(operate::ReleaseArgs),
    /// Have a worker finish what it runs, take nothing more, and stop.
    Drain(operate::DrainArgs),
    /// Stop a batch for good: what waits will not run, what runs is told to stop.
    Cancel(operate::CancelArgs),
    /// Remove a batch that is over from the database: its jobs, and the log of their attempts.
    Delete(operate::DeleteArgs),
    /// Say what an artifact's file is, and whether it is whole.
    FileInfo(file::FileInfoArgs),
    /// Check a proof, or whether a circuit can be satisfied; says which check or constraint fails.
    DebugProof(file::DebugProofArgs),
    /// What the past tells: durations, memory and failures by circuit, proofs an hour, batches by day or week.
    Stats(stats::StatsArgs),
    /// The settings as they hold, and who says so: the environment, the configuration file or a default.
    Config,
    /// Print what a shell needs to complete commands and flags; `source <(prover_cli completions bash)`, for example.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Final proofs.
    Proof {
        #[command(subcommand)]
        command: proof::ProofCommand,
    },
}

/// Runs the tool on the process's arguments; `--proof-system` takes the names of these systems.
#[must_use]
pub fn main(systems: &ProofSystems) -> ExitCode {
    if let Some(status) = cli_support::as_first_process() {
        return status;
    }
    cli_support::keep_files_private();
    let cli: Cli = cli_support::parse(systems);
    cli_support::init_logging(cli.common.log_format);
    cli_support::size_thread_pool();
    exit_code(with_runtime(run(cli, systems)).map_err(bad_input))
}

/// What makes no sense to the store, or is not in it, is a mistake of the call.
fn bad_input(error: anyhow::Error) -> anyhow::Error {
    match error.downcast::<StoreError>() {
        Ok(e @ (StoreError::NoSuchBatch(_) | StoreError::NoSuchJob(_) | StoreError::Invalid(_))) => {
            BadInput(e.to_string()).into()
        }
        Ok(e) => e.into(),
        Err(error) => error,
    }
}

async fn run(cli: Cli, systems: &ProofSystems) -> anyhow::Result<()> {
    // Not every command needs one.
    let url = || cli_support::database_url(cli.database_url.as_ref());
    let output = Output { is_json: cli.json };
    match cli.command {
        Command::Completions { shell } => {
            clap_complete::generate(
                shell,
                &mut cli_support::command::<Cli>(systems),
                "prover_cli",
                &mut std::io::stdout(),
            );
            Ok(())
        }
        Command::FileInfo(args) => file::info(&args, systems, output),
        Command::DebugProof(args) => file::debug_proof(&args, systems, output),
        Command::Config => {
            let url = cli.database_url.as_ref().map(Secret::expose);
            config::show(systems, cli.common.config.as_deref(), url, output)
        }
        Command::Delete(args) => operate::delete(&url()?, args, output).await,
        Command::InsertVersion(args) => version::insert(&url()?, args, systems, output).await,
        Command::InsertBatch(args) => batch::insert(&url()?, args, systems, output).await,
        Command::SetBatch(args) => set_batch::set_batch(&url()?, args, output).await,
        Command::SetChain(args) => batch::set_chain(&url()?, args, output).await,
        Command::Status { command } => status::show(&url()?, command, output).await,
        Command::Watch(args) => watch::watch(&url()?, args, output).await,
        Command::Why(args) => job::why(&url()?, args, output).await,
        Command::Attempts(args) => job::attempts(&url()?, args, output).await,
        Command::Requeue(args) => operate::requeue(&url()?, args, output).await,
        Command::Restart(args) => operate::restart(&url()?, args, output).await,
        Command::Pause(args) => operate::set_paused(&url()?, args, true, output).await,
        Command::Resume(args) => operate::set_paused(&url()?, args, false, output).await,
        Command::Quarantine(args) => operate::quarantine(&url()?, args, output).await,
        Command::Release(args) => operate::release(&url()?, args, output).await,
        Command::Drain(args) => operate::drain(&url()?, args, output).await,
        Command::Cancel(args) => operate::cancel(&url()?, args, output).await,
        Command::Stats(args) => stats::show(&url()?, args, output).await,
        Command::Proof { command: proof::ProofCommand::Fetch(args) } => {
            proof::fetch(&url()?, args, systems, output).await
        }
        Command::Proof { command: proof::ProofCommand::Verify(args) } => {
            proof::verify(&url()?, args, systems, output).await
        }
    }
}

/// Prints a command's result, as text or as JSON.
#[derive(Debug, Clone, Copy)]
struct Output {
    is_json: bool,
}

impl Output {
    fn print(self, json: &(impl Serialize + JsonSchema), text: &str) -> anyhow::Result<()> {
        let shown = if self.is_json { serde_json::to_string_pretty(json)? + "\n" } else { text.to_owned() };
        // Rows, files and servers have a say in it. Inside a JSON string the escape is the same text.
        print(&printable_lines(&shown)).map(drop)
    }
}

/// Writes to standard output as it is: the caller has made it printable. False when nobody reads it any more: `prover_cli … | head` is no failure.
fn print(text: &str) -> anyhow::Result<bool> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        result => Ok(result.map(|()| true)?),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

    use super::*;
    use std::fmt::Write as _;

    /// Every command's long help, one after the other.
    fn reference(command: &mut clap::Command, parents: &str, text: &mut String) {
        // What is set where the test runs is nobody's business.
        *command = std::mem::take(command).mut_args(|arg| arg.hide_env_values(true));
        let name = format!("{parents}{}", command.get_name());
        let help = command.render_long_help().to_string();
        let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
        write!(text, "\n## `{name}`\n\n```\n{}\n```\n", lines.join("\n").trim_end()).unwrap();
        for sub in command.get_subcommands_mut().filter(|sub| sub.get_name() != "help") {
            reference(sub, &format!("{name} "), text);
        }
    }

    #[test]
    fn the_reference_in_the_docs_is_that_of_the_code() {
        let mut command = cli_support::command::<Cli>(&ProofSystems::shipped());
        command.build();
        let mut text = "# prover_cli\n\nMade from the program: `UPDATE_DOCS=1 cargo test -p prover-cli docs`. What `--json` prints is described in \
                        [prover_cli.schema.json](prover_cli.schema.json), a JSON Schema by command. Data goes to \
                        standard output, words to standard error.\n"
            .to_owned();
        reference(&mut command, "", &mut text);
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/prover_cli.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, &text).unwrap();
        }
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            found == text,
            "docs/prover_cli.md is out of date: UPDATE_DOCS=1 cargo test -p prover-cli docs"
        );
    }

    /// What each command prints with `--json`, as a schema; [`Output::print`] takes nothing that has none.
    #[test]
    fn the_schemas_in_the_docs_are_those_of_the_code() {
        use job_store::operator::cancel::Cancelled;
        use job_store::operator::delete::Deleted;
        use job_store::operator::drain::Drained;
        use job_store::operator::pause::PauseChange;
        use job_store::operator::quarantine::JobChange;
        use job_store::operator::requeue::Requeued;
        use job_store::operator::restart::Restarted;
        use job_store::operator::set_batch::BatchSet;
        use job_store::reports::attempts::AttemptReport;
        use job_store::reports::backlog::Demand;
        use job_store::reports::dashboard::Overview;
        use job_store::reports::history::Statistics;
        use job_store::reports::versions::VersionReport;
        use job_store::reports::workers::WorkerReport;
        use operate::Changed;
        use schemars::{Schema, schema_for};
        let schemas: std::collections::BTreeMap<&str, Schema> = [
            ("attempts", schema_for!(Vec<AttemptReport>)),
            ("cancel", schema_for!(Changed<Cancelled>)),
            ("config", schema_for!(Vec<cli_support::Effective>)),
            ("debug-proof", schema_for!(file::Verdict)),
            ("delete", schema_for!(Changed<Deleted>)),
            ("drain", schema_for!(Changed<Drained>)),
            ("file-info", schema_for!(file::FileInfo)),
            ("insert-batch", schema_for!(batch::Inserted)),
            ("insert-version", schema_for!(version::InsertedVersion)),
            ("pause", schema_for!(Changed<PauseChange>)),
            ("proof fetch", schema_for!(proof::Fetched)),
            ("proof verify", schema_for!(proof::Verified)),
            ("quarantine", schema_for!(Changed<JobChange>)),
            ("release", schema_for!(Changed<JobChange>)),
            ("requeue", schema_for!(Changed<Requeued>)),
            ("restart", schema_for!(Changed<Restarted>)),
            ("resume", schema_for!(Changed<PauseChange>)),
            ("set-batch", schema_for!(Changed<BatchSet>)),
            ("set-chain", schema_for!(batch::ChainSet)),
            ("stats", schema_for!(Statistics)),
            ("status batch", schema_for!(status::BatchView<'_>)),
            ("status queue", schema_for!(Vec<Demand>)),
            ("status versions", schema_for!(Vec<VersionReport>)),
            ("status workers", schema_for!(Vec<WorkerReport>)),
            ("watch", schema_for!(Overview)),
            ("watch --number", schema_for!(status::BatchView<'_>)),
            ("why --number", schema_for!(job::BatchAnswer<'_>)),
            ("why JOB", schema_for!(job::JobView<'_>)),
        ]
        .into();
        let text = serde_json::to_string_pretty(&schemas).unwrap() + "\n";
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/prover_cli.schema.json");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, &text).unwrap();
        }
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            found == text,
            "docs/prover_cli.schema.json is out of date: UPDATE_DOCS=1 cargo test -p prover-cli docs"
        );
        // Every command has one.
        let mut command = cli_support::command::<Cli>(&ProofSystems::shipped());
        command.build();
        for sub in command.get_subcommands().filter(|sub| !matches!(sub.get_name(), "help" | "completions")) {
            let has_one = schemas.keys().any(|name| name.split(' ').next() == Some(sub.get_name()));
            assert!(has_one, "{} has no schema", sub.get_name());
        }
    }

    #[test]
    fn every_shell_gets_its_completions() {
        use clap::ValueEnum;
        for shell in clap_complete::Shell::value_variants() {
            let mut out = Vec::new();
            clap_complete::generate(
                *shell,
                &mut cli_support::command::<Cli>(&ProofSystems::shipped()),
                "prover_cli",
                &mut out,
            );
            let text = String::from_utf8(out).unwrap();
            assert!(text.contains("insert-batch") && text.contains("dry-run"), "{shell}");
        }
    }
}
