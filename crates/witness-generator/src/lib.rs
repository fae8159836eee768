//! The witness generator: turns a batch's input, or proofs of one round, into the circuits of the next.
//!
//! Round 0 streams: each circuit is written and inserted as it is generated, and a group's leaf opens as soon as its own
//! proofs are there ([`proof_system::tree`]). Rounds 1 to 4 read the proofs that they aggregate, check them, and
//! write one circuit.

mod basic;

use artifact_store::{ArtifactError, ArtifactStore, job_artifact_key};
use async_trait::async_trait;
use basic::BasicGenerator;
use job_runner::{
    ExecuteError, Executor, JobContext, JobRunner, JobSaver, Lease, Outcome, RunnerReport, SaveError,
};
use job_store::{LeasedJob, LoadError, Loader, PickFilter, QueuePicker, WorkerContext};
use proof_system::{CircuitType, Control, ProofSystem, ProofSystemError};
use proving_model::{AggregationRound, ArtifactKind, ArtifactRef, MemoryClass, Stage};
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// Settings of a witness generator.
#[derive(Debug, Clone)]
pub struct WitnessGeneratorConfig {
    /// The rounds that it works for.
    pub rounds: Vec<AggregationRound>,
    /// Jobs at the same time.
    pub workers: usize,
    /// How long running jobs may take to finish after the shutdown signal.
    pub drain_timeout: Duration,
}

/// What a job works on.
#[derive(Debug)]
pub enum GeneratorInput {
    /// Round 0: the batch's witness input.
    WitnessInput(Vec<u8>),
    /// Rounds 1 to 4: the proofs to aggregate.
    Proofs(Vec<Vec<u8>>),
}

/// What a job made.
#[derive(Debug)]
pub enum GeneratorOutput {
    /// Round 0 has inserted its circuits while it ran.
    Streamed,
    /// The one circuit of a later round.
    Circuit(Vec<u8>),
}

struct GeneratorLoader {
    context: WorkerContext,
    artifacts: ArtifactStore,
}

/// Reads an artifact for a loader.
///
/// # Errors
/// As a loader's.
async fn read(
    artifacts: &ArtifactStore,
    kind: ArtifactKind,
    artifact: &ArtifactRef,
) -> Result<Vec<u8>, LoadError> {
    artifacts.get(kind, artifact).await.map_err(|e| match e {
        ArtifactError::Missing { .. } | ArtifactError::Corrupt { .. } => {
            LoadError::Lost { keys: vec![artifact.key.clone()], reason: e.to_string() }
        }
        other => LoadError::Unavailable(other.to_string()),
    })
}

#[async_trait]
impl Loader for GeneratorLoader {
    type Input = GeneratorInput;

    async fn load(&self, job: &LeasedJob) -> Result<GeneratorInput, LoadError> {
        if job.key.round == AggregationRound::BasicCircuits {
            let batch = self.context.store.batch(job.batch).await?.ok_or(LoadError::LeaseLost)?;
            let payload = read(&self.artifacts, ArtifactKind::WitnessInput, &batch.input).await?;
            return Ok(GeneratorInput::WitnessInput(payload));
        }
        let mut proofs = Vec::new();
        let mut lost = (Vec::new(), String::new());
        for predecessor in self.context.store.predecessors(job).await? {
            match read(&self.artifacts, ArtifactKind::Proof, &predecessor.output).await {
                Ok(proof) => proofs.push(proof),
                // All that are lost at once: each is made again, in parallel.
                Err(LoadError::Lost { keys, reason }) => {
                    lost.0.extend(keys);
                    lost.1 = reason;
                }
                Err(other) => return Err(other),
            }
        }
        if lost.0.is_empty() {
            Ok(GeneratorInput::Proofs(proofs))
        } else {
            Err(LoadError::Lost { keys: lost.0, reason: lost.1 })
        }
    }
}

struct Generator {
    system: Arc<dyn ProofSystem>,
    basic: BasicGenerator,
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

pub(crate) fn execute_error(error: ProofSystemError) -> ExecuteError {
    match error {
        ProofSystemError::Invalid(reason) => ExecuteError::Fatal(reason),
        ProofSystemError::Unavailable(reason) => ExecuteError::Retryable(reason),
        ProofSystemError::Cancelled => ExecuteError::Cancelled,
    }
}

impl Executor for Generator {
    type Input = GeneratorInput;
    type Output = GeneratorOutput;
    type Metadata = LeasedJob;

    fn execute(
        &self,
        input: GeneratorInput,
        ctx: &JobContext<'_, LeasedJob>,
    ) -> Result<GeneratorOutput, ExecuteError> {
        let job = ctx.metadata();
        match input {
            GeneratorInput::WitnessInput(payload) => {
                self.basic.generate(job, &payload, &ContextControl(ctx))?;
                Ok(GeneratorOutput::Streamed)
            }
            GeneratorInput::Proofs(proofs) => {
                let circuit = CircuitType { round: job.key.round, id: job.key.circuit_id };
                self.system
                    .aggregate(job.batch, circuit, &proofs, &ContextControl(ctx))
                    .map(GeneratorOutput::Circuit)
                    .map_err(execute_error)
            }
        }
    }
}

struct GeneratorSaver {
    context: WorkerContext,
    artifacts: ArtifactStore,
}

#[async_trait]
impl JobSaver for GeneratorSaver {
    type Executor = Generator;

    async fn save(
        &self,
        job: &LeasedJob,
        _lease: &Lease,
        outcome: &mut Outcome<GeneratorOutput>,
    ) -> Result<(), SaveError> {
        match outcome {
            Outcome::Failure(error) => self.context.fail(job, error).await,
            Outcome::Success(Some(GeneratorOutput::Circuit(payload))) => {
                let key = job_artifact_key(ArtifactKind::Circuit, job.batch, &job.key, job.token);
                let artifact = self
                    .artifacts
                    .put(ArtifactKind::Circuit, key, payload)
                    .await
                    .map_err(|e| SaveError::Unavailable(e.to_string()))?;
                self.context.complete(job, Some(&artifact)).await
            }
            Outcome::Success(_) => self.context.complete(job, None).await,
        }
    }

    async fn release(&self, job: &LeasedJob) {
        self.context.release(job).await;
    }
}

/// Runs a witness generator until the shutdown signal.
pub async fn run(
    context: WorkerContext,
    artifacts: ArtifactStore,
    system: Arc<dyn ProofSystem>,
    config: WitnessGeneratorConfig,
    shutdown: CancellationToken,
) -> RunnerReport {
    let filter = PickFilter {
        stage: Stage::WitnessGeneration,
        rounds: config.rounds,
        memory_classes: vec![MemoryClass::Heavy, MemoryClass::Light],
        version: system.protocol_version(),
    };
    let loader = GeneratorLoader { context: context.clone(), artifacts: artifacts.clone() };
    let basic = BasicGenerator::new(context.store.clone(), artifacts.clone(), system.clone());
    JobRunner::builder("witness_generator")
        .picker(QueuePicker::new(context.clone(), filter, loader))
        .executor(Generator { system, basic })
        .saver(GeneratorSaver { context, artifacts })
        .workers(config.workers)
        .drain_timeout(config.drain_timeout)
        .shutdown(shutdown)
        .build()
        .run()
        .await
}
