//! What the pipeline's components have in common: artifacts in, one stage of a proof system, one artifact out.
//!
//! A component is a picker, an executor and a saver on `job-runner`. Its picker loads a job's artifacts
//! ([`ArtifactReader`]), its executor calls one stage of the proof system ([`StageControl`], [`execute_error`]), and its
//! saver writes the artifact and completes the job ([`ArtifactSaver`]). What is particular to a component is not here.

use artifact_store::{ArtifactError, ArtifactStore, job_artifact_key};
use async_trait::async_trait;
use job_runner::{ExecuteError, Executor, JobContext, JobSaver, Lease, Outcome, SaveError, Shutdown};
use job_store::model::rows::LeasedJob;
use job_store::runner::context::{LoadError, WorkerContext};
use job_store::runner::worker_store::WorkerStore;
use proof_system::{CircuitType, Control, ProofSystemError};
use proving_model::{ArtifactKind, ArtifactRef};
use std::{marker::PhantomData, sync::Arc, time::Duration};

/// What every component runs on.
#[derive(Debug, Clone)]
pub struct ComponentContext {
    /// The store, this process's leases and its wake-ups.
    pub worker: WorkerContext,
    /// The object store.
    pub artifacts: ArtifactStore,
    /// What proves.
    pub system: Arc<dyn proof_system::ProofSystem>,
    /// How long running jobs may take to finish once the drain begins.
    pub drain_timeout: Duration,
    /// The signal to stop.
    pub shutdown: Shutdown,
}

/// The circuit that a job generates or proves.
#[must_use]
pub fn circuit_of(job: &LeasedJob) -> CircuitType {
    CircuitType { round: job.key.round, id: job.key.circuit_id }
}

/// A job's context as the proof system's [`Control`]: the lease's end cancels the stage, progress goes to the row.
#[derive(Debug)]
pub struct StageControl<'a>(pub &'a JobContext<'a, LeasedJob>);

impl Control for StageControl<'_> {
    fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }

    fn report_progress(&self, fraction: f32) {
        self.0.report_progress(fraction);
    }
}

/// What a proof system's error means for the attempt.
#[must_use]
pub fn execute_error(error: ProofSystemError) -> ExecuteError {
    match error {
        ProofSystemError::Invalid(reason) => ExecuteError::Fatal(reason),
        ProofSystemError::Unavailable(reason) => ExecuteError::Retryable(reason),
        ProofSystemError::Cancelled => ExecuteError::Cancelled,
    }
}

/// Reads the artifacts of jobs. One that is missing or corrupt becomes [`LoadError::Lost`], which has it made again.
#[derive(Debug, Clone)]
pub struct ArtifactReader {
    store: Arc<dyn WorkerStore>,
    artifacts: ArtifactStore,
}

impl ArtifactReader {
    /// A reader for the components of this context.
    #[must_use]
    pub fn new(context: &ComponentContext) -> Self {
        Self { store: context.worker.store.clone(), artifacts: context.artifacts.clone() }
    }

    /// The witness input of a job's batch.
    ///
    /// # Errors
    /// As a loader's.
    pub async fn witness_input(&self, job: &LeasedJob) -> Result<Vec<u8>, LoadError> {
        let batch = self.store.batch(job.batch).await?.ok_or(LoadError::LeaseLost)?;
        self.read(ArtifactKind::WitnessInput, &batch.input).await
    }

    /// One artifact.
    ///
    /// # Errors
    /// As a loader's.
    pub async fn read(&self, kind: ArtifactKind, artifact: &ArtifactRef) -> Result<Vec<u8>, LoadError> {
        self.artifacts.get(kind, artifact).await.map_err(|e| match e {
            ArtifactError::Missing { .. } | ArtifactError::Corrupt { .. } => {
                LoadError::Lost { keys: vec![artifact.key.clone()], reason: e.to_string() }
            }
            other => LoadError::Unavailable(other.to_string()),
        })
    }

    /// The outputs of all jobs that this one waited for, in their order. Names all that are lost at once, so that they are
    /// made again in parallel.
    ///
    /// # Errors
    /// As a loader's.
    pub async fn predecessors(&self, kind: ArtifactKind, job: &LeasedJob) -> Result<Vec<Vec<u8>>, LoadError> {
        let mut contents = Vec::new();
        let mut lost = Vec::new();
        let mut reasons = Vec::new();
        for predecessor in self.store.predecessors(job).await? {
            match self.read(kind, &predecessor.output).await {
                Ok(content) => contents.push(content),
                Err(LoadError::Lost { keys, reason }) => {
                    lost.extend(keys);
                    reasons.push(reason);
                }
                Err(other) => return Err(other),
            }
        }
        if lost.is_empty() {
            Ok(contents)
        } else {
            Err(LoadError::Lost { keys: lost, reason: reasons.join("; ") })
        }
    }

    /// The output of the only job that this one waited for.
    ///
    /// # Errors
    /// As a loader's.
    pub async fn predecessor(&self, kind: ArtifactKind, job: &LeasedJob) -> Result<Vec<u8>, LoadError> {
        let mut contents = self.predecessors(kind, job).await?;
        match (contents.pop(), contents.is_empty()) {
            (Some(content), true) => Ok(content),
            (last, _) => Err(LoadError::Unavailable(format!(
                "{} of {} consumes one output, and the store names {}",
                job.key,
                job.batch,
                contents.len() + usize::from(last.is_some())
            ))),
        }
    }
}

/// What an execution made.
#[derive(Debug)]
pub enum Produced {
    /// The job's output.
    Artifact(Vec<u8>),
    /// Nothing that its row must name: it has inserted its results while it ran.
    Nothing,
}

/// Writes what an execution made under the attempt's own name, then completes the job in one transaction.
#[derive(Debug)]
pub struct ArtifactSaver<E> {
    worker: WorkerContext,
    artifacts: ArtifactStore,
    kind: ArtifactKind,
    _executor: PhantomData<fn() -> E>,
}

impl<E> ArtifactSaver<E> {
    /// A saver of artifacts of this kind.
    #[must_use]
    pub fn new(context: &ComponentContext, kind: ArtifactKind) -> Self {
        let (worker, artifacts) = (context.worker.clone(), context.artifacts.clone());
        Self { worker, artifacts, kind, _executor: PhantomData }
    }
}

#[async_trait]
impl<E: Executor<Output = Produced, Metadata = LeasedJob>> JobSaver for ArtifactSaver<E> {
    type Executor = E;

    async fn save(
        &self,
        job: &LeasedJob,
        _lease: &Lease,
        outcome: &mut Outcome<Produced>,
    ) -> Result<(), SaveError> {
        match outcome {
            Outcome::Failure(error) => self.worker.fail(job, error).await,
            Outcome::Success(Some(Produced::Artifact(content))) => {
                let key = job_artifact_key(self.kind, job.batch, &job.key, job.token);
                let written = self.artifacts.put(self.kind, key, content).await;
                let artifact = written.map_err(|e| SaveError::Unavailable(e.to_string()))?;
                self.worker.complete(job, Some(&artifact)).await
            }
            Outcome::Success(_) => self.worker.complete(job, None).await,
        }
    }

    async fn release(&self, job: &LeasedJob) {
        self.worker.release(job).await;
    }
}
