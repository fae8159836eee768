//! Names of the things that machines hand each other through the object store.

use crate::words;
use serde::{Deserialize, Serialize};

words! {
    /// What an artifact is; the first part of its key and a field of its header.
    ArtifactKind, "artifact kind" {
        /// What a user asked to have proven.
        WitnessInput = "witness_input",
        /// The input of one witness vector's synthesis.
        Circuit = "circuit",
        /// A proof of one circuit.
        Proof = "proof",
        /// The small proof of a whole batch.
        FinalProof = "final_proof",
    }
}

/// A row's claim on one artifact: where it lies and what its content must be.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ArtifactRef {
    /// Key in the object store.
    pub key: String,
    /// BLAKE3 of the payload.
    pub checksum: [u8; 32],
    /// Length of the payload in bytes.
    pub size_bytes: u64,
}
