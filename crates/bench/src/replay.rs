//! The shape of a real batch, 17,061 basic circuits and all that aggregates them, through every stage with proofs that cost nothing: what
//! is left is what the system costs. And the same batch with its real costs on fleets that do not exist, in virtual time, with the
//! real queue: how near its order comes to the best that there is.

use crate::noop_workers::{self, LEASE_DURATION};
use crate::print;
use crate::server::{Server, ServerArgs, ServerLoad};
use anyhow::{Context, ensure};
use artifact_store::{ArtifactStore, witness_input_key};
use circuit_prover::Layout;
use clap::Args;
use job_store::JobStore;
use job_store::batches::add_jobs::{Extension, NewJob};
use job_store::batches::insert::NewBatch;
use job_store::leases::keeper::LeaseKeeper;
use job_store::leases::pick::PickFilter;
use job_store::model::rows::LeasedJob;
use pipeline::endpoints::Phase;
use pipeline::plan::{Component, Plan};
use pipeline::run::{Backends, run_plan};
use proof_system::{
    CircuitType, ProofSystem,
    mock::{MockCircuit, MockConfig, MockProofSystem},
    tree::{AggregationTree, Group},
};
use proving_model::{
    AggregationRound, ArtifactKind, BatchId, BatchStatus, CircuitId, JobKey, MemoryClass, Stage,
};
use serde::Serialize;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    fmt::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const BATCH: BatchId = BatchId { chain_id: 0, number: 1 };
/// Between two looks at whether the batch is proven.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Proofs that a leaf or a node takes.
const FAN_IN: usize = 32;
/// Basic circuits by kind: 544 leaves and 32 nodes come of them, as of the real batch.
const CIRCUITS: [u32; 16] = [16_000, 72, 72, 72, 72, 72, 72, 72, 72, 72, 72, 72, 72, 72, 72, 53];
const ARTIFACT_BYTES: usize = 1_000;

#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// Circuits of the largest kind: fewer make a smaller batch.
    #[arg(long, default_value_t = CIRCUITS[0])]
    circuits: u32,
    /// Threads that prove, and as many that generate.
    #[arg(long, default_value_t = 4)]
    threads: usize,
    /// Provers of the fleets in virtual time; more than one figure with commas.
    #[arg(long, value_delimiter = ',', default_value = "1,16,256,4096")]
    fleet: Vec<usize>,
    /// Where the artifacts go, a folder or a URL [default: this process's memory, so that no disk is measured but the database's].
    #[arg(long, default_value = "memory:")]
    artifacts: String,
    /// Leaves the fleets out.
    #[arg(long)]
    without_fleets: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Serialize)]
struct Figures {
    jobs: usize,
    seconds: f64,
    milliseconds_a_job: f64,
    jobs_per_second: f64,
    /// CPU time of the server's processes; of a private server only.
    database_cpu_ms_a_job: Option<f64>,
    write_ahead_log_bytes_a_job: f64,
    fleets: Vec<Fleet>,
}

#[derive(Debug, Serialize)]
struct Fleet {
    provers: usize,
    /// All in hours of virtual time.
    makespan: f64,
    critical_path: f64,
    work_by_provers: f64,
    /// The makespan to the larger of the two bounds.
    ratio: f64,
}

fn mock(largest: u32) -> MockConfig {
    let costs = MockCircuit { proof_bytes: ARTIFACT_BYTES, ..MockCircuit::default() };
    let mut circuit: Vec<MockCircuit> =
        CIRCUITS.iter().map(|count| MockCircuit { count: *count, ..costs.clone() }).collect();
    circuit[0].count = largest;
    MockConfig { fan_in: FAN_IN, circuit, aggregation: costs, ..MockConfig::default() }
}

pub(crate) async fn run(args: ReplayArgs) -> anyhow::Result<()> {
    let server = Server::open(&args.server, &[]).await?;
    let figures = measure(&args, &server).await;
    server.close().await?;
    let figures = figures?;
    let mut lines = format!(
        "{} jobs in {:.1} s: {:.2} ms a job, {:.0} jobs/s; of the server {} ms CPU and {:.0} bytes of its log a job\n",
        figures.jobs,
        figures.seconds,
        figures.milliseconds_a_job,
        figures.jobs_per_second,
        figures.database_cpu_ms_a_job.map_or_else(|| "unknown".to_owned(), |ms| format!("{ms:.2}")),
        figures.write_ahead_log_bytes_a_job
    );
    for Fleet { provers, makespan, critical_path, work_by_provers, ratio } in &figures.fleets {
        let _ = writeln!(
            lines,
            "{provers:5} provers in virtual time: {makespan:.3} h; critical path {critical_path:.3} h, work by provers \
             {work_by_provers:.3} h; {ratio:.3} of the larger"
        );
    }
    print(args.server.json, &figures, &lines)
}

async fn measure(args: &ReplayArgs, server: &Server) -> anyhow::Result<Figures> {
    let system = Arc::new(MockProofSystem::new(mock(args.circuits)));
    let mut figures = through_all_stages(args, server, system.clone()).await?;
    if !args.without_fleets {
        for provers in &args.fleet {
            figures.fleets.push(in_virtual_time(server, &system, &mock(args.circuits), *provers).await?);
            tracing::info!(provers, "the fleet is done");
        }
    }
    Ok(figures)
}

async fn through_all_stages(
    args: &ReplayArgs,
    server: &Server,
    system: Arc<MockProofSystem>,
) -> anyhow::Result<Figures> {
    let url = server.database().await?;
    let store = JobStore::connect(&url).await?;
    store.migrate().await?;
    let version = system.protocol_version();
    store.insert_protocol_version(version, system.name(), &system.verification_keys_digest()).await?;
    let artifacts = ArtifactStore::open(&args.artifacts)?;
    let payload = b"mock replay".to_vec();
    let input =
        artifacts.put(ArtifactKind::WitnessInput, witness_input_key(BATCH, &payload), &payload).await?;
    let here = Backends { store: store.clone(), artifacts, system: system.clone() };
    let plan = Plan {
        logs_ends: false,
        components: vec![Component::All],
        layout: Layout::Threads(args.threads),
        // Jobs of no size: each by itself would be admitted for nothing.
        memory_budget: None,
        ..Plan::one_machine(Duration::from_secs(60)).with_generators(args.threads)
    };
    let (before, log) = (server.postmaster().map(ServerLoad::of), store.write_ahead_log_bytes().await?);
    let begun = Instant::now();
    store.insert_batch(&NewBatch::new(BATCH, version, input)).await?;
    let done = CancellationToken::new();
    let phase = watch::Sender::new(Phase::Starting);
    let running = run_plan(&here, &plan, &phase, done.clone().into());
    let watching = async {
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let batch = store.batch(BATCH).await?.context("it was inserted")?;
            match batch.status {
                BatchStatus::Successful => return anyhow::Ok(begun.elapsed()),
                BatchStatus::Failed => anyhow::bail!("the batch failed: {}", batch.error.unwrap_or_default()),
                _ => {}
            }
        }
    };
    let watching = async {
        let took = watching.await;
        done.cancel();
        took
    };
    let (reports, took) = tokio::join!(running, watching);
    reports?;
    let took = took?;
    let counts = store.batch_report(BATCH).await?.counts;
    let jobs = usize::try_from(counts.iter().map(|count| count.count).sum::<i64>())?;
    let after = server.postmaster().map(ServerLoad::of);
    let cpu = before.zip(after).map(|(before, after)| (after.cpu_ms - before.cpu_ms) / jobs as f64);
    let log = store.write_ahead_log_bytes().await? - log;
    store.close().await;
    Ok(Figures {
        jobs,
        seconds: took.as_secs_f64(),
        milliseconds_a_job: took.as_secs_f64() * 1e3 / jobs as f64,
        jobs_per_second: jobs as f64 / took.as_secs_f64(),
        database_cpu_ms_a_job: cpu,
        write_ahead_log_bytes_a_job: log as f64 / jobs as f64,
        fleets: Vec::new(),
    })
}

/// What a circuit costs to prove, in milliseconds. A real batch of this shape took one A100 about three and a half hours for 17,639
/// proofs, 0.71 s each in the mean; kinds differ, and aggregations cost more.
fn cost(circuit: CircuitType) -> i64 {
    match circuit.round {
        AggregationRound::BasicCircuits => 500 + 40 * i64::from(circuit.id.0 % 16),
        AggregationRound::LeafAggregation | AggregationRound::NodeAggregation => 1_500,
        AggregationRound::RecursionTip | AggregationRound::Scheduler => 2_500,
    }
}

/// All groups of the batch, children before parents.
fn groups(system: &MockProofSystem, config: &MockConfig) -> anyhow::Result<(Vec<JobKey>, Vec<Group>)> {
    let mut tree = AggregationTree::new(system.circuit_table())?;
    let (mut basics, mut groups) = (Vec::new(), Vec::new());
    for (id, circuit) in (1..).zip(&config.circuit) {
        for _ in 0..circuit.count {
            let (node, group) = tree.push(CircuitId(id));
            basics.push(node.job(Stage::CircuitProof));
            groups.extend(group);
        }
    }
    groups.extend(tree.finish()?);
    Ok((basics, groups))
}

/// One prover takes a job from the real queue whenever it is free, and completes it when its cost has passed; the clock jumps from one
/// end to the next. An aggregation's generation costs nothing here: it is not the provers' work.
async fn in_virtual_time(
    server: &Server,
    system: &MockProofSystem,
    config: &MockConfig,
    provers: usize,
) -> anyhow::Result<Fleet> {
    let (_, store) = noop_workers::fresh_store(server).await?;
    let context = noop_workers::register(&store, provers, LEASE_DURATION).await?;
    let (basics, groups) = groups(system, config)?;
    let costs: BTreeMap<JobKey, i64> = basics
        .iter()
        .copied()
        .chain(groups.iter().map(|group| group.parent.job(Stage::CircuitProof)))
        .map(|key| (key, cost(CircuitType { round: key.round, id: key.circuit_id })))
        .collect();
    insert(&store, &context.keeper, &basics, &groups, &costs).await?;
    let work: i64 = costs.values().sum();
    // The longest way to the last proof.
    let mut paths: BTreeMap<JobKey, i64> = basics.iter().map(|key| (*key, costs[key])).collect();
    for group in &groups {
        let children = group.children.iter().filter_map(|child| paths.get(&child.job(Stage::CircuitProof)));
        let before = children.max().copied().unwrap_or(0);
        let key = group.parent.job(Stage::CircuitProof);
        paths.insert(key, before + costs[&key]);
    }
    let critical_path = paths.values().max().copied().unwrap_or(0);

    let worker = context.keeper.worker();
    let circuits = PickFilter { version: noop_workers::VERSION, ..noop_workers::filter(Stage::CircuitProof) };
    let generations = noop_workers::filter(Stage::WitnessGeneration);
    let output = noop_workers::nothing();
    let mut now = 0;
    let mut free = provers;
    let mut order = 0_usize;
    let mut running: BinaryHeap<Reverse<(i64, usize)>> = BinaryHeap::new();
    let mut in_hand: BTreeMap<usize, LeasedJob> = BTreeMap::new();
    loop {
        // What needs no prover happens at once.
        let generated = store.pick(&generations, FAN_IN, worker).await?;
        let completions = generated.iter().map(|job| store.complete(job, Some(&output)));
        for completed in futures::future::join_all(completions).await {
            completed?;
        }
        if free > 0 {
            for job in store.pick(&circuits, free, worker).await? {
                let cost = costs.get(&job.key).copied().context("every circuit has a cost")?;
                order += 1;
                running.push(Reverse((now + cost, order)));
                in_hand.insert(order, job);
                free -= 1;
            }
        }
        let Some(Reverse((end, _))) = running.peek() else { break };
        now = *end;
        let mut ended = Vec::new();
        while running.peek().is_some_and(|Reverse((end, _))| *end == now) {
            if let Some(Reverse((_, number))) = running.pop() {
                ended.extend(in_hand.remove(&number));
                free += 1;
            }
        }
        let completions = ended.iter().map(|job| store.complete(job, Some(&output)));
        for completed in futures::future::join_all(completions).await {
            completed?;
        }
    }
    let unfinished = store.demand().await?;
    // The generator stays in this process's hands.
    ensure!(unfinished.len() == 1, "jobs are left over: {unfinished:?}");
    store.close().await;
    let hours = |milliseconds: f64| milliseconds / 3.6e6;
    let by_provers = work as f64 / provers as f64;
    let bound = by_provers.max(critical_path as f64);
    Ok(Fleet {
        provers,
        makespan: hours(now as f64),
        critical_path: hours(critical_path as f64),
        work_by_provers: hours(by_provers),
        ratio: now as f64 / bound,
    })
}

/// Inserts the whole batch as its witness generator would.
async fn insert(
    store: &JobStore,
    keeper: &LeaseKeeper,
    basics: &[JobKey],
    groups: &[Group],
    costs: &BTreeMap<JobKey, i64>,
) -> anyhow::Result<()> {
    store.insert_batch(&NewBatch::new(BATCH, noop_workers::VERSION, noop_workers::nothing())).await?;
    let asked = Instant::now();
    let picked = store.pick(&noop_workers::filter(Stage::WitnessGeneration), 1, keeper.worker()).await?;
    let generator = picked.first().context("it was just inserted")?;
    keeper.hold(generator, &job_runner::Lease::new(), asked);
    let new = |key: JobKey, has_input: bool| NewJob {
        key,
        memory_class: MemoryClass::Light,
        expected_cost_ms: costs.get(&key).copied().unwrap_or(0),
        peak_memory_bytes: 0,
        input: has_input.then(noop_workers::nothing),
    };
    for some in basics.chunks(1_000) {
        let jobs = some.iter().map(|key| new(*key, true)).collect();
        store.extend_batch(generator, &Extension { jobs, links: Vec::new() }).await?;
    }
    for some in groups.chunks(100) {
        let mut extension = Extension::default();
        for group in some {
            let generation = group.parent.job(Stage::WitnessGeneration);
            let proof = group.parent.job(Stage::CircuitProof);
            extension.jobs.extend([new(generation, false), new(proof, false)]);
            extension
                .links
                .extend(group.children.iter().map(|child| (child.job(Stage::CircuitProof), generation)));
            extension.links.push((generation, proof));
        }
        store.extend_batch(generator, &extension).await?;
    }
    Ok(())
}
