//! The final proof's file, and its verification with a one-page key.
//!
//! ```text
//! "RHPROOF1" (8 bytes) | BLAKE3 of the rest (32 bytes) | plonky2's compressed proof with public inputs
//! ```
//!
//! The checksum tells damage from forgery; it adds nothing to soundness. The verification key is text: lines of
//! hexadecimal digits, `#` starts a comment.
//!
//! A proof has one encoding: whatever else the library's reader would take (other query indices, padded Merkle paths) is
//! refused, because the proof is compressed and written again and must give the same bytes. So does a key.

use crate::decode::refusing_panics;
use crate::{C, D, F, Proof, Statement, Verifier};
use plonky2::plonk::proof::CompressedProofWithPublicInputs;
use plonky2::util::serialization::DefaultGateSerializer;
use proof_system::Rejected;

const MAGIC: &[u8; 8] = b"RHPROOF1";
const HEADER_LEN: usize = 8 + 32;
/// A final proof has about 55 kB; what is far larger is none.
pub const PROOF_BYTES_MAX: usize = 128 << 10;
/// A verification key's text has about 2 kB.
pub const KEY_FILE_BYTES_MAX: usize = 8 << 10;
/// Bytes of the cap's height at the start of a key, and of each of the two digests after it.
const KEY_HEIGHT_LEN: usize = 8;
const DIGEST_LEN: usize = 32;
/// Digits in a line of a verification key's text.
const KEY_LINE_DIGITS: usize = 96;

type Compressed = CompressedProofWithPublicInputs<F, C, D>;

pub(crate) fn encode(proof: Proof, verifier: &Verifier) -> Result<Vec<u8>, String> {
    let body = refusing_panics("the proof cannot be compressed", || {
        let digest = &verifier.verifier_only.circuit_digest;
        Ok(proof.compress(digest, &verifier.common)?.to_bytes())
    })?;
    Ok(seal(&body))
}

/// Puts the header before a compressed proof.
fn seal(body: &[u8]) -> Vec<u8> {
    [MAGIC.as_slice(), blake3::hash(body).as_bytes(), body].concat()
}

/// Verifies a final proof against a statement, with the bytes of a verification key.
///
/// # Errors
/// [`Rejected`] says in a sentence what is wrong.
pub fn verify(final_proof: &[u8], statement: &[u8], verification_key: &[u8]) -> Result<(), Rejected> {
    let statement = Statement::from_json(statement)?;
    let (verifier, proof) = read(final_proof, verification_key)?;
    if proof.public_inputs != statement.public_inputs() {
        return Err(Rejected(
            "the proof is not one of this statement: its public inputs are others".to_owned(),
        ));
    }
    refusing_panics("the proof does not verify", || verifier.verify(proof)).map_err(Rejected)
}

/// A final proof's public inputs. The proof is read, not verified.
pub(crate) fn public_inputs(final_proof: &[u8], verification_key: &[u8]) -> Result<Vec<String>, Rejected> {
    let (_, proof) = read(final_proof, verification_key)?;
    Ok(proof.public_inputs.iter().map(ToString::to_string).collect())
}

/// Reads a final proof, and the key that it is to be verified with.
fn read(final_proof: &[u8], verification_key: &[u8]) -> Result<(Verifier, Proof), Rejected> {
    let reject = |reason: &str| Err(Rejected(reason.to_owned()));
    if final_proof.len() > PROOF_BYTES_MAX {
        return reject("the proof is far larger than any final proof");
    }
    let Some((header, body)) = final_proof.split_at_checked(HEADER_LEN) else {
        return reject("the proof file is cut short");
    };
    if &header[..8] != MAGIC {
        return reject("the file is not a final proof of a ledger batch");
    }
    if &header[8..] != blake3::hash(body).as_bytes() {
        return reject("the proof file is damaged: its checksum does not match");
    }
    let verifier = read_key(verification_key)?;
    let proof = refusing_panics("the proof cannot be read", || {
        let digest = &verifier.verifier_only.circuit_digest;
        let proof =
            Compressed::from_bytes(body.to_vec(), &verifier.common)?.decompress(digest, &verifier.common)?;
        anyhow::ensure!(
            proof.clone().compress(digest, &verifier.common)?.to_bytes() == body,
            "it is not in its one encoding"
        );
        Ok(proof)
    })
    .map_err(Rejected)?;
    Ok((verifier, proof))
}

fn read_key(verification_key: &[u8]) -> Result<Verifier, Rejected> {
    refusing_panics("the verification key cannot be read", || {
        let verifier = Verifier::from_bytes(verification_key.to_vec(), &DefaultGateSerializer)
            .map_err(|_| anyhow::anyhow!("it is not a key of this version"))?;
        let encoded =
            verifier.to_bytes(&DefaultGateSerializer).map_err(|_| anyhow::anyhow!("it is malformed"))?;
        anyhow::ensure!(encoded == verification_key, "it is not in its one encoding");
        Ok(verifier)
    })
    .map_err(Rejected)
}

/// Refuses a key that came as a file unless its circuit has the shipped key's shape. A proof's reader takes sizes and loops from
/// the key, and a key of any other shape is none of this version. Keys of one version differ in the circuit's digest and in
/// the cap of its constants, and in nothing else.
///
/// # Errors
/// [`Rejected`] says what is wrong with the key.
pub fn check_foreign_key(foreign: &[u8], shipped: &[u8]) -> Result<(), Rejected> {
    // The library writes the cap's height, the cap and the digest first, and the shape after them. Both ends are compared
    // as bytes, before anything of the foreign key is read.
    let free = KEY_HEIGHT_LEN..KEY_HEIGHT_LEN + 2 * DIGEST_LEN;
    let is_alike = foreign.len() == shipped.len()
        && foreign.len() > free.end
        && foreign[..free.start] == shipped[..free.start]
        && foreign[free.end..] == shipped[free.end..];
    if !is_alike {
        return Err(Rejected(
            "the verification key is not one of this version: its circuit has another configuration"
                .to_owned(),
        ));
    }
    read_key(foreign).map(drop)
}

/// A verification key as text.
#[must_use]
pub fn key_to_text(key: &[u8]) -> String {
    let digits: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut text =
        String::from("# Verification key of the ledger's final proofs (plonky2, Poseidon, Goldilocks).\n");
    let mut rest = digits.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(KEY_LINE_DIGITS));
        text.push_str(line);
        text.push('\n');
        rest = tail;
    }
    text
}

/// Reads a verification key from its text. It has one form, the text that [`key_to_text`] writes.
///
/// # Errors
/// The line that is wrong.
pub fn key_from_text(text: &str) -> Result<Vec<u8>, String> {
    let mut key = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.starts_with('#')) {
        let bad = || format!("line {} of the verification key is not hexadecimal", i + 1);
        if line.len() % 2 != 0 || !line.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(bad());
        }
        for at in (0..line.len()).step_by(2) {
            key.push(u8::from_str_radix(&line[at..at + 2], 16).map_err(|_| bad())?);
        }
    }
    let expected = key_to_text(&key);
    if text == expected {
        return Ok(key);
    }
    let first_wrong = text.lines().zip(expected.lines()).position(|(line, expected)| line != expected);
    let line = first_wrong.unwrap_or_else(|| text.lines().count().min(expected.lines().count()));
    Err(format!(
        "line {} of the verification key is not in its one form: the comment of a shipped key, {KEY_LINE_DIGITS} lower-case \
         digits a line, and a line feed at the end",
        line + 1
    ))
}

#[cfg(test)]
pub(crate) fn reseal(final_proof: &[u8]) -> Vec<u8> {
    seal(&final_proof[HEADER_LEN..])
}

#[cfg(test)]
#[path = "final_proof_tests.rs"]
mod tests;
