//! `prover prove`: one input to its verified proof, on this machine.

use crate::devices::DeviceArgs;
use crate::run::check_allocation;
use anyhow::Context;
use clap::Args;
use cli_support::{BadInput, ProofSystemArgs, ProofSystems};
use pipeline::local::{DRAIN_TIMEOUT, LocalStack, Proven, data_folder, folder_error, work_folder};
use pipeline::plan::{Plan, memory_budget};
use pipeline::postgres::PostgresArgs;
use pipeline::progress::count_jobs;
use proof_system::InputSource;
use proving_model::{AggregationRound, BatchId, Stage};
use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    path::PathBuf,
    time::{Duration, Instant},
};

#[derive(Debug, Args)]
pub(crate) struct ProveArgs {
    /// The transfers, a CSV file with the header from,to,amount.
    input: PathBuf,
    /// Opening balances, a CSV file with the header account,balance [default: accounts.csv beside the input].
    #[arg(long)]
    accounts: Option<PathBuf>,
    /// The batch's number, bound to the proof.
    #[arg(long, default_value_t = 1)]
    number: u32,
    /// The chain's id, bound to the proof.
    #[arg(long, default_value_t = 0)]
    chain_id: u32,
    /// Where proof, statement and balances go [default: ./proofs/CHAIN-NUMBER].
    #[arg(long)]
    out: Option<PathBuf>,
    /// Where the work is kept while it runs, so that an interrupted run resumes [default: the data folder].
    #[arg(long, env = "ROUNDHOUSE_DATA")]
    data: Option<PathBuf>,
    #[command(flatten)]
    postgres: PostgresArgs,
    #[command(flatten)]
    system: ProofSystemArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

pub(crate) async fn prove(args: ProveArgs, systems: &ProofSystems) -> anyhow::Result<()> {
    let begun = Instant::now();
    let devices = args.device.open()?;
    let provers = devices.as_ref().map_or(1, |devices| devices.count);
    let plan = Plan::one_machine(DRAIN_TIMEOUT)
        .with_provers(provers)
        .with_memory_budget(memory_budget(args.device.host_allocation()));
    let system = args.system.open_proven_by(systems, devices.map(|devices| devices.prover))?;
    check_allocation(&plan, &*system)?;
    let source = InputSource { path: args.input, state_path: args.accounts };
    let input = system.read_input(&source).map_err(|e| BadInput(e.to_string()))?;
    let batch = BatchId { chain_id: args.chain_id, number: args.number };
    tracing::info!("{batch}: {}", input.summary);
    plan.say_limits();

    let folder = work_folder(&data_folder(args.data), &*system, batch, &input.payload);
    let out = args.out.unwrap_or_else(|| cli_support::default_output_folder(batch));
    // An interrupted run may have written some, or all, of its files.
    if !folder.exists() {
        cli_support::check_output_folder(&out)?;
    }
    // Before the first signal asks for an orderly end: what is being fetched has none.
    let programs = args.postgres.programs(&folder).await?;
    let shutdown = cli_support::shutdown_on_signal(Some(cli_support::DRAINING))?;
    let stack = LocalStack::start(&folder, programs, system.clone(), plan).await?;
    let result = async {
        let proven = stack.prove(batch, &input.payload, &shutdown).await?;
        cli_support::write_outputs(&proven.final_proof, &*system, batch, &input.payload, &out)?;
        anyhow::Ok(proven)
    }
    .await;
    let folder = stack.stop().await?;
    let proven = result?;
    summarise(&proven, begun.elapsed())?;
    // The proof is out: what is left is scratch.
    folder.remove().map_err(folder_error)
}

fn summarise(Proven { report, spent, .. }: &Proven, wall: Duration) -> anyhow::Result<()> {
    let cores = cli_support::machine_threads();
    let core_time = spent.wall.as_secs_f64() * cores as f64;
    let share = |time: Duration| 100.0 * time.as_secs_f64() / core_time;
    let mut text = String::new();
    for round in AggregationRound::ALL {
        let circuits = count_jobs(report, Stage::CircuitProof, round, true);
        writeln!(text, "{:<18} {circuits:>7} circuits", round.as_str())?;
    }
    let compressions = count_jobs(report, Stage::Compression, AggregationRound::Scheduler, true);
    writeln!(text, "{:<18} {compressions:>7} proof", "compression")?;
    writeln!(
        text,
        "{:<18} {:>7} of which {} failed and {} were lost with their worker",
        "attempts", report.attempts, report.failed_attempts, report.worker_deaths
    )?;
    writeln!(text, "{:<18} {:>7.1} s", "wall time", wall.as_secs_f64())?;
    writeln!(text, "{:<18} {:>7.1} s", "CPU time", spent.cpu.as_secs_f64())?;
    let proving = spent.proving;
    writeln!(
        text,
        "{:<18} {:>7.1} s, {:.0} % of what {cores} cores have in that time",
        "cores proving",
        proving.as_secs_f64(),
        share(proving)
    )?;
    if let Some(bytes) = peak_memory_bytes() {
        writeln!(text, "{:<18} {:>7} MiB", "peak memory", bytes >> 20)?;
    }
    std::io::stdout().write_all(text.as_bytes()).context("cannot print the summary")
}

/// The most memory that this process ever had resident, where the system tells.
fn peak_memory_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kilobytes| kilobytes << 10)
}
