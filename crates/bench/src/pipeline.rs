//! The whole pipeline against the bare prover.

use crate::{median, print};
use clap::Args;
use cli_support::{BadInput, ProofSystemArgs, ProofSystems, load_keys};
use job_runner::Shutdown;
use pipeline::local::{DRAIN_TIMEOUT, LocalStack, data_folder, work_folder};
use pipeline::plan::Plan;
use pipeline::postgres::PostgresArgs;
use proof_system::{InputSource, KeyPurpose, ProofSystem, Uncontrolled, bare};
use proving_model::BatchId;
use serde::Serialize;
use std::{path::PathBuf, sync::Arc, time::Instant};

#[derive(Debug, Args)]
pub(crate) struct PipelineArgs {
    /// The input, as for `prover prove`.
    input: PathBuf,
    /// Opening balances [default: accounts.csv beside the input].
    #[arg(long)]
    accounts: Option<PathBuf>,
    /// How often each is measured.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Where the work lies meanwhile [default: the data folder].
    #[arg(long, env = "ROUNDHOUSE_DATA")]
    data: Option<PathBuf>,
    #[command(flatten)]
    postgres: PostgresArgs,
    #[command(flatten)]
    system: ProofSystemArgs,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Seconds, of each round in turn, and their median.
#[derive(Debug, Serialize)]
struct Seconds {
    median: f64,
    rounds: Vec<f64>,
}

impl Seconds {
    fn of(rounds: Vec<f64>) -> Self {
        Self { median: median(&rounds), rounds }
    }
}

#[derive(Debug, Serialize)]
struct PipelineFigures {
    circuits: usize,
    bare_seconds: Seconds,
    pipeline_seconds: Seconds,
    /// The median of the rounds' ratios, pipeline to bare.
    ratio: f64,
    cores: usize,
}

pub(crate) async fn run(args: PipelineArgs, systems: &ProofSystems) -> anyhow::Result<()> {
    let system = args.system.open(systems)?;
    let source = InputSource { path: args.input, state_path: args.accounts };
    let input = system.read_input(&source).map_err(|e| BadInput(e.to_string()))?;
    let data = data_folder(args.data).join("bench");
    let programs = args.postgres.programs(&data).await?;
    for purpose in [KeyPurpose::Aggregate, KeyPurpose::Prove, KeyPurpose::Compress] {
        load_keys(&*system, purpose)?;
    }
    let (mut bare, mut pipeline, mut circuits) = (Vec::new(), Vec::new(), 0);
    for round in 1..=args.rounds {
        // Another number each time: nothing is gone on with.
        let batch = BatchId { chain_id: 0, number: round };
        let (seconds, proven) = bare_seconds(system.clone(), batch, input.payload.clone()).await?;
        circuits = proven;
        bare.push(seconds);
        tracing::info!("round {round} of {}: bare {seconds:.1} s", args.rounds);
        let folder = work_folder(&data, &*system, batch, &input.payload);
        let plan = Plan::one_machine(DRAIN_TIMEOUT);
        let stack = LocalStack::start(&folder, programs.clone(), system.clone(), plan).await?;
        let proven = stack.prove(batch, &input.payload, &Shutdown::default()).await;
        let folder = stack.stop().await?;
        folder.remove()?;
        let seconds = proven?.spent.wall.as_secs_f64();
        pipeline.push(seconds);
        tracing::info!("round {round} of {}: pipeline {seconds:.1} s", args.rounds);
    }
    let ratios: Vec<f64> = pipeline.iter().zip(&bare).map(|(pipeline, bare)| pipeline / bare).collect();
    let figures = PipelineFigures {
        circuits,
        bare_seconds: Seconds::of(bare),
        pipeline_seconds: Seconds::of(pipeline),
        ratio: median(&ratios),
        cores: cli_support::machine_threads(),
    };
    let lines = format!(
        "{} circuits on {} cores: bare {:.1} s, pipeline {:.1} s, ratio {:.3} (medians of {} rounds)",
        figures.circuits,
        figures.cores,
        figures.bare_seconds.median,
        figures.pipeline_seconds.median,
        figures.ratio,
        args.rounds
    );
    print(args.json, &figures, &lines)
}

/// Time of the plain loop, and how many circuits it proved.
async fn bare_seconds(
    system: Arc<dyn ProofSystem>,
    batch: BatchId,
    payload: Vec<u8>,
) -> anyhow::Result<(f64, usize)> {
    tokio::task::spawn_blocking(move || {
        let begun = Instant::now();
        let run = bare::prove_batch(&*system, batch, &payload, &Uncontrolled)?;
        Ok((begun.elapsed().as_secs_f64(), run.proven.len()))
    })
    .await?
}
