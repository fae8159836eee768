//! Runs the components of a [`Plan`].

use crate::endpoints::Phase;
use crate::plan::{Component, Plan};
use anyhow::Context;
use artifact_store::ArtifactStore;
use cli_support::{fetch_keys, load_keys};
use job_runner::{MemoryBudget, RunnerReport, Shutdown};
use job_store::JobStore;
use job_store::database::listen::WakeListener;
use job_store::leases::keeper::LeaseKeeper;
use job_store::leases::workers::NewWorker;
use job_store::runner::context::{CircuitNames, WorkerContext};
use proof_system::{KeyPurpose, ProofSystem};
use proving_component::ComponentContext;
use std::sync::Arc;
use tokio::{sync::watch, task::JoinSet};

/// What components run on.
#[derive(Debug, Clone)]
pub struct Backends {
    /// The database.
    pub store: JobStore,
    /// The object store.
    pub artifacts: ArtifactStore,
    /// What proves.
    pub system: Arc<dyn ProofSystem>,
}

/// What a process says when it is told that it will be stopped, and may finish what runs until then.
const EXPECTING_THE_END: &str = "the end of this machine is announced: no more jobs are taken, those that wait here are handed back, \
     and the process ends when those that run are done, or by SIGTERM";

fn key_purposes(plan: &Plan) -> Vec<KeyPurpose> {
    let purposes = [
        (Component::WitnessGenerator, KeyPurpose::Aggregate),
        (Component::CircuitProver, KeyPurpose::Prove),
        (Component::Compressor, KeyPurpose::Compress),
    ];
    purposes.into_iter().filter(|(component, _)| plan.has(*component)).map(|(_, purpose)| purpose).collect()
}

/// Loads the keys that the plan's components need, and generates what is missing. Those that are loaded stay.
pub(crate) async fn load_keys_for(plan: &Plan, system: &Arc<dyn ProofSystem>) -> anyhow::Result<()> {
    let (purposes, system) = (key_purposes(plan), system.clone());
    let load = move || purposes.into_iter().try_for_each(|purpose| load_keys(&*system, purpose));
    tokio::task::spawn_blocking(load).await?
}

/// Runs the plan's components until they are told to stop and all have drained; returns one report for each runner.
///
/// # Errors
/// When the database refuses this program's protocol version, a key cannot be loaded, or a component panics.
pub async fn run_plan(
    backends: &Backends,
    plan: &Plan,
    phase: &watch::Sender<Phase>,
    shutdown: Shutdown,
) -> anyhow::Result<Vec<RunnerReport>> {
    let system = &backends.system;
    let (version, digest) = (system.protocol_version(), system.verification_keys_digest());
    if !key_purposes(plan).is_empty() {
        backends.store.check_protocol_version(version, system.name(), &digest).await?;
        // What another machine published is fetched in seconds, and takes a minute or two to generate.
        if system.key_files().is_some() {
            fetch_keys(system, &backends.artifacts)
                .await
                .context("cannot take keys from the object store")?;
        }
        load_keys_for(plan, system).await?;
    }
    let worker = NewWorker {
        component: plan.names(),
        host: std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned(),
        capacity: i32::try_from(plan.capacity()).unwrap_or(i32::MAX),
        version,
        memory_budget_bytes: plan.memory_budget,
    };
    let timing = plan.timing;
    let keeper =
        LeaseKeeper::start(&backends.store, &worker, timing.heartbeat_interval, timing.lease_duration)
            .await?;
    let worker = keeper.worker();
    let context = ComponentContext {
        worker: WorkerContext {
            wake: WakeListener::start(&backends.store).await?,
            store: Arc::new(backends.store.clone()),
            // Also here, so that its lock outlives the components: their end is not the process's death.
            keeper: keeper.clone(),
            memory: MemoryBudget::new(plan.memory_budget),
            poll_interval: timing.poll_interval,
            job_timeout: timing.job_timeout,
            circuit_names: plan.logs_ends.then(|| circuit_names(&**system)),
        },
        artifacts: backends.artifacts.clone(),
        system: system.clone(),
        drain_timeout: timing.drain_timeout,
        shutdown: shutdown.clone(),
    };
    let mut running = start(plan, &context, &backends.store);
    drop(context);
    phase.send_replace(Phase::Running);
    tracing::info!(%worker, "running");
    let mut reports = Vec::new();
    let asked = keeper.drain_asked();
    let draining = async {
        tokio::select! {
            () = shutdown.picking_ends().cancelled() => {
                if !shutdown.drain_begins().is_cancelled() {
                    tracing::info!("{EXPECTING_THE_END}");
                }
            }
            () = asked.cancelled() => {}
        }
        phase.send_replace(Phase::Draining);
        asked.cancelled().await;
        tracing::info!("an operator asked this process to drain");
        shutdown.drain();
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
    backends.store.stop_worker(worker).await?;
    drop(keeper);
    Ok(reports)
}

/// What people call the circuits of a proof system.
fn circuit_names(system: &dyn ProofSystem) -> CircuitNames {
    let circuits = &system.circuit_table().circuits;
    Arc::new(circuits.iter().map(|spec| ((spec.circuit.round, spec.circuit.id), spec.name)).collect())
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
        let (config, stop) = (plan.monitor, context.shutdown.picking_ends().clone());
        running.spawn(async move {
            job_monitor::run(store, artifacts, config, stop).await;
            Vec::new()
        });
    }
    running
}
