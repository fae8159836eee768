//! Which proofs are aggregated together.
//!
//! [`AggregationTree`] is fed the basic circuits as they are generated and answers with groups: a parent job
//! and the children whose proofs it takes. A group is given out as soon as it is full, so that aggregation starts
//! while circuits are still being generated; [`AggregationTree::finish`] gives out the rest.
//!
//! **Invariant:** every proof is the child of exactly one parent, and the scheduler's is nobody's child. Each basic
//! circuit's proofs end in one proof, a leaf's or a node's, which the recursion tip takes.

use crate::{CircuitTable, CircuitType, ProofSystemError};
use proving_model::{AggregationRound, CircuitId, JobKey, Stage};
use std::collections::BTreeMap;

/// The place of one circuit in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TreeNode {
    /// The round it belongs to.
    pub round: AggregationRound,
    /// Which circuit of the round.
    pub circuit_id: CircuitId,
    /// Level within the node round, from 0; 0 elsewhere.
    pub depth: i16,
    /// Position among the nodes of the same round, circuit and depth.
    pub sequence: i32,
}

impl TreeNode {
    /// The circuit that stands at this place.
    #[must_use]
    pub fn circuit(self) -> CircuitType {
        CircuitType { round: self.round, id: self.circuit_id }
    }

    /// The job of a stage that works on this circuit.
    #[must_use]
    pub fn job(self, stage: Stage) -> JobKey {
        JobKey {
            round: self.round,
            stage,
            circuit_id: self.circuit_id,
            depth: self.depth,
            sequence: self.sequence,
        }
    }
}

/// A parent and the proofs that it takes, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The aggregating circuit.
    pub parent: TreeNode,
    /// The circuits whose proofs it takes.
    pub children: Vec<TreeNode>,
}

/// One level of one basic circuit's subtree: the children that no group has taken yet.
#[derive(Debug, Default)]
struct Level {
    open: Vec<TreeNode>,
    groups: i32,
}

/// Grows the tree of one batch.
#[derive(Debug)]
pub struct AggregationTree {
    leaf_fan_in: usize,
    node_fan_in: usize,
    basic_circuits: Vec<CircuitId>,
    tip: CircuitId,
    scheduler: CircuitId,
    /// Level 0 holds basic proofs, level 1 leaf proofs, level 2 + d the proofs of nodes of depth d.
    levels: BTreeMap<CircuitId, Vec<Level>>,
    basic_counts: BTreeMap<CircuitId, i32>,
}

impl AggregationTree {
    /// An empty tree for a batch of this proof system.
    ///
    /// # Errors
    /// [`ProofSystemError::Invalid`] when the table lacks a tip or a scheduler.
    pub fn new(table: &CircuitTable) -> Result<Self, ProofSystemError> {
        assert!(table.leaf_fan_in >= 1 && table.node_fan_in >= 2, "a tree of such fan-ins never ends");
        Ok(Self {
            leaf_fan_in: table.leaf_fan_in,
            node_fan_in: table.node_fan_in,
            basic_circuits: table.basic_circuits().collect(),
            tip: table.single(AggregationRound::RecursionTip)?,
            scheduler: table.single(AggregationRound::Scheduler)?,
            levels: BTreeMap::new(),
            basic_counts: BTreeMap::new(),
        })
    }

    /// Adds the next basic circuit of this id; returns its place, and the groups that it filled.
    pub fn push(&mut self, circuit_id: CircuitId) -> (TreeNode, Vec<Group>) {
        let count = self.basic_counts.entry(circuit_id).or_default();
        let node =
            TreeNode { round: AggregationRound::BasicCircuits, circuit_id, depth: 0, sequence: *count };
        *count += 1;
        let mut groups = Vec::new();
        self.add(circuit_id, 0, node, &mut groups);
        (node, groups)
    }

    /// Closes the tree: the groups that were not full, the tip and the scheduler.
    ///
    /// # Errors
    /// [`ProofSystemError::Invalid`] when some basic circuit never came: the tip takes a proof of each.
    pub fn finish(mut self) -> Result<Vec<Group>, ProofSystemError> {
        let mut groups = Vec::new();
        let mut tops = Vec::new();
        for circuit_id in std::mem::take(&mut self.basic_circuits) {
            if !self.basic_counts.contains_key(&circuit_id) {
                return Err(ProofSystemError::Invalid(format!(
                    "the batch has no basic circuit {circuit_id}, and the recursion tip needs one of each"
                )));
            }
            let mut level = 0;
            loop {
                let levels = self.levels.entry(circuit_id).or_default();
                let current = &levels[level];
                let is_top = level + 1 == levels.len();
                // Level 0 is never the top: a single basic proof still passes through a leaf, since the tip takes
                // leaves and nodes only.
                match current.open.as_slice() {
                    [top] if is_top && level > 0 => {
                        tops.push(*top);
                        break;
                    }
                    // A node over a single proof would add nothing: the proof moves up as it is.
                    [single] if level > 0 => {
                        let single = *single;
                        levels[level].open.clear();
                        self.add(circuit_id, level + 1, single, &mut groups);
                    }
                    [] => {}
                    _ => self.close(circuit_id, level, &mut groups),
                }
                level += 1;
            }
        }
        let tip =
            TreeNode { round: AggregationRound::RecursionTip, circuit_id: self.tip, depth: 0, sequence: 0 };
        let scheduler = TreeNode {
            round: AggregationRound::Scheduler,
            circuit_id: self.scheduler,
            depth: 0,
            sequence: 0,
        };
        groups.push(Group { parent: tip, children: tops });
        groups.push(Group { parent: scheduler, children: vec![tip] });
        Ok(groups)
    }

    fn add(&mut self, circuit_id: CircuitId, level: usize, node: TreeNode, groups: &mut Vec<Group>) {
        let fan_in = if level == 0 { self.leaf_fan_in } else { self.node_fan_in };
        let levels = self.levels.entry(circuit_id).or_default();
        if levels.len() == level {
            levels.push(Level::default());
        }
        levels[level].open.push(node);
        if levels[level].open.len() == fan_in {
            self.close(circuit_id, level, groups);
        }
    }

    /// Turns the open children of a level into a group, whose parent joins the level above.
    fn close(&mut self, circuit_id: CircuitId, level: usize, groups: &mut Vec<Group>) {
        let levels = self.levels.entry(circuit_id).or_default();
        let children = std::mem::take(&mut levels[level].open);
        let sequence = levels[level].groups;
        levels[level].groups += 1;
        let (round, depth) = match level {
            0 => (AggregationRound::LeafAggregation, 0),
            _ => (AggregationRound::NodeAggregation, i16::try_from(level - 1).unwrap_or(i16::MAX)),
        };
        let parent = TreeNode { round, circuit_id, depth, sequence };
        groups.push(Group { parent, children });
        self.add(circuit_id, level + 1, parent, groups);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ProofSystem;
    use crate::mock::{MockConfig, MockProofSystem};
    use std::collections::HashSet;

    fn groups_of(circuits: &[(i16, usize)], fan_ins: (usize, usize)) -> (usize, Vec<Group>) {
        let mut table = MockProofSystem::new(MockConfig::default()).circuit_table().clone();
        (table.leaf_fan_in, table.node_fan_in) = fan_ins;
        let mut tree = AggregationTree::new(&table).unwrap();
        let mut groups = Vec::new();
        let mut basics = 0;
        for (id, count) in circuits {
            for _ in 0..*count {
                groups.extend(tree.push(CircuitId(*id)).1);
                basics += 1;
            }
        }
        groups.extend(tree.finish().unwrap());
        (basics, groups)
    }

    /// Every proof is consumed exactly once, by a parent that comes after it, up to the scheduler.
    #[test]
    fn the_tree_is_exact_for_every_size() {
        for fan_ins in [(1, 2), (2, 2), (3, 2), (4, 3), (4, 4), (5, 7)] {
            for count in (1..40).chain([64, 65, 255, 256, 257, 1000]) {
                let (basics, groups) = groups_of(&[(1, count), (2, 1), (3, 3)], fan_ins);
                let mut made: HashSet<TreeNode> = HashSet::new();
                let mut consumed: HashSet<TreeNode> = HashSet::new();
                for group in &groups {
                    assert!(
                        !group.children.is_empty() && group.children.len() <= fan_ins.0.max(fan_ins.1).max(3)
                    );
                    if group.parent.round == AggregationRound::NodeAggregation {
                        assert!(group.children.len() >= 2, "{:?} aggregates nothing", group.parent);
                    }
                    for child in &group.children {
                        assert!(consumed.insert(*child), "{child:?} is consumed twice");
                        if child.round != AggregationRound::BasicCircuits {
                            assert!(made.contains(child), "{child:?} is consumed before it is made");
                        }
                    }
                    assert!(made.insert(group.parent), "{:?} is made twice", group.parent);
                }
                // All but the scheduler are consumed.
                assert_eq!(consumed.len(), basics + made.len() - 1, "{count} circuits, fan-ins {fan_ins:?}");
                assert_eq!(groups.last().unwrap().parent.round, AggregationRound::Scheduler);
                assert_eq!(groups[groups.len() - 2].children.len(), 3);
            }
        }
    }

    #[test]
    fn a_full_group_is_given_out_before_the_stream_ends() {
        let table = MockProofSystem::new(MockConfig::default()).circuit_table().clone();
        let mut tree = AggregationTree::new(&table).unwrap();
        let mut early = 0;
        for _ in 0..table.leaf_fan_in * 2 {
            early += tree.push(CircuitId(1)).1.len();
        }
        assert_eq!(early, 2);
    }

    #[test]
    fn a_missing_circuit_is_an_error() {
        let table = MockProofSystem::new(MockConfig::default()).circuit_table().clone();
        let mut tree = AggregationTree::new(&table).unwrap();
        tree.push(CircuitId(1));
        assert!(tree.finish().unwrap_err().to_string().contains("no basic circuit 2"));
    }
}
