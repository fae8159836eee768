//! `prover bench`: figures for this machine. Programs, never assertions; what is compared is measured in turn in one call.

mod circuit;
mod dispatch;
mod growth;
mod handover;
mod noop_workers;
mod pipeline;
mod recovery;
mod replay;
mod scaling;
mod server;
mod throughput;

use anyhow::Context;
use clap::{Args, Subcommand};
use cli_support::ProofSystems;
use serde::Serialize;
use std::io::Write;

/// The arguments of `prover bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// The whole pipeline against the bare prover: the same circuits in a plain loop, no queue, no store. In turn, in one
    /// process, keys loaded before.
    Pipeline(pipeline::PipelineArgs),
    /// One circuit's proof, by this prover and by the library, stage by stage. In turn, in one process.
    Circuit(circuit::CircuitArgs),
    /// From before a job's insertion to its start on a worker that waits, against plain statements.
    Dispatch(dispatch::DispatchArgs),
    /// Jobs without work, queued to completed, against plain statements.
    Throughput(throughput::ThroughputArgs),
    /// From before the completion of a job's last predecessor to that job's start.
    Handover(handover::HandoverArgs),
    /// From the death, freeze or cut-off of a worker's process to the start of its job elsewhere; and what watching for
    /// deaths costs the server.
    Recovery(recovery::RecoveryArgs),
    /// Many workers on jobs that sleep for a set time: efficiency, and what is lost between two jobs.
    Scaling(scaling::ScalingArgs),
    /// A pick and a completion at ever larger sizes of the queue and the archive, and what a million jobs leave behind.
    Growth(growth::GrowthArgs),
    /// A batch of 17,061 circuits whose proofs cost nothing, through all stages; and with costs, on fleets in virtual time.
    Replay(replay::ReplayArgs),
    /// Works on what another bench queued: started by it.
    #[command(hide = true)]
    Worker(noop_workers::WorkerArgs),
}

/// Runs a benchmark and prints its figures.
///
/// # Errors
/// When what it measures on fails.
pub async fn run(args: BenchArgs, systems: &ProofSystems) -> anyhow::Result<()> {
    match args.command {
        BenchCommand::Pipeline(args) => pipeline::run(args, systems).await,
        BenchCommand::Circuit(args) => circuit::run(args).await,
        BenchCommand::Dispatch(args) => dispatch::run(args).await,
        BenchCommand::Throughput(args) => throughput::run(args).await,
        BenchCommand::Handover(args) => handover::run(args).await,
        BenchCommand::Recovery(args) => recovery::run(args).await,
        BenchCommand::Scaling(args) => scaling::run(args).await,
        BenchCommand::Growth(args) => growth::run(args).await,
        BenchCommand::Replay(args) => replay::run(args).await,
        BenchCommand::Worker(args) => noop_workers::run_worker(args).await,
    }
}

/// A measured quantity: its quantiles over all samples of all rounds.
#[derive(Debug, Clone, Copy, Serialize)]
struct Quantiles {
    p50: f64,
    p99: f64,
    least: f64,
    most: f64,
    samples: usize,
}

impl Quantiles {
    fn of(samples: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = samples.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        // The sample that this share of all samples does not exceed.
        let at = |share: f64| {
            let last = sorted.len().saturating_sub(1);
            sorted
                .get(((sorted.len() as f64 * share).ceil() as usize).saturating_sub(1).min(last))
                .copied()
                .unwrap_or(f64::NAN)
        };
        Self { p50: at(0.5), p99: at(0.99), least: at(0.0), most: at(1.0), samples: sorted.len() }
    }
}

/// The middle of a few rounds.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

/// Prints figures: one JSON object, or lines for people.
fn print(json: bool, figures: &impl Serialize, lines: &str) -> anyhow::Result<()> {
    if json { say(&serde_json::to_string(figures)?) } else { say(lines) }
}

/// Prints lines that are known.
fn say(lines: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{}", lines.trim_end()).context("cannot print the figures")
}
