//! Inputs that are refused: by name, line and field, with exit status 2, before anything is written.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{fs, path::Path, process::Command};
use test_support::programs::{output, program, stderr};

/// A mistake, and what the refusal must name.
struct Case {
    transfers: &'static [u8],
    accounts: &'static [u8],
    named: &'static [&'static str],
}

const ACCOUNTS: &[u8] = b"account,balance\nada,100\nbob,5\n";

const CASES: &[Case] = &[
    case(b"", ACCOUNTS, &["in.csv", "empty"]),
    case(b"from,to\nada,bob\n", ACCOUNTS, &["in.csv:1", "from,to,amount"]),
    case(b"from,to,amount\n", ACCOUNTS, &["in.csv", "no transfers"]),
    case(b"from,to,amount\nada,bob\n", ACCOUNTS, &["in.csv:2", "2 fields"]),
    case(b"from,to,amount\nada,bob,1\nada,bob,1,9\n", ACCOUNTS, &["in.csv:3", "4 fields"]),
    case(b"from,to,amount\nada,bob,one\n", ACCOUNTS, &["in.csv:2", "amount", "\"one\""]),
    case(b"from,to,amount\nada,bob,-1\n", ACCOUNTS, &["in.csv:2", "amount", "-1"]),
    case(b"from,to,amount\nada,bob,1.5\n", ACCOUNTS, &["in.csv:2", "amount", "1.5"]),
    case(b"from,to,amount\nada,bob,0\n", ACCOUNTS, &["in.csv:2", "amount", "from 1"]),
    case(b"from,to,amount\nada,bob,4611686018427387905\n", ACCOUNTS, &["in.csv:2", "amount", "out of range"]),
    case(
        b"from,to,amount\nada,bob,99999999999999999999999\n",
        ACCOUNTS,
        &["in.csv:2", "amount", "out of range"],
    ),
    case(b"from,to,amount\neve,bob,1\n", ACCOUNTS, &["in.csv:2", "from", "eve"]),
    case(b"from,to,amount\nada,bob,60\nada,bob,41\n", ACCOUNTS, &["in.csv:3", "amount", "40"]),
    case(b"from,to,amount\nada,ada,1\n", ACCOUNTS, &["in.csv:2", "ada"]),
    case(b"from,to,amount\nada,b\xff,1\n", ACCOUNTS, &["in.csv:2", "to", "UTF-8"]),
    case(b"from,to,amount\nada,,1\n", ACCOUNTS, &["in.csv:2", "to"]),
    case(
        b"from,to,amount\nada,bob,1\n",
        b"account,balance\nada,1\nada,2\n",
        &["accounts.csv:3", "account", "line 2"],
    ),
    case(b"from,to,amount\nada,bob,1\n", b"account,balance\nada,-4\n", &["accounts.csv:2", "balance"]),
    case(b"from,to,amount\nada,bob,1\n", b"name,value\n", &["accounts.csv:1", "account,balance"]),
];

const fn case(transfers: &'static [u8], accounts: &'static [u8], named: &'static [&'static str]) -> Case {
    Case { transfers, accounts, named }
}

/// The two ways in: proving at once, and queueing. The database is never reached, so any URL will do.
fn ways_in(folder: &Path) -> [Command; 2] {
    let mut prove = program("prover");
    prove.args(["prove", "in.csv", "--data", "data", "--keys", "keys"]);
    let mut insert = program("prover_cli");
    insert
        .args(["postgres://nobody@127.0.0.1:1/none", "insert-batch", "--number=1", "--input=in.csv"])
        .args(["--object-store", "artifacts", "--keys", "keys"]);
    [prove, insert].map(|mut command| {
        command.current_dir(folder);
        command
    })
}

fn assert_refused(folder: &Path, named: &[&str]) {
    let before = fs::read_dir(folder).unwrap().count();
    for mut way in ways_in(folder) {
        let result = output(&mut way);
        let words = stderr(&result);
        assert_eq!(result.status.code(), Some(2), "{named:?}: {words}");
        assert!(result.stdout.is_empty());
        for name in named {
            assert!(words.contains(name), "{name:?} is not in: {words}");
        }
        assert_eq!(fs::read_dir(folder).unwrap().count(), before, "nothing is written: {words}");
    }
}

#[test]
fn every_mistake_is_refused_with_its_place() {
    for case in CASES {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("in.csv"), case.transfers).unwrap();
        fs::write(folder.path().join("accounts.csv"), case.accounts).unwrap();
        assert_refused(folder.path(), case.named);
    }
}

#[test]
fn files_that_are_missing_too_large_or_no_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert_refused(folder.path(), &["cannot read in.csv", "No such file"]);
    fs::write(folder.path().join("in.csv"), "from,to,amount\nada,bob,1\n").unwrap();
    assert_refused(folder.path(), &["accounts.csv", "No such file"]);
    fs::create_dir(folder.path().join("accounts.csv")).unwrap();
    assert_refused(folder.path(), &["accounts.csv", "folder"]);
    // Sparse: its size is looked at before its content.
    fs::File::create(folder.path().join("in.csv")).unwrap().set_len(1 << 40).unwrap();
    assert_refused(folder.path(), &["in.csv", "1099511627776 bytes"]);
}

#[test]
fn verify_tells_a_bad_call_from_a_bad_proof() {
    let folder = tempfile::tempdir().unwrap();
    let verify = |proof: &str| {
        let mut command = program("prover");
        command.args(["verify", proof, "--statement", "statement.json"]).current_dir(folder.path());
        let result = output(&mut command);
        (result.status.code().unwrap(), stderr(&result))
    };
    let (code, words) = verify("proof.bin");
    assert!(code == 2 && words.contains("proof.bin"), "{words}");
    fs::write(folder.path().join("proof.bin"), "no proof").unwrap();
    fs::write(folder.path().join("statement.json"), "{}").unwrap();
    let (code, words) = verify("proof.bin");
    assert!(code == 1 && words.contains("proof.bin is refused"), "{words}");
}
