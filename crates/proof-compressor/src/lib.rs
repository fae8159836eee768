//! The compressor: wraps a scheduler's proof into the small final proof, which ends the batch.
//!
//! A batch is successful only with a final proof that verifies against its own statement. The compressor computes the statement
//! from the batch's witness input, as an auditor would, and verifies before it completes the job: a proof of anything
//! else fails the batch here, and not at whoever fetches it.

use async_trait::async_trait;
use job_runner::{ExecuteError, Executor, JobContext, JobRunner, RunnerReport};
use job_store::leases::pick::PickFilter;
use job_store::model::rows::LeasedJob;
use job_store::runner::context::LoadError;
use job_store::runner::picker::{Loader, QueuePicker};
use proof_system::ProofSystem;
use proving_component::{
    ArtifactReader, ArtifactSaver, ComponentContext, Produced, StageControl, execute_error,
};
use proving_model::{AggregationRound, ArtifactKind, MemoryClass, Stage};
use std::sync::Arc;

/// The scheduler's proof, and the witness input of its batch.
struct CompressionInput {
    scheduler_proof: Vec<u8>,
    witness_input: Vec<u8>,
}

struct CompressionLoader(ArtifactReader);

#[async_trait]
impl Loader for CompressionLoader {
    type Input = CompressionInput;

    async fn load(&self, job: &LeasedJob) -> Result<CompressionInput, LoadError> {
        Ok(CompressionInput {
            scheduler_proof: self.0.predecessor(ArtifactKind::Proof, job).await?,
            witness_input: self.0.witness_input(job).await?,
        })
    }
}

struct Compressor(Arc<dyn ProofSystem>);

impl Executor for Compressor {
    type Input = CompressionInput;
    type Output = Produced;
    type Metadata = LeasedJob;

    fn execute(
        &self,
        input: CompressionInput,
        ctx: &JobContext<'_, LeasedJob>,
    ) -> Result<Produced, ExecuteError> {
        let system = &*self.0;
        let proof = system.compress(&input.scheduler_proof, &StageControl(ctx)).map_err(execute_error)?;
        let batch = ctx.metadata().batch;
        proof_system::verify_outputs(system, batch, &input.witness_input, &proof).map_err(execute_error)?;
        Ok(Produced::Artifact(proof))
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
    let loader = CompressionLoader(ArtifactReader::new(&context));
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
