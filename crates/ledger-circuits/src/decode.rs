//! Payloads from bytes and back. What bytes say is not trusted.

use proof_system::ProofSystemError;
use serde::{Serialize, de::DeserializeOwned};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Largest payload of a circuit: a tip with its three proofs of about 150 kB has room to spare.
const PAYLOAD_BYTES_MAX: usize = 64 << 20;

pub(crate) fn invalid(reason: impl std::fmt::Display) -> ProofSystemError {
    ProofSystemError::Invalid(reason.to_string())
}

pub(crate) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, ProofSystemError> {
    bincode::serde::encode_to_vec(value, bincode::config::standard()).map_err(invalid)
}

pub(crate) fn decode<T: DeserializeOwned>(
    bytes: &[u8],
    what: impl std::fmt::Display,
) -> Result<T, ProofSystemError> {
    let config = bincode::config::standard().with_limit::<PAYLOAD_BYTES_MAX>();
    match bincode::serde::decode_from_slice(bytes, config) {
        Ok((value, read)) if read == bytes.len() => Ok(value),
        Ok((_, read)) => {
            Err(invalid(format!("the payload of {what} ends at byte {read} of {}", bytes.len())))
        }
        Err(e) => Err(invalid(format!("not a payload of {what}: {e}"))),
    }
}

/// plonky2 panics on some malformed data that its readers let pass; to a caller that is one more refusal.
pub(crate) fn refusing_panics<T>(what: &str, run: impl FnOnce() -> anyhow::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result.map_err(|e| format!("{what}: {e:#}")),
        Err(_) => Err(format!("{what}: it is malformed")),
    }
}
