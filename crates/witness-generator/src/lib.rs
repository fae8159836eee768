//! The witness generator: turns a batch's input, or proofs of one round, into the circuits of the next.
//!
//! Round 0 streams: each circuit is written and inserted as it is generated, and a group's leaf opens as soon as its own
//! proofs are there ([`proof_system::tree`]). Rounds 1 to 4 read the proofs that they aggregate, check them, and
//! write one circuit.

mod basic;

use async_trait::async_trait;
use basic::BasicGenerator;
use job_runner::{ExecuteError, Executor, JobContext, JobRunner, RunnerReport};
use job_store::leases::pick::PickFilter;
use job_store::model::rows::LeasedJob;
use job_store::runner::context::LoadError;
use job_store::runner::picker::{Loader, QueuePicker};
use proof_system::ProofSystem;
use proving_component::{
    ArtifactReader, ArtifactSaver, ComponentContext, Produced, StageControl, circuit_of, execute_error,
};
use proving_model::{AggregationRound, ArtifactKind, MemoryClass, Stage};
use std::sync::Arc;

/// Settings of a witness generator.
#[derive(Debug, Clone)]
pub struct WitnessGeneratorConfig {
    /// The rounds that it works for.
    pub rounds: Vec<AggregationRound>,
    /// Jobs at the same time.
    pub workers: usize,
}

/// What a job works on.
#[derive(Debug)]
pub enum GeneratorInput {
    /// Round 0: the batch's witness input.
    WitnessInput(Vec<u8>),
    /// Rounds 1 to 4: the proofs to aggregate.
    Proofs(Vec<Vec<u8>>),
}

struct GeneratorLoader(ArtifactReader);

#[async_trait]
impl Loader for GeneratorLoader {
    type Input = GeneratorInput;

    async fn load(&self, job: &LeasedJob) -> Result<GeneratorInput, LoadError> {
        if job.key.round == AggregationRound::BasicCircuits {
            self.0.witness_input(job).await.map(GeneratorInput::WitnessInput)
        } else {
            self.0.predecessors(ArtifactKind::Proof, job).await.map(GeneratorInput::Proofs)
        }
    }
}

struct Generator {
    system: Arc<dyn ProofSystem>,
    basic: BasicGenerator,
}

impl Executor for Generator {
    type Input = GeneratorInput;
    type Output = Produced;
    type Metadata = LeasedJob;

    fn execute(
        &self,
        input: GeneratorInput,
        ctx: &JobContext<'_, LeasedJob>,
    ) -> Result<Produced, ExecuteError> {
        let job = ctx.metadata();
        match input {
            GeneratorInput::WitnessInput(payload) => {
                self.basic.generate(job, &payload, &StageControl(ctx))?;
                Ok(Produced::Nothing)
            }
            GeneratorInput::Proofs(proofs) => self
                .system
                .aggregate(job.batch, circuit_of(job), &proofs, &StageControl(ctx))
                .map(Produced::Artifact)
                .map_err(execute_error),
        }
    }
}

/// Runs a witness generator until the shutdown signal.
pub async fn run(context: ComponentContext, config: WitnessGeneratorConfig) -> RunnerReport {
    let filter = PickFilter {
        stage: Stage::WitnessGeneration,
        rounds: config.rounds,
        memory_classes: vec![MemoryClass::Heavy, MemoryClass::Light],
        version: context.system.protocol_version(),
    };
    let (system, loader) = (context.system.clone(), GeneratorLoader(ArtifactReader::new(&context)));
    JobRunner::builder("witness_generator")
        .picker(QueuePicker::new(context.worker.clone(), filter, loader))
        .executor(Generator { system, basic: BasicGenerator::new(&context) })
        .saver(ArtifactSaver::new(&context, ArtifactKind::Circuit))
        .workers(config.workers)
        .drain_timeout(context.drain_timeout)
        .shutdown(context.shutdown)
        .build()
        .run()
        .await
}
