//! The small example, from its files to its final proof, with the keys that ship.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use ledger_circuits::LedgerProofSystem;
use proof_system::{InputSource, KeyPurpose, ProofSystem, Uncontrolled, bare};
use proving_model::BatchId;
use std::path::Path;

/// Generating the keys also shows that this build reproduces the manifest that ships.
#[test]
fn the_small_example_is_proven_and_only_its_own_statement_is_accepted() {
    let keys = Path::new(env!("CARGO_TARGET_TMPDIR")).join("keys");
    let system = LedgerProofSystem::shipped(&keys).unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/ledger/transfers.csv");
    let input = system.read_input(&InputSource { path, state_path: None }).unwrap();
    let batch = BatchId { chain_id: 1, number: 7 };
    system.load_keys(KeyPurpose::Aggregate, &|_, _, _| ()).unwrap();

    let run = bare::prove_batch(&system, batch, &input.payload, &Uncontrolled).unwrap();
    assert_eq!(run.proven.len(), 8, "three basic circuits, three leaves, tip, scheduler");
    assert!(run.final_proof.len() < 60_000, "{} bytes", run.final_proof.len());
    let statement = system.outputs(batch, &input.payload).unwrap().remove(0).content;
    // The key that ships is the one that verifies: another folder, no proving keys.
    let verifier = LedgerProofSystem::shipped(Path::new("/nonexistent")).unwrap();
    verifier.verify_final(&run.final_proof, &statement).unwrap();

    let text = String::from_utf8(statement.clone()).unwrap();
    for (field, other) in [
        ("\"batch_number\": \"7\"", "\"batch_number\": \"8\""),
        ("\"chain_id\": \"1\"", "\"chain_id\": \"2\""),
        ("\"transfers\": 16", "\"transfers\": 15"),
    ] {
        assert!(text.contains(field), "{text}");
        let forged = text.replace(field, other);
        assert!(verifier.verify_final(&run.final_proof, forged.as_bytes()).is_err(), "{other} is accepted");
    }
    for field in ["root_before", "root_after", "public_data_hash"] {
        let at = text.find(field).unwrap() + field.len() + 4;
        let mut forged = statement.clone();
        forged[at + 20] = if forged[at + 20] == b'0' { b'1' } else { b'0' };
        assert!(verifier.verify_final(&run.final_proof, &forged).is_err(), "another {field} is accepted");
    }
    // Damage, and forgery behind a checksum that fits: a flipped byte in every tenth position.
    for position in (0..run.final_proof.len()).step_by(10) {
        let mut damaged = run.final_proof.clone();
        damaged[position] ^= 1;
        assert!(verifier.verify_final(&damaged, &statement).is_err(), "byte {position} flipped is accepted");
        if position >= 40 && position % 50 == 0 {
            let checksum = blake3::hash(&damaged[40..]);
            damaged[8..40].copy_from_slice(checksum.as_bytes());
            assert!(
                verifier.verify_final(&damaged, &statement).is_err(),
                "byte {position} forged is accepted"
            );
        }
    }
}
