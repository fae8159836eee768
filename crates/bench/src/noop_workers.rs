//! Workers without work, on the real runner, picker and saver: what remains is what the system itself costs.

use crate::server::Server;
use anyhow::Context;
use artifact_store::ArtifactStore;
use async_trait::async_trait;
use clap::Args;
use job_runner::{
    ExecuteError, Executor, JobContext, JobRunner, JobSaver, Lease, MemoryBudget, Outcome, RunnerReport,
    SaveError,
};
use job_store::batches::add_jobs::{Extension, NewJob};
use job_store::batches::insert::NewBatch;
use job_store::database::listen::WakeListener;
use job_store::leases::keeper::LeaseKeeper;
use job_store::leases::pick::PickFilter;
use job_store::leases::workers::NewWorker;
use job_store::model::rows::LeasedJob;
use job_store::runner::context::{LoadError, WorkerContext};
use job_store::runner::picker::{Loader, QueuePicker};
use job_store::{DatabaseUrl, JobStore};
use proving_model::{
    AggregationRound, ArtifactKind, ArtifactRef, BatchId, CircuitId, JobKey, MemoryClass, ProtocolVersion,
    Stage,
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub(crate) const VERSION: ProtocolVersion = ProtocolVersion { minor: 0, patch: 1 };
pub(crate) const LEASE_DURATION: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_secs(5);
const JOB_TIMEOUT: Duration = Duration::from_secs(3_600);
/// Bytes of an artifact, where artifacts are measured too.
const ARTIFACT_BYTES: usize = 1_000;

/// A fresh store on a database of its own.
pub(crate) async fn fresh_store(server: &Server) -> anyhow::Result<(DatabaseUrl, JobStore)> {
    let url = server.database().await?;
    let store = JobStore::connect(&url).await?;
    store.migrate().await?;
    store.insert_protocol_version(VERSION, "bench", "none").await?;
    Ok((url, store))
}

/// This process as a worker of a store.
pub(crate) async fn register(
    store: &JobStore,
    capacity: usize,
    lease: Duration,
) -> anyhow::Result<WorkerContext> {
    let worker = NewWorker {
        component: "bench".to_owned(),
        host: "here".to_owned(),
        capacity: i32::try_from(capacity).unwrap_or(i32::MAX),
        version: VERSION,
        memory_budget_bytes: None,
    };
    Ok(WorkerContext {
        memory: MemoryBudget::new(None),
        store: Arc::new(store.clone()),
        keeper: LeaseKeeper::start(store, &worker, lease / 4, lease).await?,
        wake: WakeListener::start(store).await?,
        poll_interval: POLL_INTERVAL,
        job_timeout: JOB_TIMEOUT,
        circuit_names: None,
    })
}

pub(crate) fn filter(stage: Stage) -> PickFilter {
    PickFilter {
        stage,
        rounds: AggregationRound::ALL.to_vec(),
        memory_classes: vec![MemoryClass::Heavy, MemoryClass::Light],
        version: VERSION,
    }
}

pub(crate) fn basic(sequence: usize) -> JobKey {
    JobKey {
        round: AggregationRound::BasicCircuits,
        stage: Stage::CircuitProof,
        circuit_id: CircuitId(1),
        depth: 0,
        sequence: i32::try_from(sequence).unwrap_or(i32::MAX),
    }
}

pub(crate) fn nothing() -> ArtifactRef {
    ArtifactRef { key: "none".to_owned(), checksum: [0; 32], size_bytes: 0 }
}

/// A batch whose generator this process holds.
pub(crate) struct OpenBatch {
    context: WorkerContext,
    store: JobStore,
    generator: LeasedJob,
    _lease: Lease,
}

impl OpenBatch {
    pub(crate) async fn insert(
        store: &JobStore,
        context: &WorkerContext,
        number: u32,
    ) -> anyhow::Result<Self> {
        let store = store.clone();
        let id = BatchId { chain_id: 0, number };
        store.insert_batch(&NewBatch::new(id, VERSION, nothing())).await?;
        let asked = Instant::now();
        let mut picked = store.pick(&filter(Stage::WitnessGeneration), 1, context.keeper.worker()).await?;
        let generator = picked.pop().context("the batch's generator was just inserted")?;
        let lease = Lease::new();
        context.keeper.hold(&generator, &lease, asked);
        Ok(Self { context: context.clone(), store, generator, _lease: lease })
    }

    /// Queues circuits.
    pub(crate) async fn queue(
        &self,
        sequences: std::ops::Range<usize>,
        input: Option<&ArtifactRef>,
    ) -> anyhow::Result<()> {
        let input = input.cloned().unwrap_or_else(nothing);
        let jobs = sequences.map(|sequence| NewJob {
            key: basic(sequence),
            memory_class: MemoryClass::Light,
            expected_cost_ms: 0,
            peak_memory_bytes: 0,
            input: Some(input.clone()),
        });
        let extension = Extension { jobs: jobs.collect(), links: Vec::new() };
        Ok(self.store.extend_batch(&self.generator, &extension).await?)
    }

    /// Ends the batch's generator, with a compression that ends the batch.
    pub(crate) async fn close(self) -> anyhow::Result<()> {
        let compression = JobKey {
            round: AggregationRound::Scheduler,
            stage: Stage::Compression,
            circuit_id: CircuitId(0),
            ..basic(0)
        };
        let last = NewJob {
            key: compression,
            memory_class: MemoryClass::Light,
            expected_cost_ms: 0,
            peak_memory_bytes: 0,
            input: None,
        };
        let extension = Extension { jobs: vec![last], links: vec![(basic(0), compression)] };
        self.store.extend_batch(&self.generator, &extension).await?;
        self.store.complete(&self.generator, None).await?;
        self.context.keeper.forget(&self.generator);
        Ok(())
    }

    /// Queues children, and a parent that waits for them.
    pub(crate) async fn queue_group(&self, parent: usize, children: usize) -> anyhow::Result<()> {
        let parent_key = JobKey {
            round: AggregationRound::LeafAggregation,
            stage: Stage::WitnessGeneration,
            ..basic(parent)
        };
        let mut extension = Extension::default();
        for sequence in parent * children..(parent + 1) * children {
            extension.links.push((basic(sequence), parent_key));
            extension.jobs.push(NewJob {
                key: basic(sequence),
                memory_class: MemoryClass::Light,
                expected_cost_ms: 0,
                peak_memory_bytes: 0,
                input: Some(nothing()),
            });
        }
        extension.jobs.push(NewJob {
            key: parent_key,
            memory_class: MemoryClass::Light,
            expected_cost_ms: 0,
            peak_memory_bytes: 0,
            input: None,
        });
        Ok(self.store.extend_batch(&self.generator, &extension).await?)
    }
}

/// What the workers does with a job.
#[derive(Clone)]
pub(crate) struct NoopWorkers {
    /// How long an execution sleeps.
    pub(crate) work: Duration,
    /// Hears of each start.
    pub(crate) started: Option<mpsc::UnboundedSender<(LeasedJob, Instant)>>,
    /// Reads an artifact before each job and writes one after it.
    pub(crate) artifacts: Option<ArtifactStore>,
    /// Completed so far, and when the last was.
    pub(crate) done: Arc<Done>,
}

#[derive(Default)]
pub(crate) struct Done {
    count: AtomicU64,
    last_nanoseconds: AtomicU64,
}

impl Done {
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// Since the Unix epoch, so that processes can compare.
    pub(crate) fn last(&self) -> Duration {
        Duration::from_nanos(self.last_nanoseconds.load(Ordering::Acquire))
    }
}

/// Since the Unix epoch.
pub(crate) fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

impl NoopWorkers {
    pub(crate) fn idle() -> Self {
        Self { work: Duration::ZERO, started: None, artifacts: None, done: Arc::default() }
    }

    /// Works until the shutdown.
    pub(crate) async fn run(
        &self,
        context: WorkerContext,
        filter: PickFilter,
        workers: usize,
        prefetch: usize,
        shutdown: CancellationToken,
    ) -> RunnerReport {
        JobRunner::builder("bench")
            .picker(QueuePicker::new(context.clone(), filter, NoopLoader(self.artifacts.clone())))
            .executor(NoopExecutor(self.clone()))
            .saver(NoopSaver { context, noop: self.clone() })
            .workers(workers)
            .prefetch(prefetch)
            .saves(workers.max(prefetch))
            .shutdown(shutdown)
            .build()
            .run()
            .await
    }

    /// Returns once so many jobs are completed.
    pub(crate) async fn until_done(&self, jobs: u64) {
        while self.done.count() < jobs {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

struct NoopLoader(Option<ArtifactStore>);

#[async_trait]
impl Loader for NoopLoader {
    type Input = Vec<u8>;

    async fn load(&self, job: &LeasedJob) -> Result<Vec<u8>, LoadError> {
        match (&self.0, &job.input) {
            (Some(artifacts), Some(input)) => artifacts
                .get(ArtifactKind::Circuit, input)
                .await
                .map_err(|e| LoadError::Unavailable(e.to_string())),
            _ => Ok(Vec::new()),
        }
    }
}

struct NoopExecutor(NoopWorkers);

impl Executor for NoopExecutor {
    type Input = Vec<u8>;
    type Output = Vec<u8>;
    type Metadata = LeasedJob;

    fn execute(&self, input: Vec<u8>, ctx: &JobContext<'_, LeasedJob>) -> Result<Vec<u8>, ExecuteError> {
        if let Some(started) = &self.0.started {
            let _ = started.send((ctx.metadata().clone(), Instant::now()));
        }
        if !self.0.work.is_zero() {
            std::thread::sleep(self.0.work);
        }
        Ok(input)
    }
}

struct NoopSaver {
    context: WorkerContext,
    noop: NoopWorkers,
}

#[async_trait]
impl JobSaver for NoopSaver {
    type Executor = NoopExecutor;

    async fn save(
        &self,
        job: &LeasedJob,
        _: &Lease,
        outcome: &mut Outcome<Vec<u8>>,
    ) -> Result<(), SaveError> {
        let output = match (&self.noop.artifacts, outcome) {
            (Some(artifacts), Outcome::Success(Some(output))) => {
                let key =
                    artifact_store::job_artifact_key(ArtifactKind::Proof, job.batch, &job.key, job.token);
                let written = artifacts.put(ArtifactKind::Proof, key, output).await;
                written.map_err(|e| SaveError::Unavailable(e.to_string()))?
            }
            _ => nothing(),
        };
        self.context.complete(job, Some(&output)).await?;
        let nanoseconds = u64::try_from(now().as_nanos()).unwrap_or(u64::MAX);
        self.noop.done.last_nanoseconds.fetch_max(nanoseconds, Ordering::AcqRel);
        self.noop.done.count.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    async fn release(&self, job: &LeasedJob) {
        self.context.release(job).await;
    }
}

/// An artifact for jobs to read.
pub(crate) async fn input_artifact(artifacts: &ArtifactStore) -> anyhow::Result<ArtifactRef> {
    let content = vec![7; ARTIFACT_BYTES];
    Ok(artifacts.put(ArtifactKind::Circuit, "bench/input".to_owned(), &content).await?)
}

/// A worker in a process of its own.
#[derive(Debug, Args)]
pub(crate) struct WorkerArgs {
    #[arg(long, env = "ROUNDHOUSE_BENCH_DATABASE_URL")]
    database_url: String,
    #[arg(long, value_parser = cli_support::places(1))]
    workers: usize,
    #[arg(long)]
    prefetch: usize,
    #[arg(long)]
    artifacts: Option<String>,
    /// How long each job takes; where it is not 0, each start is told.
    #[arg(long, default_value_t = 0, value_parser = cli_support::milliseconds(0))]
    work_ms: u64,
    #[arg(long, default_value_t = 20_000, value_parser = cli_support::milliseconds(1))]
    lease_ms: u64,
}

/// Says "ready", begins at a line of input, ends at the end of the input; then says how many it completed, and when the
/// last.
pub(crate) async fn run_worker(args: WorkerArgs) -> anyhow::Result<()> {
    let url = DatabaseUrl::new(&args.database_url)?;
    let store = JobStore::connect(&url).await?;
    let artifacts = args.artifacts.as_deref().map(ArtifactStore::open).transpose()?;
    let (started, mut starts) = mpsc::unbounded_channel();
    let work = Duration::from_millis(args.work_ms);
    let noop =
        NoopWorkers { artifacts, work, started: (!work.is_zero()).then_some(started), ..NoopWorkers::idle() };
    let context = register(&store, args.workers, Duration::from_millis(args.lease_ms)).await?;
    let say = |text: String| {
        let mut out = std::io::stdout();
        writeln!(out, "{text}").and_then(|()| out.flush()).context("the bench is gone")
    };
    let heard = |line: &mut String| std::io::stdin().lock().read_line(line).map(|_| ());
    say("ready".to_owned())?;
    heard(&mut String::new())?;
    let shutdown = CancellationToken::new();
    let running = {
        let (noop, shutdown) = (noop.clone(), shutdown.clone());
        tokio::spawn(async move {
            noop.run(context, filter(Stage::CircuitProof), args.workers, args.prefetch, shutdown).await
        })
    };
    let said = tokio::task::spawn_blocking(move || heard(&mut String::new()));
    let mut told = 0;
    while !said.is_finished() {
        tokio::time::sleep(Duration::from_millis(20)).await;
        while let Ok((job, _)) = starts.try_recv() {
            say(format!("started {}", job.id))?;
        }
        if noop.done.count() != told {
            told = noop.done.count();
            say(format!("{told} {}", noop.done.last().as_nanos()))?;
        }
    }
    shutdown.cancel();
    running.await?;
    Ok(())
}

/// A worker process, and what it says.
pub(crate) struct Worker {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Worker {
    /// Starts one and waits until it is ready.
    pub(crate) fn start(url: &DatabaseUrl, arguments: &[String]) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe().context("this program has a path")?);
        command
            .args(["bench", "worker"])
            .args(arguments)
            .env("ROUNDHOUSE_BENCH_DATABASE_URL", url.expose())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start a worker process")?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().context("its output is piped")?);
        let mut worker = Self { child, input, output };
        anyhow::ensure!(worker.hear()? == "ready", "a worker process did not start");
        Ok(worker)
    }

    /// The next line that it says.
    pub(crate) fn hear(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        anyhow::ensure!(self.output.read_line(&mut line)? > 0, "a worker process ended");
        Ok(line.trim().to_owned())
    }

    /// Lets it begin.
    pub(crate) fn begin(&mut self) -> anyhow::Result<()> {
        Ok(writeln!(self.input.as_mut().context("its input is piped")?)?)
    }

    /// Its input: it ends when that is dropped.
    pub(crate) fn take_input(&mut self) -> Option<ChildStdin> {
        self.input.take()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid =
            i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("a process has an id")?;
        Ok(kill_process(pid, signal)?)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // One whose input was taken ends by itself when that is dropped; any other may hang, or be frozen.
        if self.input.is_some() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}
