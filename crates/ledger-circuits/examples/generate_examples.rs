//! Writes the example batches that ship under `examples/ledger/`, from their seeds.
//!
//! Run it from the repository's root: `cargo run -p ledger-circuits --example generate_examples`.

use ledger_circuits::generator::{SHIPPED, example};
use std::{fs, io, path::Path};

fn main() -> io::Result<()> {
    for (folder, transfers, accounts, seed) in SHIPPED {
        let dir = Path::new("examples/ledger").join(folder);
        fs::create_dir_all(&dir)?;
        let files = example(transfers, accounts, seed);
        fs::write(dir.join("accounts.csv"), files.accounts)?;
        fs::write(dir.join("transfers.csv"), files.transfers)?;
    }
    Ok(())
}
