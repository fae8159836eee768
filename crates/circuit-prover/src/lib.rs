//! The circuit prover: witness-vector generators, light and heavy, feed the provers over a bounded channel in the process.
//!
//! ```text
//! queue ─▶ light WVG runner ─┐
//!                            ├─(chain)─▶ prover runner ─▶ proof artifact, completion
//! queue ─▶ heavy WVG runner ─┘
//! ```
//!
//! In simple mode there is no channel: each thread synthesises and proves one circuit after the other.
//!
//! A witness vector never leaves the process. Its lease travels with it: the prover runner saves or releases the job.

use async_trait::async_trait;
use job_runner::{
    ChainSender, ExecuteError, Executor, JobContext, JobRunner, JobSaver, Lease, Outcome, Picked,
    RunnerReport, SaveError, chain,
};
use job_store::leases::pick::PickFilter;
use job_store::model::rows::LeasedJob;
use job_store::runner::context::{LoadError, WorkerContext};
use job_store::runner::picker::{Loader, QueuePicker};
use proof_system::{CircuitTable, ProofSystem, WitnessVector};
use proving_component::{
    ArtifactReader, ArtifactSaver, ComponentContext, Produced, StageControl, circuit_of, execute_error,
};
use proving_model::{AggregationRound, ArtifactKind, MemoryClass, Stage};
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// Vectors between generators and each prover: one, ready when the prover is. Each is tens of megabytes.
const VECTORS_READY: usize = 1;

/// How a circuit prover is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Generators feed provers.
    Chained {
        /// Generators that take light circuits only.
        light_wvg_count: usize,
        /// Generators that take heavy circuits first.
        heavy_wvg_count: usize,
        /// Circuits that are proven at the same time: one on each device, or one on the CPU.
        provers: usize,
    },
    /// Simple mode: so many threads, each of which synthesises and proves whole circuits.
    Threads(usize),
}

impl Layout {
    /// Circuits in memory at the same time, at most.
    #[must_use]
    pub fn circuits_in_memory(self) -> usize {
        match self {
            Self::Chained { light_wvg_count, heavy_wvg_count, provers } => {
                light_wvg_count + heavy_wvg_count + (VECTORS_READY + 1) * provers
            }
            Self::Threads(threads) => threads,
        }
    }

    /// The largest circuit that this layout takes: its name, and its declared peak in bytes.
    #[must_use]
    pub fn largest_circuit(self, circuits: &CircuitTable) -> Option<(&'static str, u64)> {
        let takes_heavy = !matches!(self, Self::Chained { heavy_wvg_count: 0, .. });
        circuits
            .circuits
            .iter()
            .filter(|spec| takes_heavy || spec.memory_class == MemoryClass::Light)
            .map(|spec| (spec.name, spec.peak_memory_bytes))
            .max_by_key(|(_, peak)| *peak)
    }
}

struct CircuitLoader(ArtifactReader);

#[async_trait]
impl Loader for CircuitLoader {
    type Input = Vec<u8>;

    async fn load(&self, job: &LeasedJob) -> Result<Vec<u8>, LoadError> {
        match &job.input {
            Some(circuit) => self.0.read(ArtifactKind::Circuit, circuit).await,
            None => self.0.predecessor(ArtifactKind::Circuit, job).await,
        }
    }
}

struct Synthesizer(Arc<dyn ProofSystem>);

impl Executor for Synthesizer {
    type Input = Vec<u8>;
    type Output = WitnessVector;
    type Metadata = LeasedJob;

    fn execute(
        &self,
        payload: Vec<u8>,
        ctx: &JobContext<'_, LeasedJob>,
    ) -> Result<WitnessVector, ExecuteError> {
        self.0.synthesize(circuit_of(ctx.metadata()), &payload, &StageControl(ctx)).map_err(execute_error)
    }
}

/// Hands vectors to the prover; everything else ends the job here.
struct VectorSaver {
    context: WorkerContext,
    prover: ChainSender<Prover>,
}

#[async_trait]
impl JobSaver for VectorSaver {
    type Executor = Synthesizer;

    async fn save(
        &self,
        job: &LeasedJob,
        lease: &Lease,
        outcome: &mut Outcome<WitnessVector>,
    ) -> Result<(), SaveError> {
        if let Outcome::Failure(error) = outcome {
            return self.context.fail(job, error).await;
        }
        if let Some(vector) = outcome.take_output() {
            let handed = self.prover.send(Picked::new(vector, job.clone()).with_lease(lease.clone())).await;
            if handed.is_err() {
                self.context.release(job).await;
            }
        }
        Ok(())
    }

    async fn release(&self, job: &LeasedJob) {
        self.context.release(job).await;
    }
}

/// Proves on the proof system's devices, or on the CPU with all cores.
struct Prover(Arc<dyn ProofSystem>);

impl Executor for Prover {
    type Input = WitnessVector;
    type Output = Produced;
    type Metadata = LeasedJob;

    fn execute(
        &self,
        vector: WitnessVector,
        ctx: &JobContext<'_, LeasedJob>,
    ) -> Result<Produced, ExecuteError> {
        let proof = self.0.prove(circuit_of(ctx.metadata()), vector, &StageControl(ctx));
        proof.map(Produced::Artifact).map_err(execute_error)
    }
}

/// Simple mode: synthesises and proves, one after the other.
struct WholeCircuit {
    synthesizer: Synthesizer,
    prover: Prover,
}

impl Executor for WholeCircuit {
    type Input = Vec<u8>;
    type Output = Produced;
    type Metadata = LeasedJob;

    fn execute(&self, payload: Vec<u8>, ctx: &JobContext<'_, LeasedJob>) -> Result<Produced, ExecuteError> {
        let vector = self.synthesizer.execute(payload, ctx)?;
        self.prover.execute(vector, ctx)
    }
}

fn picker<E>(context: &ComponentContext, memory_classes: &[MemoryClass]) -> QueuePicker<E, CircuitLoader> {
    let filter = PickFilter {
        stage: Stage::CircuitProof,
        rounds: AggregationRound::ALL.to_vec(),
        memory_classes: memory_classes.to_vec(),
        version: context.system.protocol_version(),
    };
    QueuePicker::new(context.worker.clone(), filter, CircuitLoader(ArtifactReader::new(context)))
}

/// Runs a circuit prover until the shutdown signal; returns a report a runner, the prover's last.
pub async fn run(context: ComponentContext, layout: Layout) -> Vec<RunnerReport> {
    match layout {
        Layout::Chained { light_wvg_count, heavy_wvg_count, provers } => {
            run_chained(context, light_wvg_count, heavy_wvg_count, provers).await
        }
        Layout::Threads(threads) => vec![run_threads(context, threads).await],
    }
}

async fn run_threads(context: ComponentContext, threads: usize) -> RunnerReport {
    let executor = WholeCircuit {
        synthesizer: Synthesizer(context.system.clone()),
        prover: Prover(context.system.clone()),
    };
    JobRunner::builder("circuit_prover")
        .picker(picker(&context, &[MemoryClass::Heavy, MemoryClass::Light]))
        .executor(executor)
        .saver(ArtifactSaver::new(&context, ArtifactKind::Proof))
        .workers(threads)
        .drain_timeout(context.drain_timeout)
        .shutdown(context.shutdown)
        .build()
        .run()
        .await
}

async fn run_chained(
    context: ComponentContext,
    light_wvg_count: usize,
    heavy_wvg_count: usize,
    provers: usize,
) -> Vec<RunnerReport> {
    let (sender, receiver) = chain::<Prover>(VECTORS_READY * provers);
    let generators = [
        ("light_wvg", light_wvg_count, [MemoryClass::Light].as_slice()),
        ("heavy_wvg", heavy_wvg_count, &[MemoryClass::Heavy, MemoryClass::Light]),
    ];
    let generators =
        generators.into_iter().filter(|(_, count, _)| *count > 0).map(|(name, count, classes)| {
            JobRunner::builder(name)
                .picker(picker(&context, classes))
                .executor(Synthesizer(context.system.clone()))
                .saver(VectorSaver { context: context.worker.clone(), prover: sender.clone() })
                .workers(count)
                .hold_slots_until_saved()
                .prefetch(0)
                .drain_timeout(context.drain_timeout)
                .shutdown(context.shutdown.clone())
                .build()
                .run()
        });
    let generators = futures::future::join_all(generators.collect::<Vec<_>>());
    drop(sender);
    // The prover ends when its generators do, so that what is on its way gets proven; the drain timeout ends both.
    let hard_stop = CancellationToken::new();
    let prover = JobRunner::builder("circuit_prover")
        .picker(receiver)
        .executor(Prover(context.system.clone()))
        .saver(ArtifactSaver::new(&context, ArtifactKind::Proof))
        .workers(provers)
        .prefetch(0)
        .drain_timeout(Duration::ZERO)
        .shutdown(hard_stop.clone())
        .build()
        .run();
    let watchdog = tokio::spawn(async move {
        context.shutdown.drain_begins().cancelled().await;
        tokio::time::sleep(context.drain_timeout).await;
        hard_stop.cancel();
    });
    let (mut reports, report) = tokio::join!(generators, prover);
    watchdog.abort();
    reports.push(report);
    reports
}
