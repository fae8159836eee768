//! The public statement of a batch.

use crate::F;
use crate::circuits::recursion::STATEMENT_LEN;
use crate::digest::Digest;
use plonky2::field::types::Field;
use proof_system::Rejected;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Names the format of a statement file.
const FORMAT: &str = "roundhouse-ledger-statement-1";

/// What a final proof proves; see the crate's documentation for its meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// The chain that the batch belongs to.
    pub chain_id: u32,
    /// The batch's number.
    pub batch_number: u32,
    /// State root before the first transfer.
    pub root_before: Digest,
    /// State root after the last.
    pub root_after: Digest,
    /// How many transfers.
    pub transfers: u64,
    /// Hash of all transfers in their order.
    pub public_data_hash: Digest,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StatementFile {
    format: String,
    chain_id: u32,
    batch_number: u32,
    #[serde(serialize_with = "write_digest", deserialize_with = "read_digest")]
    root_before: Digest,
    #[serde(serialize_with = "write_digest", deserialize_with = "read_digest")]
    root_after: Digest,
    transfers: u64,
    #[serde(serialize_with = "write_digest", deserialize_with = "read_digest")]
    public_data_hash: Digest,
}

fn write_digest<S: Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(digest)
}

fn read_digest<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

impl Statement {
    /// The statement as JSON, one field a line.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let file = StatementFile {
            format: FORMAT.to_owned(),
            chain_id: self.chain_id,
            batch_number: self.batch_number,
            root_before: self.root_before,
            root_after: self.root_after,
            transfers: self.transfers,
            public_data_hash: self.public_data_hash,
        };
        // Strings and integers have no way to fail; an empty statement would be refused by every verifier.
        let mut json = serde_json::to_vec_pretty(&file).unwrap_or_default();
        json.push(b'\n');
        json
    }

    /// Reads a statement file.
    ///
    /// # Errors
    /// [`Rejected`] with line and field.
    pub fn from_json(json: &[u8]) -> Result<Self, Rejected> {
        let file: StatementFile = serde_json::from_slice(json)
            .map_err(|e| Rejected(format!("the statement is not one of a ledger batch: {e}")))?;
        if file.format != FORMAT {
            return Err(Rejected(format!("the statement's format is {:?}, not {FORMAT:?}", file.format)));
        }
        Ok(Self {
            chain_id: file.chain_id,
            batch_number: file.batch_number,
            root_before: file.root_before,
            root_after: file.root_after,
            transfers: file.transfers,
            public_data_hash: file.public_data_hash,
        })
    }

    /// The statement as the final proof's public inputs.
    pub(crate) fn public_inputs(&self) -> [F; STATEMENT_LEN] {
        let mut inputs = [F::ZERO; STATEMENT_LEN];
        inputs[0] = F::from_canonical_u32(self.chain_id);
        inputs[1] = F::from_canonical_u32(self.batch_number);
        inputs[2..6].copy_from_slice(&self.root_before.to_hash().elements);
        inputs[6..10].copy_from_slice(&self.root_after.to_hash().elements);
        inputs[10] = F::from_noncanonical_u64(self.transfers);
        inputs[11..15].copy_from_slice(&self.public_data_hash.to_hash().elements);
        inputs
    }
}
