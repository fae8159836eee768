//! Serves a private PostgreSQL in the given folder and prints its URL; ends at the end of its input.
//!
//! `cargo run -p embedded-postgres --example serve -- FOLDER`

use embedded_postgres::{EmbeddedPostgres, Options};
use std::io::{self, Read, Write};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args_os().nth(1).ok_or("usage: serve FOLDER")?;
    let server = EmbeddedPostgres::start(folder.as_ref(), &Options::default())?;
    writeln!(io::stdout(), "{}", server.url("postgres"))?;
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
