use super::*;
use crate::aggregation_tests::{BATCH, input, system};
use proof_system::{ProofSystem, Uncontrolled, bare};
use std::sync::OnceLock;

/// A final proof of the small key set, its statement and its key.
fn proven() -> &'static [Vec<u8>; 3] {
    static PROVEN: OnceLock<[Vec<u8>; 3]> = OnceLock::new();
    PROVEN.get_or_init(|| {
        let (system, payload) = (system(), input(3, 10).encode());
        let proof = bare::prove_batch(system, BATCH, &payload, &Uncontrolled).unwrap().final_proof;
        let statement = system.outputs(BATCH, &payload).unwrap().remove(0).content;
        [proof, statement, system.final_verification_key().unwrap()]
    })
}

fn is_accepted(proof: &[u8]) -> bool {
    let [_, statement, key] = proven();
    verify(proof, statement, key).is_ok()
}

/// The proof, changed where the library's reader lets it be changed.
fn malleated(change: impl Fn(&mut Compressed)) -> Vec<u8> {
    let [proof, _, key] = proven();
    let verifier = read_key(key).unwrap();
    let mut read = Compressed::from_bytes(proof[HEADER_LEN..].to_vec(), &verifier.common).unwrap();
    change(&mut read);
    seal(&read.to_bytes())
}

#[test]
fn a_proof_has_one_encoding() {
    assert!(is_accepted(&proven()[0]));
    assert!(is_accepted(&malleated(|_| ())), "read and written again it is the same");
    let reordered = malleated(|p| p.proof.opening_proof.query_round_proofs.indices.reverse());
    assert!(!is_accepted(&reordered), "query indices in another order");
    let padded = malleated(|p| {
        for trees in p.proof.opening_proof.query_round_proofs.initial_trees_proofs.values_mut() {
            for (_, path) in &mut trees.evals_proofs {
                path.siblings.extend(vec![plonky2::hash::hash_types::HashOut::ZERO; 50]);
            }
        }
    });
    assert!(padded.len() > proven()[0].len());
    assert!(!is_accepted(&padded), "Merkle paths with something after them");
    let mut trailing = proven()[0].clone();
    trailing.push(0);
    assert!(!is_accepted(&reseal(&trailing)), "a byte more");
}

#[test]
fn a_key_is_read_in_its_one_encoding_and_of_the_known_shape_alone() {
    let [proof, statement, key] = proven();
    check_foreign_key(key, key).unwrap();
    // Every byte changed in two ways: no key may end the process or hang it, and no proof may pass with another key.
    let free = KEY_HEIGHT_LEN..KEY_HEIGHT_LEN + 2 * DIGEST_LEN;
    for at in 0..key.len() {
        for flip in [1, 0x80] {
            let mut forged = key.clone();
            forged[at] ^= flip;
            let checked = check_foreign_key(&forged, key);
            if free.contains(&at) {
                assert!(checked.is_err() || verify(proof, statement, &forged).is_err(), "byte {at}");
            } else {
                assert!(checked.is_err(), "byte {at} of the key's shape");
            }
        }
    }
    for cut in [0, 7, KEY_HEIGHT_LEN, free.end, key.len() - 1] {
        assert!(check_foreign_key(&key[..cut], key).is_err(), "cut at {cut}");
    }
    let mut longer = key.clone();
    longer.push(0);
    assert!(check_foreign_key(&longer, key).is_err());
    let mut noncanonical = key.clone();
    noncanonical[free.start..free.start + 8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(check_foreign_key(&noncanonical, key).is_err(), "an element above the field's order");
}

#[test]
fn a_key_has_one_text() {
    let key = &proven()[2];
    let text = key_to_text(key);
    assert_eq!(&key_from_text(&text).unwrap(), key);
    for (other, line) in [
        (text.to_uppercase(), 1),
        (text.replacen('\n', "\n# mine\n", 1), 2),
        (format!("{text}\n"), text.lines().count() + 1),
        (text.trim_end().to_owned(), text.lines().count() + 1),
        (text.replace('\n', "\r\n"), text.lines().count() + 1),
        (text.replacen("\n0", "\nx", 1), 2),
    ] {
        let error = key_from_text(&other).unwrap_err();
        assert!(error.starts_with(&format!("line {line} of")), "{error}");
    }
    let upper_digits = text
        .lines()
        .skip(1)
        .fold(text.lines().next().unwrap().to_owned(), |whole, line| whole + "\n" + &line.to_uppercase());
    assert!(key_from_text(&upper_digits).is_err());
}
