//! The compressor: wraps a scheduler's proof into the small final proof, which ends the batch.

use async_trait::async_trait;
use job_runner::{ExecuteError, Executor, JobContext, JobRunner, RunnerReport};
use job_store::{LeasedJob, LoadError, Loader, PickFilter, QueuePicker};
use proof_system::ProofSystem;
use proving_component::{
    ArtifactReader, ArtifactSaver, ComponentContext, Produced, StageControl, execute_error,
};
use proving_model::{AggregationRound, ArtifactKind, MemoryClass, Stage};
use std::sync::Arc;

struct SchedulerProofLoader(ArtifactReader);

#[async_trait]
impl Loader for SchedulerProofLoader {
    type Input = Vec<u8>;

    async fn load(&self, job: &LeasedJob) -> Result<Vec<u8>, LoadError> {
        self.0.predecessor(ArtifactKind::Proof, job).await
    }
}

struct Compressor(Arc<dyn ProofSystem>);

impl Executor for Compressor {
    type Input = Vec<u8>;
    type Output = Produced;
    type Metadata = LeasedJob;

    fn execute(&self, proof: Vec<u8>, ctx: &JobContext<'_, LeasedJob>) -> Result<Produced, ExecuteError> {
        self.0.compress(&proof, &StageControl(ctx)).map(Produced::Artifact).map_err(execute_error)
    }
}

/// Runs a compressor until the shutdown signal.
pub async fn run(context: ComponentContext) -> RunnerReport {
    let filter = PickFilter {
        stage: Stage::Compression,
        rounds: AggregationRound::ALL.to_vec(),
        memory_classes: vec![MemoryClass::Heavy, MemoryClass::Light],
        version: context.system.protocol_version(),
    };
    let loader = SchedulerProofLoader(ArtifactReader::new(&context));
    JobRunner::builder("proof_compressor")
        .picker(QueuePicker::new(context.worker.clone(), filter, loader))
        .executor(Compressor(context.system.clone()))
        .saver(ArtifactSaver::new(&context, ArtifactKind::FinalProof))
        .workers(1)
        .prefetch(0)
        .drain_timeout(context.drain_timeout)
        .shutdown(context.shutdown)
        .build()
        .run()
        .await
}
