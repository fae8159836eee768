//! `prover run`: components in one process, on a database and an object store.

use crate::devices::DeviceArgs;
use crate::endpoints::{self, Phase};
use crate::http::ListenArgs;
use anyhow::Context;
use artifact_store::ArtifactStore;
use circuit_prover::Layout;
use clap::{Args, ValueEnum};
use job_monitor::{COLLECT_AFTER_HOURS, DELETE_AFTER_DAYS, MonitorConfig};
use job_runner::{MemoryBudget, RunnerReport};
use job_store::{JobStore, LeaseKeeper, NewWorker, WakeListener, WorkerContext};
use launch::{BadInput, DatabaseArgs, ObjectStoreArgs, ProofSystemArgs, load_keys};
use proof_system::{KeyPurpose, ProofSystem};
use proving_component::ComponentContext;
use proving_model::AggregationRound;
use std::{sync::Arc, time::Duration};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;
use witness_generator::WitnessGeneratorConfig;

/// A part of the pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Component {
    /// Turns inputs and proofs into circuits.
    WitnessGenerator,
    /// Synthesises and proves circuits.
    CircuitProver,
    /// Makes the small final proof.
    Compressor,
    /// Puts back the jobs of dead workers, archives, collects artifacts, reports; serves a live page.
    ProverJobMonitor,
    /// All of them.
    All,
}

impl Component {
    fn includes(self, part: Self) -> bool {
        self == Self::All || self == part
    }

    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

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
    pace: PaceArgs,
    #[command(flatten)]
    witness_generator: WitnessGeneratorArgs,
    #[command(flatten)]
    circuit_prover: CircuitProverArgs,
    #[command(flatten)]
    monitor: MonitorArgs,
}

/// Times that all components share.
#[derive(Debug, Clone, Args)]
pub(crate) struct PaceArgs {
    /// Seconds that running jobs may take to finish after the signal to stop.
    #[arg(long, default_value_t = PaceArgs::DEFAULT.drain_timeout_seconds, value_parser = launch::seconds(0), env = "ROUNDHOUSE_DRAIN_TIMEOUT_SECONDS")]
    drain_timeout_seconds: u64,
    /// Milliseconds between two heartbeats, which prolong leases.
    #[arg(long, default_value_t = PaceArgs::DEFAULT.heartbeat_interval_ms, value_parser = launch::milliseconds(1), env = "ROUNDHOUSE_HEARTBEAT_INTERVAL_MS")]
    heartbeat_interval_ms: u64,
    /// Milliseconds that a lease lasts without a heartbeat.
    #[arg(long, default_value_t = PaceArgs::DEFAULT.lease_duration_ms, value_parser = launch::milliseconds(1), env = "ROUNDHOUSE_LEASE_DURATION_MS")]
    lease_duration_ms: u64,
    /// Milliseconds after which a picker looks for jobs although nobody announced any.
    #[arg(long, default_value_t = PaceArgs::DEFAULT.poll_interval_ms, value_parser = launch::milliseconds(1), env = "ROUNDHOUSE_POLL_INTERVAL_MS")]
    poll_interval_ms: u64,
    /// Seconds that an attempt may take; a job that passes this twice has failed.
    #[arg(long, default_value_t = PaceArgs::DEFAULT.job_timeout_seconds, value_parser = launch::seconds(1), env = "ROUNDHOUSE_JOB_TIMEOUT_SECONDS")]
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
    #[arg(long, default_value_t = 1, value_parser = launch::places(1), env = "ROUNDHOUSE_GENERATOR_COUNT")]
    generator_count: usize,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Circuit prover")]
struct CircuitProverArgs {
    /// Witness-vector generators that take light circuits only.
    #[arg(short = 'l', long, default_value_t = 1, value_parser = launch::places(0), env = "ROUNDHOUSE_LIGHT_WVG_COUNT")]
    light_wvg_count: usize,
    /// Witness-vector generators that take heavy circuits first, then light ones.
    #[arg(short = 'H', long, default_value_t = 1, value_parser = launch::places(0), env = "ROUNDHOUSE_HEAVY_WVG_COUNT")]
    heavy_wvg_count: usize,
    /// Simple mode: so many threads, each of which synthesises and proves one circuit after the other.
    #[arg(short = 't', long, value_parser = launch::places(1), env = "ROUNDHOUSE_THREADS",
          conflicts_with_all = ["light_wvg_count", "heavy_wvg_count"])]
    threads: Option<usize>,
    #[command(flatten)]
    device: DeviceArgs,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Prover job monitor")]
struct MonitorArgs {
    /// Milliseconds between two looks for expired leases.
    #[arg(long, default_value_t = milliseconds(MonitorConfig::DEFAULT.rescue_interval), value_parser = launch::milliseconds(1),
          env = "ROUNDHOUSE_RESCUE_INTERVAL_MS")]
    rescue_interval_ms: u64,
    /// Milliseconds between two looks for failed jobs whose rest is over.
    #[arg(long, default_value_t = milliseconds(MonitorConfig::DEFAULT.retry_interval), value_parser = launch::milliseconds(1),
          env = "ROUNDHOUSE_RETRY_INTERVAL_MS")]
    retry_interval_ms: u64,
    /// Seconds after its end when the jobs of a proven batch go into the archive.
    #[arg(long, default_value_t = MonitorConfig::DEFAULT.archive_after.as_secs(), value_parser = launch::seconds(0),
          env = "ROUNDHOUSE_ARCHIVE_AFTER_SECONDS")]
    archive_after_seconds: u64,
    /// Days that jobs and their attempts stay in the archive before they are deleted; 0 keeps them for ever. The batch itself,
    /// and where its final proof is, stay.
    #[arg(long, default_value_t = DELETE_AFTER_DAYS, value_parser = launch::days(0), env = "ROUNDHOUSE_DELETE_AFTER_DAYS")]
    delete_after_days: u64,
    /// Hours after its end when what was made for a batch is removed from the object store; 0 keeps it for ever. Its input and its
    /// final proof stay, until it is deleted.
    #[arg(long, default_value_t = COLLECT_AFTER_HOURS, value_parser = launch::hours(0), env = "ROUNDHOUSE_COLLECT_AFTER_HOURS")]
    collect_after_hours: u64,
    /// Milliseconds between two reports of the whole system's metrics.
    #[arg(long, default_value_t = milliseconds(MonitorConfig::DEFAULT.report_interval), value_parser = launch::milliseconds(1),
          env = "ROUNDHOUSE_REPORT_INTERVAL_MS")]
    report_interval_ms: u64,
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl PaceArgs {
    /// What holds where nothing is said.
    const DEFAULT: Self = Self {
        drain_timeout_seconds: 60,
        heartbeat_interval_ms: 5_000,
        lease_duration_ms: 20_000,
        poll_interval_ms: 5_000,
        job_timeout_seconds: 3_600,
    };
}

/// What components run on.
#[derive(Debug, Clone)]
pub(crate) struct Ground {
    pub(crate) store: JobStore,
    pub(crate) artifacts: ArtifactStore,
    pub(crate) system: Arc<dyn ProofSystem>,
}

/// Which components, and how much of each.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) components: Vec<Component>,
    pub(crate) generator: WitnessGeneratorConfig,
    pub(crate) layout: Layout,
    pub(crate) monitor: MonitorConfig,
    pub(crate) pace: PaceArgs,
    /// What circuits may take of the memory at the same time, in bytes.
    pub(crate) memory_budget: Option<u64>,
}

impl Plan {
    /// All components on one machine, for one batch after the other.
    pub(crate) fn one_machine(drain_timeout_seconds: u64) -> Self {
        let interval = Duration::from_millis(500);
        Self {
            components: vec![Component::All],
            generator: WitnessGeneratorConfig { rounds: AggregationRound::ALL.to_vec(), workers: 1 },
            layout: Layout::Chained { light_wvg_count: 1, heavy_wvg_count: 1, provers: 1 },
            monitor: MonitorConfig {
                rescue_interval: interval,
                retry_interval: interval,
                ..MonitorConfig::DEFAULT
            },
            pace: PaceArgs { drain_timeout_seconds, ..PaceArgs::DEFAULT },
            memory_budget: usual_memory_budget(),
        }
    }

    /// With so many jobs of witness generation at the same time.
    pub(crate) fn with_generators(mut self, workers: usize) -> Self {
        self.generator.workers = workers;
        self
    }

    /// With so many circuits being proven at the same time.
    pub(crate) fn with_provers(mut self, count: usize) -> Self {
        if let Layout::Chained { provers, .. } = &mut self.layout {
            *provers = count;
        }
        self
    }

    fn from_args(args: &RunArgs) -> anyhow::Result<Self> {
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
                let nothing =
                    "--light-wvg-count and --heavy-wvg-count are both 0: nothing would ever be proven";
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
        Ok(Self {
            components: args.component.clone(),
            generator: WitnessGeneratorConfig { rounds, workers },
            layout,
            monitor,
            pace: args.pace.clone(),
            memory_budget: prover.device.host_allocation().or_else(usual_memory_budget),
        })
    }

    fn has(&self, part: Component) -> bool {
        self.components.iter().any(|component| component.includes(part))
    }

    /// Jobs at the same time, in all components.
    fn capacity(&self) -> usize {
        let parts = [
            (Component::WitnessGenerator, self.generator.workers),
            (Component::CircuitProver, self.layout.circuits_in_memory()),
            (Component::Compressor, 1),
        ];
        parts.into_iter().filter(|(part, _)| self.has(*part)).map(|(_, jobs)| jobs).sum()
    }
}

/// Runs the plan's components until the token is set and all have drained; returns a report a runner.
pub(crate) async fn run_plan(
    ground: &Ground,
    plan: &Plan,
    phase: &watch::Sender<Phase>,
    shutdown: CancellationToken,
) -> anyhow::Result<Vec<RunnerReport>> {
    let system = &ground.system;
    let (version, digest) = (system.protocol_version(), system.verification_keys_digest());
    let purposes = [
        (Component::WitnessGenerator, KeyPurpose::Aggregate),
        (Component::CircuitProver, KeyPurpose::Prove),
        (Component::Compressor, KeyPurpose::Compress),
    ];
    let purposes: Vec<KeyPurpose> = purposes
        .into_iter()
        .filter(|(component, _)| plan.has(*component))
        .map(|(_, purpose)| purpose)
        .collect();
    if !purposes.is_empty() {
        ground.store.check_protocol_version(version, system.name(), &digest).await?;
    }
    for purpose in purposes {
        let system = system.clone();
        tokio::task::spawn_blocking(move || load_keys(&*system, purpose)).await??;
    }
    let worker = NewWorker {
        component: plan.components.iter().map(|c| c.name()).collect::<Vec<_>>().join(","),
        host: std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned(),
        capacity: i32::try_from(plan.capacity()).unwrap_or(i32::MAX),
        version,
        memory_budget_bytes: plan.memory_budget,
    };
    let milliseconds = Duration::from_millis;
    let (heartbeat, lease) =
        (milliseconds(plan.pace.heartbeat_interval_ms), milliseconds(plan.pace.lease_duration_ms));
    let keeper = LeaseKeeper::start(&ground.store, &worker, heartbeat, lease).await?;
    let worker = keeper.worker();
    let context = ComponentContext {
        worker: WorkerContext {
            wake: WakeListener::start(&ground.store).await?,
            store: Arc::new(ground.store.clone()),
            // Also here, so that its lock outlives the components: their end is not the process's death.
            keeper: keeper.clone(),
            memory: MemoryBudget::new(plan.memory_budget),
            poll_interval: milliseconds(plan.pace.poll_interval_ms),
            job_timeout: Duration::from_secs(plan.pace.job_timeout_seconds),
        },
        artifacts: ground.artifacts.clone(),
        system: system.clone(),
        drain_timeout: Duration::from_secs(plan.pace.drain_timeout_seconds),
        shutdown: shutdown.clone(),
    };
    let mut running = start(plan, &context, &ground.store);
    drop(context);
    phase.send_replace(Phase::Running);
    tracing::info!(%worker, "running");
    let mut reports = Vec::new();
    let asked = keeper.drain_asked();
    let draining = async {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = asked.cancelled() => {
                tracing::info!("an operator asked this process to drain");
                shutdown.cancel();
            }
        }
        phase.send_replace(Phase::Draining);
        std::future::pending::<()>().await;
    };
    tokio::pin!(draining);
    while let Some(ended) = tokio::select! {
        ended = running.join_next() => ended,
        () = &mut draining => None,
    } {
        let ended = ended.context("a component panicked")?;
        for RunnerReport { name, successful, failed, released, lease_lost, .. } in &ended {
            tracing::debug!(runner = name, successful, failed, released, lease_lost, "drained");
        }
        reports.extend(ended);
    }
    ground.store.stop_worker(worker).await?;
    drop(keeper);
    Ok(reports)
}

/// Starts every component of the plan on a task of its own.
fn start(plan: &Plan, context: &ComponentContext, store: &JobStore) -> JoinSet<Vec<RunnerReport>> {
    let mut running = JoinSet::new();
    if plan.has(Component::WitnessGenerator) {
        let (context, config) = (context.clone(), plan.generator.clone());
        running.spawn(async move { vec![witness_generator::run(context, config).await] });
    }
    if plan.has(Component::CircuitProver) {
        running.spawn(circuit_prover::run(context.clone(), plan.layout));
    }
    if plan.has(Component::Compressor) {
        let context = context.clone();
        running.spawn(async move { vec![proof_compressor::run(context).await] });
    }
    if plan.has(Component::ProverJobMonitor) {
        let (store, artifacts) = (store.clone(), context.artifacts.clone());
        let (config, stop) = (plan.monitor, context.shutdown.clone());
        running.spawn(async move {
            job_monitor::run(store, artifacts, config, stop).await;
            Vec::new()
        });
    }
    running
}

/// What circuits may take where nothing is said: the rest is for the keys, the artifacts on their way, and everything else on the
/// machine.
fn usual_memory_budget() -> Option<u64> {
    job_runner::machine_memory_bytes().map(|bytes| bytes / 4 * 3)
}

/// What is allowed against the largest circuit that the layout takes: one that never fits would wait for ever.
fn check_allocation(plan: &Plan, system: &dyn ProofSystem) -> anyhow::Result<()> {
    let Some((name, needed)) = plan.layout.largest_circuit(system.circuit_table()) else { return Ok(()) };
    match plan.memory_budget {
        Some(allowed) if plan.has(Component::CircuitProver) && needed > allowed => Err(BadInput(format!(
            "a {name} circuit needs {needed} bytes, and circuits may take {allowed} on this machine: allow more with \
             --max-allocation, or take light circuits only (--heavy-wvg-count=0)"
        ))
        .into()),
        _ => Ok(()),
    }
}

pub(crate) async fn run(args: RunArgs) -> anyhow::Result<()> {
    let mut plan = Plan::from_args(&args)?;
    let url = args.database.url()?;
    let devices = if plan.has(Component::CircuitProver) { args.circuit_prover.device.open()? } else { None };
    if let Some(devices) = &devices {
        plan = plan.with_provers(devices.count);
    }
    let system = args.system.open_proven_by(devices.map(|devices| devices.prover))?;
    check_allocation(&plan, &*system)?;
    let artifacts = args.object_store.open()?;
    artifacts.check().await.context("the object store is of no use; is --object-store the right one?")?;
    let store = launch::connect(&url).await?;
    let shutdown = launch::shutdown_on_signal(Some(launch::DRAINING))?;
    let (phase, shown) = watch::channel(Phase::Starting);
    // The endpoints outlive the components, so that draining can be watched.
    let served = CancellationToken::new();
    let has_pages = args.listen.listen.is_some() && plan.has(Component::ProverJobMonitor);
    let pages = has_pages.then(|| job_monitor::routes(store.clone(), served.clone()));
    endpoints::serve(&args.listen, store.clone(), shown, pages, served.clone()).await?;
    let ground = Ground { store, artifacts, system };
    let result = run_plan(&ground, &plan, &phase, shutdown).await;
    served.cancel();
    ground.store.close().await;
    result.map(drop)
}
