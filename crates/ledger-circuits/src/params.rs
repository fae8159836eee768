//! Sizes of the circuits, and the kinds of basic circuits.

use crate::F;
use plonky2::field::types::Field;
use proving_model::CircuitId;

/// How much fits into each circuit. Other sizes are other circuits, with other keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerParams {
    /// Levels of the state tree: two names collide by chance once in 2^depth, and then the second is refused.
    pub tree_depth: usize,
    /// Transfers in one transfer execution circuit.
    pub transfers_per_execution: usize,
    /// Transfers in one storage application circuit; each is two queries.
    pub transfers_per_storage: usize,
    /// Transfers in one public data circuit.
    pub transfers_per_public_data: usize,
    /// Basic proofs in one leaf.
    pub leaf_fan_in: usize,
    /// Proofs of leaves and nodes in one node.
    pub node_fan_in: usize,
}

impl Default for LedgerParams {
    /// The sizes that fill their circuits' powers of two: 2^11, 2^13 and 2^10 rows; leaves, nodes and tip 2^14.
    fn default() -> Self {
        Self {
            tree_depth: 56,
            transfers_per_execution: 128,
            transfers_per_storage: 32,
            transfers_per_public_data: 128,
            leaf_fan_in: 4,
            node_fan_in: 3,
        }
    }
}

/// The three kinds of basic circuits, each a chain of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Checks the semantics of transfers.
    TransferExecution,
    /// Applies storage queries to the state tree.
    StorageApplication,
    /// Hashes the log entries.
    PublicData,
}

impl Kind {
    /// Every kind, in the order in which the recursion tip takes their proofs.
    pub const ALL: [Self; 3] = [Self::TransferExecution, Self::StorageApplication, Self::PublicData];

    /// The kind's circuit id, 1 to 3.
    #[must_use]
    pub const fn circuit_id(self) -> CircuitId {
        CircuitId(self as i16 + 1)
    }

    /// The kind of this circuit id.
    #[must_use]
    pub fn from_circuit_id(id: CircuitId) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.circuit_id() == id)
    }

    /// Position in [`Kind::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    pub(crate) fn element(self) -> F {
        F::from_canonical_usize(self.index() + 1)
    }

    pub(crate) fn from_number(number: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.index() as u64 + 1 == number)
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::TransferExecution => "transfer-execution",
            Self::StorageApplication => "storage-application",
            Self::PublicData => "public-data",
        }
    }
}
