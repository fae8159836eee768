//! Round 0: the circuits of a batch, inserted while they are generated.

use artifact_store::{ArtifactStore, job_artifact_key};
use job_runner::ExecuteError;
use job_store::StoreError;
use job_store::batches::add_jobs::{Extension, NewJob};
use job_store::model::rows::LeasedJob;
use job_store::runner::worker_store::WorkerStore;
use proof_system::tree::{AggregationTree, Group, TreeNode};
use proof_system::{BasicCircuit, CircuitType, Control, ProofSystem, ProofSystemError};
use proving_component::{ComponentContext, execute_error};
use proving_model::{AggregationRound, ArtifactKind, ArtifactRef, CircuitId, JobKey, MemoryClass, Stage};
use std::{collections::BTreeSet, sync::Arc};
use tokio::runtime::Handle;

/// Circuits that one transaction inserts at most: few enough to be proven at once, enough to spare round trips.
const CIRCUITS_PER_EXTENSION: usize = 16;

pub(crate) struct BasicGenerator {
    store: Arc<dyn WorkerStore>,
    artifacts: ArtifactStore,
    system: Arc<dyn ProofSystem>,
    /// The generator runs on a blocking thread and reaches the store through the runtime.
    runtime: Handle,
}

impl BasicGenerator {
    pub(crate) fn new(context: &ComponentContext) -> Self {
        Self {
            store: context.worker.store.clone(),
            artifacts: context.artifacts.clone(),
            system: context.system.clone(),
            runtime: Handle::current(),
        }
    }

    /// Generates, writes and inserts every circuit of the batch, and the tree above them.
    pub(crate) fn generate(
        &self,
        job: &LeasedJob,
        payload: &[u8],
        control: &dyn Control,
    ) -> Result<(), ExecuteError> {
        let mut tree = AggregationTree::new(self.system.circuit_table()).map_err(execute_error)?;
        let mut pending = Extension::default();
        let mut circuits = 0;
        let mut failure = None;
        let mut emit = |circuit: BasicCircuit| {
            let (node, groups) = tree.push(circuit.id);
            let added = self.add_circuit(job, node, &circuit.payload, &mut pending).and_then(|()| {
                circuits += 1;
                for group in &groups {
                    self.add_group(group, &mut pending)?;
                }
                if !groups.is_empty() || circuits % CIRCUITS_PER_EXTENSION == 0 {
                    self.flush(job, &mut pending)?;
                }
                Ok(())
            });
            added.map_err(|e| failure = Some(e)).is_ok()
        };
        let generated = self.system.generate_circuits(job.batch, payload, &mut emit, control);
        if let Some(failure) = failure {
            return Err(failure);
        }
        generated.map_err(execute_error)?;
        let groups = tree.finish().map_err(execute_error)?;
        for group in &groups {
            self.add_group(group, &mut pending)?;
        }
        if let Some(Group { parent, .. }) = groups.last() {
            self.add_compression(*parent, &mut pending);
        }
        self.flush(job, &mut pending)?;
        tracing::info!(circuits, "all circuits of the batch are generated");
        Ok(())
    }

    fn add_circuit(
        &self,
        job: &LeasedJob,
        node: TreeNode,
        payload: &[u8],
        pending: &mut Extension,
    ) -> Result<(), ExecuteError> {
        let key = node.job(Stage::CircuitProof);
        let name = job_artifact_key(ArtifactKind::Circuit, job.batch, &key, job.token);
        let artifact = self
            .runtime
            .block_on(self.artifacts.put(ArtifactKind::Circuit, name, payload))
            .map_err(|e| ExecuteError::Unavailable(e.to_string()))?;
        pending.jobs.push(self.circuit_job(key, Some(artifact))?);
        Ok(())
    }

    /// The two jobs of an aggregating circuit, generation and proof, and who consumes whose output.
    fn add_group(&self, group: &Group, pending: &mut Extension) -> Result<(), ExecuteError> {
        let generation = group.parent.job(Stage::WitnessGeneration);
        let proof = group.parent.job(Stage::CircuitProof);
        pending.jobs.push(NewJob {
            key: generation,
            memory_class: MemoryClass::Light,
            expected_cost_ms: 0,
            peak_memory_bytes: 0,
            input: None,
        });
        pending.jobs.push(self.circuit_job(proof, None)?);
        let children = group.children.iter().map(|child| (child.job(Stage::CircuitProof), generation));
        pending.links.extend(children);
        pending.links.push((generation, proof));
        Ok(())
    }

    fn add_compression(&self, scheduler: TreeNode, pending: &mut Extension) {
        let compression = JobKey {
            round: AggregationRound::Scheduler,
            stage: Stage::Compression,
            circuit_id: CircuitId(0),
            depth: 0,
            sequence: 0,
        };
        pending.jobs.push(NewJob {
            key: compression,
            memory_class: MemoryClass::Heavy,
            expected_cost_ms: 0,
            peak_memory_bytes: 0,
            input: None,
        });
        pending.links.push((scheduler.job(Stage::CircuitProof), compression));
    }

    fn circuit_job(&self, key: JobKey, input: Option<ArtifactRef>) -> Result<NewJob, ExecuteError> {
        let circuit = CircuitType { round: key.round, id: key.circuit_id };
        let spec =
            self.system.circuit_table().get(circuit).map_err(|e: ProofSystemError| execute_error(e))?;
        Ok(NewJob {
            key,
            memory_class: spec.memory_class,
            expected_cost_ms: i64::try_from(spec.expected_cost.as_millis()).unwrap_or(i64::MAX),
            peak_memory_bytes: i64::try_from(spec.peak_memory_bytes).unwrap_or(i64::MAX),
            input,
        })
    }

    /// Inserts what is pending. A job that is consumed by one of a later extension is linked by that one, so only the
    /// consumers of this extension must come with all their links, and groups do.
    fn flush(&self, job: &LeasedJob, pending: &mut Extension) -> Result<(), ExecuteError> {
        let extension = std::mem::take(pending);
        debug_assert_eq!(
            extension.jobs.iter().map(|new| new.key).collect::<BTreeSet<_>>().len(),
            extension.jobs.len(),
            "a job is inserted twice"
        );
        self.runtime.block_on(self.store.extend_batch(job, &extension)).map_err(|e| match e {
            StoreError::LeaseLost { .. } => ExecuteError::Cancelled,
            e if e.is_transient() => ExecuteError::Unavailable(e.to_string()),
            e => ExecuteError::Fatal(e.to_string()),
        })
    }
}
