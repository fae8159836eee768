use super::*;
use std::fs;

const ACCOUNTS: &str = "account,balance\nada,100\nbob,0\n";

fn read(transfers: &[u8], accounts: &[u8]) -> Result<LedgerInput, String> {
    let dir = tempfile::tempdir().unwrap();
    let (t, a) = (dir.path().join("transfers.csv"), dir.path().join("accounts.csv"));
    fs::write(&t, transfers).unwrap();
    fs::write(&a, accounts).unwrap();
    assert_eq!(LedgerInput::default_accounts(&t), a);
    LedgerInput::read(&t, &a, &LedgerParams::default()).map_err(|e| e.to_string())
}

fn refused(transfers: &[u8], accounts: &[u8], place: &str, words: &str) {
    let error = read(transfers, accounts).expect_err(words);
    assert!(error.contains(place) && error.contains(words), "{error:?} lacks {place:?} or {words:?}");
}

#[test]
fn a_good_file_reads_and_its_payload_reads_back() {
    let input =
        read("from,to,amount\nada,Zoë,60\nZoë,\"bob, jr\",60\n".as_bytes(), ACCOUNTS.as_bytes()).unwrap();
    assert_eq!(input.transfers.len(), 2);
    let params = LedgerParams::default();
    assert_eq!(LedgerInput::decode(&input.encode(), &params).unwrap(), input);
    let after = input.balances_after(&params).unwrap();
    let expected = [("Zoë", 0), ("ada", 40), ("bob", 0), ("bob, jr", 60)].map(|(n, b)| (n.to_owned(), b));
    let mut sorted = expected.to_vec();
    sorted.sort();
    assert_eq!(after, sorted);
}

#[test]
fn every_mistake_in_transfers_is_refused_with_its_place() {
    for (body, place, words) in [
        ("", "transfers.csv", "empty"),
        ("from,to\n", "transfers.csv:1", "from,to,amount"),
        ("from,to,amount\n", "transfers.csv", "no transfers"),
        ("from,to,amount\nada,bob\n", "transfers.csv:2", "2 fields"),
        ("from,to,amount\nada,bob,1,2\n", "transfers.csv:2", "4 fields"),
        ("from,to,amount\nada,bob,1\nada,bob,x\n", "transfers.csv:3: field amount", "not a whole number"),
        ("from,to,amount\nada,bob,-1\n", "transfers.csv:2: field amount", "not a whole number"),
        ("from,to,amount\nada,bob,1.5\n", "transfers.csv:2: field amount", "not a whole number"),
        ("from,to,amount\nada,bob, 1\n", "transfers.csv:2: field amount", "not a whole number"),
        ("from,to,amount\nada,bob,0\n", "transfers.csv:2: field amount", "out of range"),
        ("from,to,amount\nada,bob,4611686018427387905\n", "transfers.csv:2: field amount", "out of range"),
        (
            "from,to,amount\nada,bob,99999999999999999999999\n",
            "transfers.csv:2: field amount",
            "out of range",
        ),
        ("from,to,amount\n,bob,1\n", "transfers.csv:2: field from", "empty"),
        ("from,to,amount\neve,bob,1\n", "transfers.csv:2", "unknown account \"eve\""),
        ("from,to,amount\nada,bob,60\nada,bob,60\n", "transfers.csv:3", "has 40"),
        ("from,to,amount\nada,ada,1\n", "transfers.csv:2", "itself"),
    ] {
        refused(body.as_bytes(), ACCOUNTS.as_bytes(), place, words);
    }
    let long = format!("from,to,amount\nada,{},1\n", "x".repeat(257));
    refused(long.as_bytes(), ACCOUNTS.as_bytes(), "transfers.csv:2: field to", "257 bytes");
    refused(b"from,to,amount\nada,b\xffb,1\n", ACCOUNTS.as_bytes(), "transfers.csv:2: field to", "UTF-8");
}

#[test]
fn every_mistake_in_accounts_is_refused_with_its_place() {
    let transfers = b"from,to,amount\nada,bob,1\n";
    for (body, place, words) in [
        ("", "accounts.csv", "empty"),
        ("name,balance\nada,1\n", "accounts.csv:1", "account,balance"),
        ("account,balance\nada\n", "accounts.csv:2", "1 field,"),
        ("account,balance\nada,1\nbob,1\nada,2\n", "accounts.csv:4: field account", "line 2"),
        ("account,balance\nada,9223372036854775808\n", "accounts.csv:2: field balance", "out of range"),
        ("account,balance\nada,ten\n", "accounts.csv:2: field balance", "not a whole number"),
    ] {
        refused(transfers, body.as_bytes(), place, words);
    }
    let full = "account,balance\nada,5\nbob,9223372036854775807\n";
    refused(transfers, full.as_bytes(), "transfers.csv:2", "overflow");
}

#[test]
fn missing_and_oversized_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("nothing.csv");
    let params = LedgerParams::default();
    let error = LedgerInput::read(&missing, &missing, &params).unwrap_err().to_string();
    assert!(error.contains("nothing.csv"), "{error}");
    assert!(LedgerInput::read(dir.path(), dir.path(), &params).is_err(), "a folder is no file");
    let big = dir.path().join("big.csv");
    fs::File::create(&big).unwrap().set_len(FILE_BYTES_MAX + 1).unwrap();
    let error = LedgerInput::read(&big, &big, &params).unwrap_err().to_string();
    assert!(error.contains(&FILE_BYTES_MAX.to_string()), "{error}");
}

#[test]
fn a_hostile_payload_is_refused() {
    let params = LedgerParams::default();
    let good = read(b"from,to,amount\nada,bob,1\n", ACCOUNTS.as_bytes()).unwrap();
    let payload = good.encode();
    for cut in 0..payload.len() {
        assert!(LedgerInput::decode(&payload[..cut], &params).is_err(), "cut at {cut}");
    }
    let overdrawn = LedgerInput { transfers: vec![("bob".into(), "ada".into(), 1)], ..good.clone() };
    let error = LedgerInput::decode(&overdrawn.encode(), &params).unwrap_err().to_string();
    assert!(error.contains("transfer 1") && error.contains("has 0"), "{error}");
    let mut trailing = payload;
    trailing.push(0);
    assert!(LedgerInput::decode(&trailing, &params).is_err());

    // A payload may come from anybody: what a file may not have, it may not either.
    let crowd = |many: usize| (0..many).map(|i| (format!("a{i}"), 5)).collect::<Vec<_>>();
    let crowded = LedgerInput { accounts: crowd(ACCOUNTS_MAX + 1), ..good.clone() };
    let error = LedgerInput::decode(&crowded.encode(), &params).unwrap_err().to_string();
    assert!(error.contains("100001 opening accounts") && error.contains("100000"), "{error}");
    let busy = LedgerInput { transfers: vec![good.transfers[0].clone(); TRANSFERS_MAX + 1], ..good };
    let error = LedgerInput::decode(&busy.encode(), &params).unwrap_err().to_string();
    assert!(error.contains("100001 transfers") && error.contains("100000"), "{error}");
}

#[test]
fn names_that_a_spreadsheet_would_run_are_written_with_an_apostrophe_and_read_back() {
    let names = [
        "=1+1", "+1", "-1", "@sum", "\tx", "\rx", "\nx", "＝1", "'=1", "''@x", "'plain", "plain", "a=b", "'",
    ];
    let mut cells = std::collections::BTreeSet::new();
    for name in names {
        let cell = to_cell(name);
        assert!(!cell.starts_with(begins_a_formula), "{cell:?}");
        assert_eq!(from_cell(&cell), name);
        assert!(cells.insert(cell), "{name:?} and another name have one cell");
    }
    assert_eq!(to_cell("=1+1"), "'=1+1");
    assert_eq!(to_cell("plain"), "plain");

    // Whole files: what was written for one batch is the next batch's.
    let input =
        read(b"from,to,amount\n=ada,'@bob,1\n'=ada,@bob,1\n", b"account,balance\n'=ada,100\n@bob,0\n")
            .unwrap();
    assert_eq!(input.accounts, [("=ada".to_owned(), 100), ("@bob".to_owned(), 0)]);
    assert_eq!(input.balances_after(&LedgerParams::default()).unwrap()[0], ("=ada".to_owned(), 98));
    refused(
        b"from,to,amount\nx,y,1\n",
        b"account,balance\n=ada,1\n'=ada,1\n",
        "accounts.csv:3",
        "already on line 2",
    );
}
