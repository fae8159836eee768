//! `prover run`: components in one process, on a database and an object store.

use crate::devices::DeviceArgs;
use anyhow::Context;
use circuit_prover::Layout;
use clap::Args;
use cli_support::{BadInput, DatabaseArgs, ObjectStoreArgs, ProofSystemArgs, ProofSystems};
use job_monitor::{COLLECT_AFTER_HOURS, DELETE_AFTER_DAYS, MonitorConfig};
use pipeline::endpoints::{self, Phase};
use pipeline::http::ListenArgs;
use pipeline::plan::{Component, Plan, Timing, memory_budget};
use pipeline::run::{Backends, run_plan};
use proof_system::ProofSystem;
use proving_model::AggregationRound;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use witness_generator::WitnessGeneratorConfig;

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The components to run in this process.
    #[arg(long, value_enum, value_delimiter = ',', env = "ROUNDHOUSE_COMPONENT")]
    component: Vec<Component>,
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    object_store: ObjectStoreArgs,
    #[command(flatten)]
    system: ProofSystemArgs,
    #[command(flatten)]
    listen: ListenArgs,
    #[command(flatten)]
    timing: TimingArgs,
    #[command(flatten)]
    witness_generator: WitnessGeneratorArgs,
    #[command(flatten)]
    circuit_prover: CircuitProverArgs,
    #[command(flatten)]
    monitor: MonitorArgs,
}

/// Times that all components share.
#[derive(Debug, Clone, Args)]
struct TimingArgs {
    /// Seconds that running jobs may take to finish after the signal to stop.
    #[arg(long, default_value_t = Timing::DEFAULT.drain_timeout.as_secs(), value_parser = cli_support::seconds(0), env = "ROUNDHOUSE_DRAIN_TIMEOUT_SECONDS")]
    drain_timeout_seconds: u64,
    /// Milliseconds between two heartbeats, which prolong leases.
    #[arg(long, default_value_t = milliseconds(Timing::DEFAULT.heartbeat_interval), value_parser = cli_support::milliseconds(1), env = "ROUNDHOUSE_HEARTBEAT_INTERVAL_MS")]
    heartbeat_interval_ms: u64,
    /// Milliseconds that a lease lasts without a heartbeat.
    #[arg(long, default_value_t = milliseconds(Timing::DEFAULT.lease_duration), value_parser = cli_support::milliseconds(1), env = "ROUNDHOUSE_LEASE_DURATION_MS")]
    lease_duration_ms: u64,
    /// Milliseconds after which a picker looks for jobs although nobody announced any.
    #[arg(long, default_value_t = milliseconds(Timing::DEFAULT.poll_interval), value_parser = cli_support::milliseconds(1), env = "ROUNDHOUSE_POLL_INTERVAL_MS")]
    poll_interval_ms: u64,
    /// Seconds that an attempt may take; a job that passes this twice has failed.
    #[arg(long, default_value_t = Timing::DEFAULT.job_timeout.as_secs(), value_parser = cli_support::seconds(1), env = "ROUNDHOUSE_JOB_TIMEOUT_SECONDS")]
    job_timeout_seconds: u64,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Witness generator")]
struct WitnessGeneratorArgs {
    /// The rounds that it works for: all-rounds, basic-circuits, leaf-aggregation, node-aggregation, recursion-tip or
    /// scheduler; more than one with commas.
    #[arg(long, value_delimiter = ',', default_value = "all-rounds", env = "ROUNDHOUSE_ROUND")]
    round: Vec<String>,
    /// Jobs that it works on at the same time.
    #[arg(long, default_value_t = 1, value_parser = cli_support::places(1), env = "ROUNDHOUSE_GENERATOR_COUNT")]
    generator_count: usize,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Circuit prover")]
struct CircuitProverArgs {
    /// Witness-vector generators that take light circuits only.
    #[arg(short = 'l', long, default_value_t = 1, value_parser = cli_support::places(0), env = "ROUNDHOUSE_LIGHT_WVG_COUNT")]
    light_wvg_count: usize,
    /// Witness-vector generators that take heavy circuits first, then light ones.
    #[arg(short = 'H', long, default_value_t = 1, value_parser = cli_support::places(0), env = "ROUNDHOUSE_HEAVY_WVG_COUNT")]
    heavy_wvg_count: usize,
    /// Simple mode: so many threads, each of which synthesises and proves one circuit after the other.
    #[arg(short = 't', long, value_parser = cli_support::places(1), env = "ROUNDHOUSE_THREADS",
          conflicts_with_all = ["light_wvg_count", "heavy_wvg_count"])]
    threads: Option<usize>,
    #[command(flatten)]
    device: DeviceArgs,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Prover job monitor")]
struct MonitorArgs {
    /// Milliseconds between two looks for expired leases.
    #[arg(long, default_value_t = milliseconds(MonitorConfig::DEFAULT.rescue_interval), value_parser = cli_support::milliseconds(1),
          env = "ROUNDHOUSE_RESCUE_INTERVAL_MS")]
    rescue_interval_ms: u64,
    /// Milliseconds between two looks for failed jobs whose rest is over.
    #[arg(long, default_value_t = milliseconds(MonitorConfig::DEFAULT.retry_interval), value_parser = cli_support::milliseconds(1),
          env = "ROUNDHOUSE_RETRY_INTERVAL_MS")]
    retry_interval_ms: u64,
    /// Seconds after its end when the jobs of a proven batch go into the archive.
    #[arg(long, default_value_t = MonitorConfig::DEFAULT.archive_after.as_secs(), value_parser = cli_support::seconds(0),
          env = "ROUNDHOUSE_ARCHIVE_AFTER_SECONDS")]
    archive_after_seconds: u64,
    /// Days that jobs and their attempts stay in the archive before they are deleted; 0 keeps them for ever. The batch itself,
    /// and where its final proof is, stay.
    #[arg(long, default_value_t = DELETE_AFTER_DAYS, value_parser = cli_support::days(0), env = "ROUNDHOUSE_DELETE_AFTER_DAYS")]
    delete_after_days: u64,
    /// Hours after its end when what was made for a batch is removed from the object store; 0 keeps it for ever. Its input and its
    /// final proof stay, until it is deleted.
    #[arg(long, default_value_t = COLLECT_AFTER_HOURS, value_parser = cli_support::hours(0), env = "ROUNDHOUSE_COLLECT_AFTER_HOURS")]
    collect_after_hours: u64,
    /// Milliseconds between two reports of the whole system's metrics.
    #[arg(long, default_value_t = milliseconds(MonitorConfig::DEFAULT.report_interval), value_parser = cli_support::milliseconds(1),
          env = "ROUNDHOUSE_REPORT_INTERVAL_MS")]
    report_interval_ms: u64,
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl TimingArgs {
    fn timing(&self) -> Timing {
        Timing {
            drain_timeout: Duration::from_secs(self.drain_timeout_seconds),
            heartbeat_interval: Duration::from_millis(self.heartbeat_interval_ms),
            lease_duration: Duration::from_millis(self.lease_duration_ms),
            poll_interval: Duration::from_millis(self.poll_interval_ms),
            job_timeout: Duration::from_secs(self.job_timeout_seconds),
        }
    }
}

/// The plan that the arguments ask for.
fn plan(args: &RunArgs) -> anyhow::Result<Plan> {
    if args.component.is_empty() {
        return Err(BadInput("no component is named: set --component".to_owned()).into());
    }
    let mut rounds = Vec::new();
    for round in &args.witness_generator.round {
        match round.as_str() {
            "all-rounds" => rounds.extend(AggregationRound::ALL),
            round => {
                rounds.push(round.parse().map_err(|e| BadInput(format!("--round: {e}, or all-rounds")))?);
            }
        }
    }
    let prover = &args.circuit_prover;
    let layout = match prover.threads {
        Some(threads) => Layout::Threads(threads),
        None if prover.light_wvg_count + prover.heavy_wvg_count == 0 => {
            let nothing = "--light-wvg-count and --heavy-wvg-count are both 0: nothing would ever be proven";
            return Err(BadInput(nothing.to_owned()).into());
        }
        None => Layout::Chained {
            light_wvg_count: prover.light_wvg_count,
            heavy_wvg_count: prover.heavy_wvg_count,
            provers: 1,
        },
    };
    let monitor = MonitorConfig {
        rescue_interval: Duration::from_millis(args.monitor.rescue_interval_ms),
        retry_interval: Duration::from_millis(args.monitor.retry_interval_ms),
        archive_after: Duration::from_secs(args.monitor.archive_after_seconds),
        delete_after: (args.monitor.delete_after_days > 0)
            .then(|| Duration::from_secs(args.monitor.delete_after_days.saturating_mul(24 * 3_600))),
        collect_after: (args.monitor.collect_after_hours > 0)
            .then(|| Duration::from_secs(args.monitor.collect_after_hours.saturating_mul(3_600))),
        report_interval: Duration::from_millis(args.monitor.report_interval_ms),
    };
    let workers = args.witness_generator.generator_count;
    Ok(Plan {
        logs_ends: true,
        components: args.component.clone(),
        generator: WitnessGeneratorConfig { rounds, workers },
        layout,
        monitor,
        timing: args.timing.timing(),
        memory_budget: memory_budget(prover.device.host_allocation()),
    })
}

/// Refuses a memory budget below the largest circuit that the layout takes: that circuit would wait for ever.
pub(crate) fn check_allocation(plan: &Plan, system: &dyn ProofSystem) -> anyhow::Result<()> {
    let Some((name, needed, allowed)) = plan.circuit_beyond_budget(system) else { return Ok(()) };
    Err(BadInput(format!(
        "a {name} circuit needs {needed} bytes, and circuits may take {allowed} on this machine: allow more with \
         --max-allocation, or have `prover run` take light circuits only (--heavy-wvg-count=0)"
    ))
    .into())
}

/// Runs the components that the arguments name, until a signal to drain.
pub(crate) async fn run(args: RunArgs, systems: &ProofSystems) -> anyhow::Result<()> {
    let mut plan = plan(&args)?;
    let url = args.database.url()?;
    let proves = plan.has(Component::CircuitProver) || plan.has(Component::Compressor);
    let devices = if proves { args.circuit_prover.device.open()? } else { None };
    if let Some(devices) = &devices {
        plan = plan.with_provers(devices.count);
    }
    let system = args.system.open_proven_by(systems, devices.map(|devices| devices.prover))?;
    check_allocation(&plan, &*system)?;
    plan.say_limits();
    let artifacts = args.object_store.open()?;
    artifacts.check().await.context("cannot write, read and delete a test object: check --object-store")?;
    let store = cli_support::connect(&url.named(&format!("roundhouse {}", plan.names()))).await?;
    let shutdown = cli_support::shutdown_on_signal(Some(cli_support::DRAINING))?;
    let (phase, shown) = watch::channel(Phase::Starting);
    // The endpoints outlive the components, so that draining can be watched.
    let served = CancellationToken::new();
    let has_pages = args.listen.listen.is_some() && plan.has(Component::ProverJobMonitor);
    let pages = has_pages.then(|| job_monitor::routes(store.clone(), served.clone()));
    endpoints::serve(&args.listen, store.clone(), shown, pages, served.clone()).await?;
    let backends = Backends { store, artifacts, system };
    let result = run_plan(&backends, &plan, &phase, shutdown).await;
    served.cancel();
    backends.store.close().await;
    result.map(drop)
}
