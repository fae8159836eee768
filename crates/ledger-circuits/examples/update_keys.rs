//! Generates the ledger's key set anew and writes the manifest and the verification key that ship with the program.
//!
//! Run it from the repository's root after a change of the circuits, with a new folder for the keys:
//! `cargo run --release -p ledger-circuits --example update_keys -- FOLDER`

use keystore::Keystore;
use ledger_circuits::{LedgerParams, final_proof, keys::LedgerKeys};
use std::{fs, path::Path};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args_os().nth(1).ok_or("usage: update_keys FOLDER")?;
    let folder = Path::new(&folder);
    let keys = LedgerKeys::new(LedgerParams::default(), Keystore::new(folder.to_owned(), None));
    keys.generate(&|_, _, _| ())?;
    fs::copy(folder.join("manifest.toml"), "keys/manifest.toml")?;
    fs::write("keys/ledger-verification-key.txt", final_proof::key_to_text(&keys.final_verification_key()?))?;
    Ok(())
}
