//! A batch proven in a plain loop: no queue, no store, one circuit after the other.
//!
//! This is the reference that the pipeline's wall time is compared with, and the driver of the conformance suite.

use crate::tree::{AggregationTree, Group, TreeNode};
use crate::{Control, ProofSystem, ProofSystemError};
use proving_model::{AggregationRound, BatchId};
use std::collections::HashMap;

/// What a batch's plain loop produced.
#[derive(Debug)]
pub struct BareRun {
    /// The small final proof.
    pub final_proof: Vec<u8>,
    /// Every circuit proven, in the order of proving.
    pub proven: Vec<TreeNode>,
}

/// Proves a batch from its witness input to its final proof.
///
/// # Errors
/// The first error of any stage.
pub fn prove_batch(
    system: &dyn ProofSystem,
    batch: BatchId,
    witness_input: &[u8],
    control: &dyn Control,
) -> Result<BareRun, ProofSystemError> {
    prove_batch_observed(system, batch, witness_input, control, &mut |_, _| ())
}

/// As [`prove_batch`]; `observe` is given each group, once its parent is due, and the proofs of its children.
pub(crate) fn prove_batch_observed(
    system: &dyn ProofSystem,
    batch: BatchId,
    witness_input: &[u8],
    control: &dyn Control,
    observe: &mut dyn FnMut(&Group, &[Vec<u8>]),
) -> Result<BareRun, ProofSystemError> {
    let mut tree = AggregationTree::new(system.circuit_table())?;
    let mut basics = Vec::new();
    let mut groups = Vec::new();
    system.generate_circuits(
        batch,
        witness_input,
        &mut |circuit| {
            let (node, filled) = tree.push(circuit.id);
            basics.push((node, circuit.payload));
            groups.extend(filled);
            true
        },
        control,
    )?;
    groups.extend(tree.finish()?);

    let mut run = Loop { system, control, proofs: HashMap::new(), proven: Vec::new() };
    for (node, payload) in basics {
        run.prove(node, &payload)?;
    }
    let mut last = None;
    for group in groups {
        let parent = group.parent;
        let proofs = run.take(&group.children)?;
        observe(&group, &proofs);
        let payload = system.aggregate(batch, parent.circuit(), &proofs, control)?;
        run.prove(parent, &payload)?;
        last = Some(parent);
    }
    let scheduler = last.filter(|node| node.round == AggregationRound::Scheduler).ok_or_else(|| {
        ProofSystemError::Invalid("the aggregation tree does not end in a scheduler".to_owned())
    })?;
    let scheduler_proof = run.take(&[scheduler])?.remove(0);
    Ok(BareRun { final_proof: system.compress(&scheduler_proof, control)?, proven: run.proven })
}

struct Loop<'a> {
    system: &'a dyn ProofSystem,
    control: &'a dyn Control,
    proofs: HashMap<TreeNode, Vec<u8>>,
    proven: Vec<TreeNode>,
}

impl Loop<'_> {
    fn prove(&mut self, node: TreeNode, payload: &[u8]) -> Result<(), ProofSystemError> {
        let circuit = node.circuit();
        let vector = self.system.synthesize(circuit, payload, self.control)?;
        let proof = self.system.prove(circuit, vector, self.control)?;
        self.proofs.insert(node, proof);
        self.proven.push(node);
        Ok(())
    }

    /// Removes the proofs of these nodes: each is consumed once.
    fn take(&mut self, nodes: &[TreeNode]) -> Result<Vec<Vec<u8>>, ProofSystemError> {
        nodes
            .iter()
            .map(|node| {
                self.proofs
                    .remove(node)
                    .ok_or_else(|| ProofSystemError::Invalid(format!("no proof of {node:?} to consume")))
            })
            .collect()
    }
}
