//! `prover run`: components in one process, on a database and an object store.

use crate::BadInput;
use anyhow::Context;
use artifact_store::ArtifactStore;
use circuit_prover::CircuitProverConfig;
use clap::{Args, ValueEnum};
use embedded_postgres::{EmbeddedPostgres, Options};
use job_store::{DatabaseUrl, JobStore, LeaseKeeper, NewWorker, WakeListener, WorkerContext};
use ledger_circuits::LedgerProofSystem;
use proof_system::{KeyPurpose, ProofSystem};
use proving_model::AggregationRound;
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use witness_generator::WitnessGeneratorConfig;

/// Heartbeats of a worker: every 5 s; a lease without one expires after 20 s.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);
const LEASE_DURATION: Duration = Duration::from_secs(20);
/// How long a picker waits for a wake-up before it looks anyway.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How often the monitor looks for expired leases.
const RESCUE_INTERVAL: Duration = Duration::from_secs(1);

/// A part of the pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Component {
    /// Turns inputs and proofs into circuits.
    WitnessGenerator,
    /// Synthesises and proves circuits.
    CircuitProver,
    /// Makes the small final proof.
    Compressor,
    /// Puts back the jobs of dead workers.
    ProverJobMonitor,
    /// All of them.
    All,
}

impl Component {
    fn includes(self, part: Self) -> bool {
        self == Self::All || self == part
    }
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The components to run in this process.
    #[arg(long, value_enum, value_delimiter = ',', required = true, env = "ROUNDHOUSE_COMPONENT")]
    component: Vec<Component>,
    /// The rounds that the witness generator works for: all-rounds, or one of the five.
    #[arg(long, default_value = "all-rounds", env = "ROUNDHOUSE_ROUND")]
    round: String,
    /// Witness-vector generators that take light circuits only.
    #[arg(short = 'l', long, default_value_t = 1, env = "ROUNDHOUSE_LIGHT_WVG_COUNT")]
    light_wvg_count: usize,
    /// Witness-vector generators that take heavy circuits first.
    #[arg(short = 'H', long, default_value_t = 1, env = "ROUNDHOUSE_HEAVY_WVG_COUNT")]
    heavy_wvg_count: usize,
    /// The database's URL.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: String,
    /// The object store: a folder, or a URL (file:, s3:, gs:, az:).
    #[arg(long, env = "ROUNDHOUSE_OBJECT_STORE")]
    object_store: String,
    /// The key folder [default: the user's cache folder].
    #[arg(long, env = "ROUNDHOUSE_KEYS")]
    keys: Option<PathBuf>,
    /// Seconds that running jobs may take to finish after the signal to stop.
    #[arg(long, default_value_t = 60, env = "ROUNDHOUSE_DRAIN_TIMEOUT_SECONDS")]
    drain_timeout_seconds: u64,
}

/// What components run on.
#[derive(Debug, Clone)]
pub(crate) struct Ground {
    pub(crate) url: DatabaseUrl,
    pub(crate) store: JobStore,
    pub(crate) artifacts: ArtifactStore,
    pub(crate) system: Arc<LedgerProofSystem>,
}

/// Which components, and how much of each.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) components: Vec<Component>,
    pub(crate) rounds: Vec<AggregationRound>,
    pub(crate) light_wvg_count: usize,
    pub(crate) heavy_wvg_count: usize,
    pub(crate) drain_timeout: Duration,
}

impl Plan {
    fn has(&self, part: Component) -> bool {
        self.components.iter().any(|component| component.includes(part))
    }
}

/// The default key folder: the user's cache.
pub(crate) fn keys_folder(given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    given
        .or_else(|| cache.map(|cache| cache.join("roundhouse").join("keys")))
        .ok_or_else(|| BadInput("neither --keys nor HOME says where keys are kept".to_owned()).into())
}

/// Loads the keys for a purpose; generating them the first time takes a minute and shows how far it is.
pub(crate) fn load_keys(system: &LedgerProofSystem, purpose: KeyPurpose) -> anyhow::Result<()> {
    let bar = indicatif::ProgressBar::no_length();
    let result = system.load_keys(purpose, &|done, total, name| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
        if done < total {
            tracing::info!("generating key {} of {total}: {name}", done + 1);
        }
    });
    bar.finish_and_clear();
    Ok(result?)
}

pub(crate) fn check_keys(keys: Option<PathBuf>) -> anyhow::Result<()> {
    let folder = keys_folder(keys)?;
    let system = LedgerProofSystem::shipped(&folder)?;
    for purpose in [KeyPurpose::Aggregate, KeyPurpose::Prove, KeyPurpose::Compress] {
        load_keys(&system, purpose)?;
    }
    tracing::info!("all keys in {} are those that this program ships", folder.display());
    Ok(())
}

/// Returns at the first SIGTERM or Ctrl-C, having set the token; a second one ends the process at once.
pub(crate) fn shutdown_on_signal() -> anyhow::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let token = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = token.clone();
    tokio::spawn(async move {
        for is_second in [false, true] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if is_second {
                std::process::exit(130);
            }
            tracing::info!(
                "stopping: running jobs finish, others are handed back; a second signal stops at once"
            );
            stop.cancel();
        }
    });
    Ok(token)
}

/// Runs the plan's components until the token is set and all have drained.
pub(crate) async fn run_plan(ground: Ground, plan: Plan, shutdown: CancellationToken) -> anyhow::Result<()> {
    let system: Arc<dyn ProofSystem> = ground.system.clone();
    let (version, digest) = (system.protocol_version(), system.verification_keys_digest());
    ground.store.check_protocol_version(version, system.name(), &digest).await?;
    let purposes = [
        (Component::WitnessGenerator, KeyPurpose::Aggregate),
        (Component::CircuitProver, KeyPurpose::Prove),
        (Component::Compressor, KeyPurpose::Compress),
    ];
    for (component, purpose) in purposes {
        if plan.has(component) {
            let system = ground.system.clone();
            tokio::task::spawn_blocking(move || load_keys(&system, purpose)).await??;
        }
    }
    let name = plan.components.iter().map(|c| format!("{c:?}").to_lowercase()).collect::<Vec<_>>().join(",");
    let worker = NewWorker {
        component: name,
        host: std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned(),
        capacity: i32::try_from(plan.light_wvg_count + plan.heavy_wvg_count).unwrap_or(i32::MAX),
        version,
    };
    let worker = ground.store.register_worker(&worker).await?;
    let keeper = LeaseKeeper::start(&ground.url, worker, HEARTBEAT_INTERVAL, LEASE_DURATION)?;
    let context = WorkerContext {
        wake: WakeListener::start(&ground.store).await?,
        store: ground.store.clone(),
        keeper,
        worker,
        poll_interval: POLL_INTERVAL,
    };
    let mut running = JoinSet::new();
    let (artifacts, drain) = (ground.artifacts.clone(), plan.drain_timeout);
    if plan.has(Component::WitnessGenerator) {
        let config = WitnessGeneratorConfig { rounds: plan.rounds.clone(), workers: 1, drain_timeout: drain };
        let (context, artifacts, system) = (context.clone(), artifacts.clone(), system.clone());
        let stop = shutdown.clone();
        running.spawn(async move {
            ("witness-generator", witness_generator::run(context, artifacts, system, config, stop).await)
        });
    }
    if plan.has(Component::CircuitProver) {
        let config = CircuitProverConfig {
            light_wvg_count: plan.light_wvg_count,
            heavy_wvg_count: plan.heavy_wvg_count,
            drain_timeout: drain,
        };
        let (context, artifacts, system) = (context.clone(), artifacts.clone(), system.clone());
        let stop = shutdown.clone();
        running.spawn(async move {
            ("circuit-prover", circuit_prover::run(context, artifacts, system, config, stop).await)
        });
    }
    if plan.has(Component::Compressor) {
        let (context, stop) = (context.clone(), shutdown.clone());
        running.spawn(async move {
            ("compressor", proof_compressor::run(context, artifacts, system, drain, stop).await)
        });
    }
    if plan.has(Component::ProverJobMonitor) {
        let (store, stop) = (ground.store.clone(), shutdown.clone());
        running.spawn(async move {
            job_monitor::rescue::run(store, RESCUE_INTERVAL, stop).await;
            ("prover-job-monitor", job_runner_report())
        });
    }
    tracing::info!(%worker, "running");
    while let Some(ended) = running.join_next().await {
        let (component, report) = ended.context("a component panicked")?;
        tracing::info!(component, ?report, "drained");
    }
    ground.store.stop_worker(worker).await?;
    Ok(())
}

/// The monitor has no jobs of its own to report.
fn job_runner_report() -> job_runner::RunnerReport {
    job_runner::RunnerReport::default()
}

pub(crate) async fn run(args: RunArgs) -> anyhow::Result<()> {
    let rounds = match args.round.as_str() {
        "all-rounds" => AggregationRound::ALL.to_vec(),
        round => vec![round.parse().map_err(|e| BadInput(format!("--round: {e}, or all-rounds")))?],
    };
    let url = DatabaseUrl::new(&args.database_url).map_err(|e| BadInput(e.to_string()))?;
    let store = JobStore::connect(&url).await?;
    store.check_schema().await?;
    let ground = Ground {
        url,
        store,
        artifacts: ArtifactStore::open(&args.object_store)?,
        system: Arc::new(LedgerProofSystem::shipped(&keys_folder(args.keys)?)?),
    };
    let plan = Plan {
        components: args.component,
        rounds,
        light_wvg_count: args.light_wvg_count,
        heavy_wvg_count: args.heavy_wvg_count,
        drain_timeout: Duration::from_secs(args.drain_timeout_seconds),
    };
    run_plan(ground, plan, shutdown_on_signal()?).await
}

pub(crate) async fn serve_database(data: PathBuf) -> anyhow::Result<()> {
    let server =
        tokio::task::spawn_blocking(move || EmbeddedPostgres::start(&data, &Options::default())).await??;
    migrate(server.url("postgres")).await?;
    tracing::info!("DATABASE_URL={}", server.url("postgres"));
    shutdown_on_signal()?.cancelled().await;
    tokio::task::spawn_blocking(move || server.stop()).await?;
    Ok(())
}

pub(crate) async fn migrate(database_url: String) -> anyhow::Result<()> {
    let store = JobStore::connect(&DatabaseUrl::new(&database_url)?).await?;
    store.migrate().await?;
    store.close().await;
    Ok(())
}
