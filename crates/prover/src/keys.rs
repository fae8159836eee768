//! `prover keys`: a proof system's key set on this machine, and on its way to others.

use anyhow::{Context, ensure};
use clap::{Args, Subcommand};
use cli_support::{
    MovedKeys, ObjectStoreArgs, ProofSystemArgs, ProofSystems, fetch_keys, key_files, publish_keys,
};
use proof_system::{KeyFile, KeyPurpose};
use serde_json::json;
use std::fmt::Write as _;
use std::io::Write as _;

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Generate the keys that are missing, and check the others. Where an object store is named, what it has of them is fetched first.
    Generate(MoveArgs),
    /// List the key set: names, sizes, digests, and which are on this machine.
    List(ListArgs),
    /// Check that each key on this machine is the one that its digest names, and that none is missing.
    Verify(ProofSystemArgs),
    /// Write the key set to the object store, where other machines find it.
    Publish(MoveArgs),
    /// Read from the object store the keys that are missing on this machine. `prover run` does the same before it generates any.
    Fetch(MoveArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    system: ProofSystemArgs,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct MoveArgs {
    #[command(flatten)]
    system: ProofSystemArgs,
    #[command(flatten)]
    object_store: ObjectStoreArgs,
}

pub(crate) async fn run(command: KeysCommand, systems: &ProofSystems) -> anyhow::Result<()> {
    match command {
        KeysCommand::Generate(args) => generate(&args, systems).await,
        KeysCommand::List(args) => list(&args, systems),
        KeysCommand::Verify(args) => verify(&args, systems),
        KeysCommand::Publish(args) => {
            let artifacts = args.object_store.open()?;
            let moved = publish_keys(&args.system.open(systems)?, &artifacts).await?;
            let MovedKeys { moved, there, .. } = moved;
            tracing::info!("{moved} keys published, {there} were in {} already", artifacts.name());
            Ok(())
        }
        KeysCommand::Fetch(args) => {
            let artifacts = args.object_store.open()?;
            let fetched = fetch_keys(&args.system.open(systems)?, &artifacts).await?;
            let MovedKeys { moved, there, absent } = fetched;
            tracing::info!("{moved} keys fetched, {there} were here already");
            ensure!(
                absent == 0,
                "{absent} keys are not in {}: `prover keys publish` writes them there",
                artifacts.name()
            );
            Ok(())
        }
    }
}

async fn generate(args: &MoveArgs, systems: &ProofSystems) -> anyhow::Result<()> {
    let system = args.system.open(systems)?;
    if args.object_store.object_store.is_some() && system.key_files().is_some() {
        fetch_keys(&system, &args.object_store.open()?).await?;
    }
    let generated = system.clone();
    let purposes = [KeyPurpose::Aggregate, KeyPurpose::Prove, KeyPurpose::Compress];
    let load =
        move || purposes.into_iter().try_for_each(|purpose| cli_support::load_keys(&*generated, purpose));
    tokio::task::spawn_blocking(load).await??;
    let folder = args.system.keys_folder();
    tracing::info!("all keys in {} are those that this program ships", folder.display());
    Ok(())
}

fn list(args: &ListArgs, systems: &ProofSystems) -> anyhow::Result<()> {
    let system = args.system.open(systems)?;
    let files = key_files(&*system)?.list()?;
    let folder = args.system.keys_folder();
    let text = if args.json {
        let keys: Vec<_> = files
            .iter()
            .map(|KeyFile { name, blake3, size_bytes, is_here }| {
                json!({ "name": name, "blake3": blake3, "size_bytes": size_bytes, "is_here": is_here })
            })
            .collect();
        let version = system.protocol_version().to_string();
        json!({ "folder": folder, "protocol_version": version, "keys": keys }).to_string()
    } else {
        let mut text = format!(
            "protocol version {}, keys in {}\n{:<40} {:>12}  {:<16}",
            system.protocol_version(),
            folder.display(),
            "key",
            "bytes",
            "BLAKE3"
        );
        for KeyFile { name, blake3, size_bytes, is_here } in &files {
            let place = if *is_here { "" } else { "  missing" };
            let _ = write!(text, "\n{name:<40} {size_bytes:>12}  {blake3:.16}{place}");
        }
        text
    };
    writeln!(std::io::stdout(), "{text}").context("cannot print the keys")
}

fn verify(args: &ProofSystemArgs, systems: &ProofSystems) -> anyhow::Result<()> {
    let system = args.open(systems)?;
    let files = key_files(&*system)?;
    let (mut wrong, mut right) = (0, 0);
    for KeyFile { name, .. } in files.list()? {
        match files.load(&name) {
            Ok(Some(_)) => right += 1,
            Ok(None) => {
                tracing::error!("key {name} is missing");
                wrong += 1;
            }
            Err(e) => {
                tracing::error!("{e}");
                wrong += 1;
            }
        }
    }
    let folder = args.keys_folder();
    ensure!(wrong == 0, "{wrong} keys in {} are missing or wrong, {right} are right", folder.display());
    tracing::info!("all {right} keys in {} are those that this program ships", folder.display());
    Ok(())
}
