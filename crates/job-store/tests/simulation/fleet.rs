//! A fleet under faults, in virtual time: the real runner, picker, lease keeper and worker's context, over the model in place of the
//! database.
//!
//! A seed makes a world. Processes start, drain, die, freeze and come back; statements fail before and after they took
//! effect, or take longer than a lease; wake-ups are lost or doubled; artifacts are lost; jobs fail, panic and hang; the monitor is away, or runs
//! twice. Then the faults end, and every batch must be proven. The clock is the runtime's and jumps from one event to the next.

use crate::model::{GENERATOR, Heal, Lost, Model, Place};
use crate::{extensions, lost_or_error};
use async_trait::async_trait;
use fastrand::Rng;
use job_runner::{
    ExecuteError, Executor, JobContext, JobRunner, JobSaver, Lease, MemoryBudget, Outcome, SaveError,
    Shutdown,
};
use job_store::StoreError;
use job_store::batches::add_jobs::Extension;
use job_store::batches::find::Batch;
use job_store::database::notify::Announcements;
use job_store::leases::fail::AttemptFailure;
use job_store::leases::heartbeat::{Prolonged, Pulse};
use job_store::leases::keeper::LeaseKeeper;
use job_store::leases::pick::{PickFilter, Room};
use job_store::model::retry_policy::RetryPolicy;
use job_store::model::rows::{LeasedJob, Predecessor};
use job_store::runner::context::{LoadError, WorkerContext};
use job_store::runner::picker::{Loader, QueuePicker};
use job_store::runner::worker_store::WorkerStore;
use proving_model::{AggregationRound, ArtifactRef, BatchId, BatchStatus, JobStatus, MemoryClass, Stage};
use std::{
    collections::{BTreeMap, BTreeSet, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use test_support::{VERSION, artifact};
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, sleep},
};
use uuid::Uuid;

/// Virtual time with faults, and the most that may pass after them.
const FAULTY: Duration = Duration::from_secs(300);
const RECOVERY_MAX: Duration = Duration::from_secs(7_200);
const PROCESSES: usize = 4;
const BATCHES: u32 = 4;
const HEARTBEAT: Duration = Duration::from_secs(5);
const LEASE: Duration = Duration::from_secs(20);
const POLICY: RetryPolicy = RetryPolicy {
    failures_max: 3,
    worker_deaths_max: 5,
    timeouts_max: 2,
    regenerations_max: 10,
    backoff_first: Duration::ZERO,
    backoff_longest: Duration::ZERO,
};

/// Everything that is shared.
struct World {
    rng: Rng,
    model: Model,
    sizes: BTreeMap<BatchId, i32>,
    artifacts: BTreeSet<String>,
    /// When each worker's leases end.
    expiry: BTreeMap<Uuid, Instant>,
    /// What was leased, by its row and token: a hand-back names no more.
    leased: BTreeMap<(i64, Uuid), LeasedJob>,
    rows: BTreeMap<Place, i64>,
    pickers: Vec<Announcements>,
    names: u128,
    faults_end: Instant,
    /// Of everything that happened, in its order.
    trace: DefaultHasher,
    steps: u64,
}

type Shared = Arc<Mutex<World>>;

fn lock(world: &Shared) -> MutexGuard<'_, World> {
    world.lock().unwrap()
}

impl World {
    fn is_faulty(&self) -> bool {
        Instant::now() < self.faults_end
    }

    /// Whether something that happens so often in a thousand happens now.
    fn fault(&mut self, in_a_thousand: u32) -> bool {
        self.is_faulty() && self.rng.u32(0..1_000) < in_a_thousand
    }

    fn name(&mut self) -> Uuid {
        self.names += 1;
        Uuid::from_u128(self.names)
    }

    fn milliseconds(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.rng.u64(range))
    }

    /// Some pickers hear of it twice, and some not at all.
    fn announce(&mut self) {
        for at in 0..self.pickers.len() {
            let times = if self.fault(150) { 0 } else { 1 + u32::from(self.fault(150)) };
            for _ in 0..times {
                self.pickers[at].announce_all();
            }
        }
    }

    fn note(&mut self, what: &str) {
        self.steps += 1;
        let since = self.faults_end.saturating_duration_since(Instant::now());
        (what, self.steps, since).hash(&mut self.trace);
        if self.steps.is_multiple_of(16) {
            self.model.check();
        }
    }

    /// What the monitor does: workers whose time is over are dead, and their jobs are put back.
    fn rescue(&mut self) {
        let now = Instant::now();
        for (worker, expiry) in &self.expiry {
            self.model.workers.insert(*worker, *expiry > now);
        }
        if self.model.rescue() > 0 {
            self.note("rescue");
            self.announce();
        }
    }
}

/// One process's way to the world.
#[derive(Clone)]
struct Process {
    world: Shared,
    worker: Uuid,
    state: Arc<State>,
}

/// What became of a process.
#[derive(Default)]
struct State {
    is_frozen: AtomicBool,
    /// Told at the end of a freeze. (A `watch` would wake those who wait in an order that differs from run to run.)
    thawed: Notify,
    /// Its statements never return any more.
    is_dead: AtomicBool,
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Process")
    }
}

fn away(action: &'static str) -> StoreError {
    StoreError::Database { action, cause: Arc::new(sqlx::Error::PoolTimedOut) }
}

impl Process {
    async fn while_alive(&self) {
        while self.state.is_frozen.load(Ordering::Relaxed) {
            self.state.thawed.notified().await;
        }
        if self.state.is_dead.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    }

    /// One statement: on its way there, what it does, on its way back.
    async fn statement<T>(
        &self,
        action: &'static str,
        act: impl FnOnce(&mut World) -> Result<T, StoreError> + Send,
    ) -> Result<T, StoreError> {
        self.while_alive().await;
        let (there, fails) = {
            let mut world = lock(&self.world);
            let there =
                if world.fault(15) { world.milliseconds(500..30_000) } else { world.milliseconds(1..4) };
            (there, world.fault(25))
        };
        sleep(there).await;
        self.while_alive().await;
        if fails {
            return Err(away(action));
        }
        let (result, back, is_lost) = {
            let mut world = lock(&self.world);
            let result = act(&mut world);
            world.note(action);
            let back =
                if world.fault(15) { world.milliseconds(500..30_000) } else { world.milliseconds(1..4) };
            (result, back, world.fault(25))
        };
        sleep(back).await;
        self.while_alive().await;
        if is_lost { Err(away(action)) } else { result }
    }
}

#[async_trait]
impl WorkerStore for Process {
    async fn pick_into(
        &self,
        filter: &PickFilter,
        want: usize,
        worker: Uuid,
        _: Room,
    ) -> Result<Vec<LeasedJob>, StoreError> {
        self.statement("pick", |world| {
            let is_alive = world.expiry[&worker] > Instant::now();
            world.model.workers.insert(worker, is_alive);
            let token = world.name();
            let places = world.model.pick(filter.stage, &filter.memory_classes, want, worker);
            let mut jobs = Vec::new();
            for place in places {
                world.model.lease(place, worker, token);
                let fresh = i64::try_from(world.rows.len()).unwrap();
                let id = *world.rows.entry(place).or_insert(fresh);
                let row = &world.model.jobs[&place];
                let job = LeasedJob {
                    id,
                    batch: place.0,
                    key: place.1,
                    memory_class: row.class,
                    version: VERSION,
                    worker,
                    token,
                    attempt: row.attempts,
                    peak_memory_bytes: 0,
                    waited_seconds: 0.0,
                    is_suspect: false,
                    input: row.input.as_deref().map(artifact),
                };
                world.leased.insert((id, token), job.clone());
                jobs.push(job);
            }
            Ok(jobs)
        })
        .await
    }

    async fn announce_filter(&self, _: Uuid, _: &PickFilter) -> Result<(), StoreError> {
        Ok(())
    }

    async fn next_peak_memory(&self, _: &PickFilter, _: Room) -> Result<Option<i64>, StoreError> {
        Ok(None)
    }

    async fn batch(&self, _: BatchId) -> Result<Option<Batch>, StoreError> {
        Ok(None)
    }

    async fn predecessors(&self, job: &LeasedJob) -> Result<Vec<Predecessor>, StoreError> {
        self.statement("predecessors", |world| {
            let row = &world.model.jobs[&(job.batch, job.key)];
            let outputs = row.predecessors.iter().filter_map(|key| {
                let output = world.model.jobs[&(job.batch, *key)].output.as_deref()?;
                Some(Predecessor { key: *key, output: artifact(output) })
            });
            Ok(outputs.collect())
        })
        .await
    }

    async fn extend_batch(&self, job: &LeasedJob, extension: &Extension) -> Result<(), StoreError> {
        self.statement("extend", |world| {
            let result = lost_or_error(world.model.extend(job, extension), job);
            world.announce();
            result
        })
        .await
    }

    async fn complete(
        &self,
        job: &LeasedJob,
        output: Option<&ArtifactRef>,
        _: Option<u64>,
    ) -> Result<(), StoreError> {
        self.statement("complete", |world| {
            if let Some(output) = output {
                assert!(world.artifacts.contains(&output.key), "it is named before it is there");
            }
            let result = world.model.complete(job, output.map(|output| output.key.as_str()));
            world.announce();
            lost_or_error(result, job)
        })
        .await
    }

    async fn fail(&self, job: &LeasedJob, failure: &AttemptFailure) -> Result<JobStatus, StoreError> {
        self.statement("fail", |world| {
            let result = world.model.fail(job, failure.kind);
            world.announce();
            lost_or_error(result, job)
        })
        .await
    }

    async fn release(&self, job: &LeasedJob, _: Duration, _: Option<&str>) -> Result<(), StoreError> {
        self.statement("release", |world| {
            let result = world.model.release(job);
            world.announce();
            lost_or_error(result, job)
        })
        .await
    }

    async fn lose_inputs(&self, job: &LeasedJob, keys: &[String], _: &str) -> Result<usize, StoreError> {
        self.statement("lose inputs", |world| {
            let healed = world.model.lose_inputs(job, keys);
            world.announce();
            match healed {
                Heal::Again(jobs) => Ok(jobs),
                Heal::Lost => lost_or_error(Err(Lost), job),
                Heal::Nobody => Err(StoreError::Invalid("nobody can make it again".into())),
            }
        })
        .await
    }
}

#[async_trait]
impl Pulse for Process {
    async fn prolong(&mut self) -> Result<Prolonged, StoreError> {
        let worker = self.worker;
        self.statement("heartbeat", |world| {
            world.expiry.insert(worker, Instant::now() + LEASE);
            world.model.workers.insert(worker, true);
            let rows = &world.rows;
            let held = world.model.jobs.iter().filter_map(|(place, job)| {
                job.lease.filter(|(by, _)| *by == worker).map(|(_, token)| (rows[place], token))
            });
            Ok(Prolonged { leases: held.collect(), drain_asked: false })
        })
        .await
    }

    async fn tell_progress(&mut self, _: &[((i64, Uuid), f32)]) -> Result<(), StoreError> {
        Ok(())
    }

    async fn hand_back(&mut self, strays: &[(i64, Uuid)]) -> Result<(), StoreError> {
        self.statement("hand back", |world| {
            for stray in strays {
                let job = world.leased[stray].clone();
                // Where the lease still holds.
                let _ = world.model.release(&job);
            }
            world.announce();
            Ok(())
        })
        .await
    }
}

/// Loads nothing, and finds out whether it is there.
struct Look(Process);

#[async_trait]
impl Loader for Look {
    type Input = ();

    async fn load(&self, job: &LeasedJob) -> Result<(), LoadError> {
        let mut keys: Vec<String> = job.input.iter().map(|input| input.key.clone()).collect();
        if job.input.is_none() && job.key != GENERATOR {
            keys.extend(self.0.predecessors(job).await?.into_iter().map(|before| before.output.key));
        }
        let took = lock(&self.0.world).milliseconds(1..100);
        sleep(took).await;
        self.0.while_alive().await;
        let mut world = lock(&self.0.world);
        if world.fault(30) {
            return Err(LoadError::Unavailable("the object store is away".into()));
        }
        for key in &keys {
            if world.fault(10) {
                world.artifacts.remove(key);
            }
        }
        keys.retain(|key| !world.artifacts.contains(key));
        if keys.is_empty() { Ok(()) } else { Err(LoadError::Lost { keys, reason: "lost".into() }) }
    }
}

struct Work(Process);

impl Executor for Work {
    type Input = ();
    type Output = ();
    type Metadata = LeasedJob;

    fn execute(&self, (): (), ctx: &JobContext<'_, LeasedJob>) -> Result<(), ExecuteError> {
        let mut world = lock(&self.0.world);
        if ctx.is_cancelled() {
            return Err(ExecuteError::Cancelled);
        }
        if world.fault(40) {
            return Err(ExecuteError::Retryable("simulated".into()));
        }
        if world.fault(5) {
            return Err(ExecuteError::Fatal("simulated".into()));
        }
        if world.fault(20) {
            return Err(ExecuteError::Unavailable("simulated".into()));
        }
        let panics = world.fault(10);
        // A poisoned lock would be the simulation's own.
        drop(world);
        assert!(!panics, "simulated");
        Ok(())
    }
}

struct Keep {
    process: Process,
    context: WorkerContext,
}

impl Keep {
    async fn put(&self, key: String) -> Result<ArtifactRef, SaveError> {
        let (took, fails) = {
            let mut world = lock(&self.process.world);
            (world.milliseconds(1..200), world.fault(30))
        };
        sleep(took).await;
        self.process.while_alive().await;
        if fails {
            return Err(SaveError::Unavailable("the object store is away".into()));
        }
        let artifact = artifact(&key);
        lock(&self.process.world).artifacts.insert(key);
        Ok(artifact)
    }
}

#[async_trait]
impl JobSaver for Keep {
    type Executor = Work;

    async fn save(&self, job: &LeasedJob, _: &Lease, outcome: &mut Outcome<()>) -> Result<(), SaveError> {
        if let Outcome::Failure(error) = outcome {
            return self.context.fail(job, error).await;
        }
        if job.key != GENERATOR {
            let output = self.put(format!("{} of {} by {}", job.key, job.batch, job.token)).await?;
            return self.context.complete(job, Some(&output)).await;
        }
        let circuits = lock(&self.process.world).sizes[&job.batch];
        for piece in extensions(job, circuits) {
            for input in piece.jobs.iter().filter_map(|new| new.input.as_ref()) {
                self.put(input.key.clone()).await?;
            }
            self.context.store.extend_batch(job, &piece).await.map_err(|e| match e {
                StoreError::LeaseLost { .. } => SaveError::LeaseLost,
                e => SaveError::Unavailable(e.to_string()),
            })?;
        }
        self.context.complete(job, None).await
    }

    async fn release(&self, job: &LeasedJob) {
        self.context.release(job).await;
    }
}

/// The end of a process's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Drain,
    Death,
    SeenDeath,
}

/// One place of the fleet: a process, and another when it ends.
async fn place(world: Shared, memory: MemoryBudget) {
    loop {
        let announcements = Announcements::default();
        let process = {
            let mut world_now = lock(&world);
            let worker = world_now.name();
            world_now.expiry.insert(worker, Instant::now() + LEASE);
            world_now.model.workers.insert(worker, true);
            world_now.pickers.push(announcements.clone());
            Process { world: world.clone(), worker, state: Arc::default() }
        };
        let keeper =
            LeaseKeeper::with_pulse(process.clone(), process.worker, announcements.clone(), HEARTBEAT, LEASE);
        let context = WorkerContext {
            store: Arc::new(process.clone()),
            keeper: keeper.clone(),
            wake: announcements.into(),
            memory: memory.clone(),
            poll_interval: Duration::from_secs(5),
            job_timeout: Duration::from_secs(120),
            circuit_names: None,
        };
        let shutdown = Shutdown::default();
        let mut runners = JoinSet::new();
        for (stage, workers) in
            [(Stage::WitnessGeneration, 1), (Stage::CircuitProof, 2), (Stage::Compression, 1)]
        {
            let filter = PickFilter {
                stage,
                rounds: AggregationRound::ALL.to_vec(),
                memory_classes: vec![MemoryClass::Heavy, MemoryClass::Light],
                version: VERSION,
            };
            let pace = {
                let world = world.clone();
                move |_: &LeasedJob| {
                    let mut world = lock(&world);
                    if world.fault(10) { Duration::from_secs(600) } else { world.milliseconds(20..15_000) }
                }
            };
            let runner = JobRunner::builder("fleet")
                .picker(QueuePicker::new(context.clone(), filter, Look(process.clone())))
                .executor(Work(process.clone()))
                .saver(Keep { process: process.clone(), context: context.clone() })
                .workers(workers)
                .drain_timeout(Duration::from_secs(10))
                .shutdown(shutdown.clone())
                .build()
                .simulated(pace);
            runners.spawn(runner.run());
        }
        drop(context);
        let end = loop {
            let life = lock(&world).milliseconds(5_000..120_000);
            sleep(life).await;
            let chance = {
                let mut world = lock(&world);
                if world.is_faulty() { world.rng.u32(0..4) } else { 9 }
            };
            match chance {
                0 => break End::Drain,
                1 => break End::Death,
                2 => break End::SeenDeath,
                3 => {
                    process.state.is_frozen.store(true, Ordering::Relaxed);
                    let frozen = lock(&world).milliseconds(1_000..60_000);
                    sleep(frozen).await;
                    process.state.is_frozen.store(false, Ordering::Relaxed);
                    process.state.thawed.notify_waiters();
                }
                _ => {}
            }
        };
        lock(&world).note(&format!("{end:?}"));
        if end == End::Drain {
            let announced = {
                let mut world = lock(&world);
                world.rng.bool().then(|| world.milliseconds(10..60_000))
            };
            if let Some(before) = announced {
                shutdown.pick_no_more();
                sleep(before).await;
            }
            shutdown.drain();
            while runners.join_next().await.is_some() {}
            drop(keeper);
        } else {
            process.state.is_dead.store(true, Ordering::Relaxed);
            runners.abort_all();
            drop(keeper);
        }
        if end != End::Death {
            // In order, or seen at once.
            let mut world = lock(&world);
            world.expiry.insert(process.worker, Instant::now());
            world.rescue();
        }
        let pause = lock(&world).milliseconds(10..20_000);
        sleep(pause).await;
    }
}

async fn monitor(world: Shared) {
    loop {
        let pause = {
            let mut world = lock(&world);
            if world.fault(50) { world.milliseconds(5_000..60_000) } else { Duration::from_secs(1) }
        };
        sleep(pause).await;
        let mut world = lock(&world);
        world.rescue();
        if world.fault(200) {
            world.rescue();
        }
        // The operator is there once the faults are over.
        if !world.is_faulty() {
            let batches: Vec<BatchId> = world.model.batches.keys().copied().collect();
            if batches.into_iter().map(|batch| world.model.requeue_failed(batch)).sum::<u64>() > 0 {
                world.announce();
            }
        }
    }
}

async fn life(world: &Shared) {
    let memory = MemoryBudget::new(None);
    let mut everybody = JoinSet::new();
    for _ in 0..PROCESSES {
        everybody.spawn(place(world.clone(), memory.clone()));
    }
    everybody.spawn(monitor(world.clone()));
    for number in 0..BATCHES {
        let pause = lock(world).milliseconds(0..60_000);
        sleep(pause).await;
        let mut world = lock(world);
        let id = BatchId { chain_id: world.rng.u32(0..2), number };
        let size = world.rng.i32(1..8);
        world.sizes.insert(id, size);
        if world.rng.u32(0..3) == 0 {
            let chain = id.chain_id;
            world.model.set_strict(chain, true);
        }
        world.model.insert_batch(id, 0);
        world.note("insert");
        world.announce();
    }
    let end = lock(world).faults_end + RECOVERY_MAX;
    loop {
        sleep(Duration::from_secs(1)).await;
        let world = lock(world);
        let is_done = world.model.jobs.values().all(|job| job.status == JobStatus::Successful);
        if is_done && !world.is_faulty() {
            break;
        }
        let stuck = || world.model.jobs.iter().filter(|(_, job)| job.status != JobStatus::Successful);
        assert!(Instant::now() < end, "stuck after the faults: {:#?}", stuck().collect::<Vec<_>>());
    }
    everybody.abort_all();
}

/// Lives one seed; what happened, as one number.
pub(crate) fn run(seed: u64) -> u64 {
    // What draws by itself, such as a backoff's jitter, draws the same each time.
    fastrand::seed(seed);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let world = Arc::new(Mutex::new(World {
            rng: Rng::with_seed(seed),
            model: Model::new(POLICY),
            sizes: BTreeMap::new(),
            artifacts: BTreeSet::new(),
            expiry: BTreeMap::new(),
            leased: BTreeMap::new(),
            rows: BTreeMap::new(),
            pickers: Vec::new(),
            names: 0,
            faults_end: Instant::now() + FAULTY,
            trace: DefaultHasher::new(),
            steps: 0,
        }));
        life(&world).await;
        let world = lock(&world);
        world.model.check();
        for (id, batch) in &world.model.batches {
            assert_eq!(batch.status, BatchStatus::Successful, "{id}");
        }
        let finals = world.model.jobs.iter().filter(|((_, key), _)| key.stage == Stage::Compression);
        for (place, job) in finals {
            let proof = job.output.as_ref().expect("a successful compression names its proof");
            assert!(world.artifacts.contains(proof), "the final proof of {} is not there", place.0);
        }
        world.trace.finish()
    })
}
