//! The compressor: wraps a scheduler's proof into the small final proof, which ends the batch.

use artifact_store::{ArtifactError, ArtifactStore, job_artifact_key};
use async_trait::async_trait;
use job_runner::{
    ExecuteError, Executor, JobContext, JobRunner, JobSaver, Lease, Outcome, RunnerReport, SaveError,
};
use job_store::{LeasedJob, LoadError, Loader, PickFilter, QueuePicker, WorkerContext};
use proof_system::{Control, ProofSystem, ProofSystemError};
use proving_model::{AggregationRound, ArtifactKind, MemoryClass, Stage};
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

struct SchedulerProofLoader {
    context: WorkerContext,
    artifacts: ArtifactStore,
}

#[async_trait]
impl Loader for SchedulerProofLoader {
    type Input = Vec<u8>;

    async fn load(&self, job: &LeasedJob) -> Result<Vec<u8>, LoadError> {
        let scheduler = self.context.store.predecessors(job).await?.into_iter().next();
        let proof = scheduler
            .ok_or_else(|| LoadError::Unavailable("the batch has no scheduler proof".to_owned()))?
            .output;
        self.artifacts.get(ArtifactKind::Proof, &proof).await.map_err(|e| match e {
            ArtifactError::Missing { .. } | ArtifactError::Corrupt { .. } => {
                LoadError::Lost { keys: vec![proof.key.clone()], reason: e.to_string() }
            }
            other => LoadError::Unavailable(other.to_string()),
        })
    }
}

struct ContextControl<'a>(&'a JobContext<'a, LeasedJob>);

impl Control for ContextControl<'_> {
    fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }

    fn report_progress(&self, fraction: f32) {
        self.0.report_progress(fraction);
    }
}

struct Compressor(Arc<dyn ProofSystem>);

impl Executor for Compressor {
    type Input = Vec<u8>;
    type Output = Vec<u8>;
    type Metadata = LeasedJob;

    fn execute(&self, proof: Vec<u8>, ctx: &JobContext<'_, LeasedJob>) -> Result<Vec<u8>, ExecuteError> {
        self.0.compress(&proof, &ContextControl(ctx)).map_err(|e| match e {
            ProofSystemError::Invalid(reason) => ExecuteError::Fatal(reason),
            ProofSystemError::Unavailable(reason) => ExecuteError::Retryable(reason),
            ProofSystemError::Cancelled => ExecuteError::Cancelled,
        })
    }
}

struct FinalProofSaver {
    context: WorkerContext,
    artifacts: ArtifactStore,
}

#[async_trait]
impl JobSaver for FinalProofSaver {
    type Executor = Compressor;

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
                let key = job_artifact_key(ArtifactKind::FinalProof, job.batch, &job.key, job.token);
                let artifact = self
                    .artifacts
                    .put(ArtifactKind::FinalProof, key, proof)
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

/// Runs a compressor until the shutdown signal.
pub async fn run(
    context: WorkerContext,
    artifacts: ArtifactStore,
    system: Arc<dyn ProofSystem>,
    drain_timeout: Duration,
    shutdown: CancellationToken,
) -> RunnerReport {
    let filter = PickFilter {
        stage: Stage::Compression,
        rounds: AggregationRound::ALL.to_vec(),
        memory_classes: vec![MemoryClass::Heavy, MemoryClass::Light],
        version: system.protocol_version(),
    };
    let loader = SchedulerProofLoader { context: context.clone(), artifacts: artifacts.clone() };
    JobRunner::builder("proof_compressor")
        .picker(QueuePicker::new(context.clone(), filter, loader))
        .executor(Compressor(system))
        .saver(FinalProofSaver { context, artifacts })
        .workers(1)
        .prefetch(0)
        .drain_timeout(drain_timeout)
        .shutdown(shutdown)
        .build()
        .run()
        .await
}
