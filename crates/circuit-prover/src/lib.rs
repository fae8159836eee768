//! The circuit prover: witness-vector generators, light and heavy, feed one prover over a bounded channel in the process.
//!
//! ```text
//! queue ─▶ light WVG runner ─┐
//!                            ├─(chain)─▶ prover runner ─▶ proof artifact, completion
//! queue ─▶ heavy WVG runner ─┘
//! ```
//!
//! A witness vector never leaves the process. Its lease travels with it: the prover runner saves or releases the job.

use artifact_store::{ArtifactError, ArtifactStore, job_artifact_key};
use async_trait::async_trait;
use job_runner::{
    ChainSender, ExecuteError, Executor, JobContext, JobRunner, JobSaver, Lease, Outcome, Picked,
    RunnerReport, SaveError, chain,
};
use job_store::{LeasedJob, LoadError, Loader, PickFilter, QueuePicker, WorkerContext};
use proof_system::{CircuitType, Control, ProofSystem, ProofSystemError, WitnessVector};
use proving_model::{AggregationRound, ArtifactKind, MemoryClass, Stage};
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// Vectors between generators and prover: one, ready when the prover is. Each is tens of megabytes.
const VECTORS_READY: usize = 1;

/// Settings of a circuit prover.
#[derive(Debug, Clone)]
pub struct CircuitProverConfig {
    /// Generators that take light circuits only.
    pub light_wvg_count: usize,
    /// Generators that take heavy circuits first.
    pub heavy_wvg_count: usize,
    /// How long running jobs may take to finish after the shutdown signal.
    pub drain_timeout: Duration,
}

struct CircuitLoader {
    context: WorkerContext,
    artifacts: ArtifactStore,
}

#[async_trait]
impl Loader for CircuitLoader {
    type Input = Vec<u8>;

    async fn load(&self, job: &LeasedJob) -> Result<Vec<u8>, LoadError> {
        let artifact = match &job.input {
            Some(input) => input.clone(),
            None => {
                let predecessors = self.context.store.predecessors(job).await?;
                let generation = predecessors.into_iter().next();
                generation.map(|p| p.output).ok_or_else(|| {
                    LoadError::Unavailable(format!("{} has no predecessor that wrote its circuit", job.key))
                })?
            }
        };
        self.artifacts.get(ArtifactKind::Circuit, &artifact).await.map_err(|e| match e {
            ArtifactError::Missing { .. } | ArtifactError::Corrupt { .. } => {
                LoadError::Lost { keys: vec![artifact.key.clone()], reason: e.to_string() }
            }
            other => LoadError::Unavailable(other.to_string()),
        })
    }
}

/// Hears the runner's cancellation on behalf of the proof system.
struct ContextControl<'a>(&'a JobContext<'a, LeasedJob>);

impl Control for ContextControl<'_> {
    fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }

    fn report_progress(&self, fraction: f32) {
        self.0.report_progress(fraction);
    }
}

fn execute_error(error: ProofSystemError) -> ExecuteError {
    match error {
        ProofSystemError::Invalid(reason) => ExecuteError::Fatal(reason),
        ProofSystemError::Unavailable(reason) => ExecuteError::Retryable(reason),
        ProofSystemError::Cancelled => ExecuteError::Cancelled,
    }
}

fn circuit_of(job: &LeasedJob) -> CircuitType {
    CircuitType { round: job.key.round, id: job.key.circuit_id }
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
        let circuit = circuit_of(ctx.metadata());
        self.0.synthesize(circuit, &payload, &ContextControl(ctx)).map_err(execute_error)
    }
}

/// Hands vectors to the prover; everything else ends the job here.
struct VectorSaver {
    context: WorkerContext,
    prover: ChainSender<CpuProver>,
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

/// Proves on the CPU, with all cores.
struct CpuProver(Arc<dyn ProofSystem>);

impl Executor for CpuProver {
    type Input = WitnessVector;
    type Output = Vec<u8>;
    type Metadata = LeasedJob;

    fn execute(
        &self,
        vector: WitnessVector,
        ctx: &JobContext<'_, LeasedJob>,
    ) -> Result<Vec<u8>, ExecuteError> {
        let circuit = circuit_of(ctx.metadata());
        self.0.prove(circuit, vector, &ContextControl(ctx)).map_err(execute_error)
    }
}

struct ProofSaver {
    context: WorkerContext,
    artifacts: ArtifactStore,
}

#[async_trait]
impl JobSaver for ProofSaver {
    type Executor = CpuProver;

    async fn save(
        &self,
        job: &LeasedJob,
        _lease: &Lease,
        outcome: &mut Outcome<Vec<u8>>,
    ) -> Result<(), SaveError> {
        match outcome {
            Outcome::Failure(error) => self.context.fail(job, error).await,
            Outcome::Success(proof) => {
                let proof = proof.as_deref().unwrap_or_default();
                let key = job_artifact_key(ArtifactKind::Proof, job.batch, &job.key, job.token);
                let artifact = self
                    .artifacts
                    .put(ArtifactKind::Proof, key, proof)
                    .await
                    .map_err(|e| SaveError::Unavailable(e.to_string()))?;
                self.context.complete(job, Some(&artifact)).await
            }
        }
    }

    async fn release(&self, job: &LeasedJob) {
        self.context.release(job).await;
    }
}

/// Runs a circuit prover until the shutdown signal; returns the prover runner's report.
pub async fn run(
    context: WorkerContext,
    artifacts: ArtifactStore,
    system: Arc<dyn ProofSystem>,
    config: CircuitProverConfig,
    shutdown: CancellationToken,
) -> RunnerReport {
    let (sender, receiver) = chain::<CpuProver>(VECTORS_READY);
    let wvg = |name: &str, classes: Vec<MemoryClass>, workers: usize| {
        let filter = PickFilter {
            stage: Stage::CircuitProof,
            rounds: AggregationRound::ALL.to_vec(),
            memory_classes: classes,
            version: system.protocol_version(),
        };
        let loader = CircuitLoader { context: context.clone(), artifacts: artifacts.clone() };
        JobRunner::builder(name)
            .picker(QueuePicker::new(context.clone(), filter, loader))
            .executor(Synthesizer(system.clone()))
            .saver(VectorSaver { context: context.clone(), prover: sender.clone() })
            .workers(workers)
            .prefetch(0)
            .drain_timeout(config.drain_timeout)
            .shutdown(shutdown.clone())
            .build()
    };
    let light = (config.light_wvg_count > 0)
        .then(|| wvg("light_wvg", vec![MemoryClass::Light], config.light_wvg_count).run());
    let heavy = (config.heavy_wvg_count > 0).then(|| {
        wvg("heavy_wvg", vec![MemoryClass::Heavy, MemoryClass::Light], config.heavy_wvg_count).run()
    });
    drop(sender);
    // The prover ends when its generators do, so that what is on its way gets proven; the drain timeout ends both.
    let hard_stop = CancellationToken::new();
    let prover = JobRunner::builder("circuit_prover")
        .picker(receiver)
        .executor(CpuProver(system.clone()))
        .saver(ProofSaver { context: context.clone(), artifacts: artifacts.clone() })
        .workers(1)
        .prefetch(0)
        .drain_timeout(Duration::ZERO)
        .shutdown(hard_stop.clone())
        .build()
        .run();
    let watchdog = tokio::spawn({
        let drain_timeout = config.drain_timeout;
        async move {
            shutdown.cancelled().await;
            tokio::time::sleep(drain_timeout).await;
            hard_stop.cancel();
        }
    });
    let light = async {
        if let Some(run) = light {
            run.await;
        }
    };
    let heavy = async {
        if let Some(run) = heavy {
            run.await;
        }
    };
    let ((), (), report) = tokio::join!(light, heavy, prover);
    watchdog.abort();
    report
}
