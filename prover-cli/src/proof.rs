//! `proof fetch`.

use crate::Output;
use crate::batch::BatchArgs;
use anyhow::Context;
use clap::{Args, Subcommand};
use job_store::{DatabaseUrl, StoreError};
use launch::{ObjectStoreArgs, ProofSystemArgs};
use proving_model::ArtifactKind;
use schemars::JsonSchema;
use serde::Serialize;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(crate) enum ProofCommand {
    /// Fetch a batch's final proof with its statement, and verify it.
    Fetch(FetchArgs),
}

#[derive(Debug, Args)]
pub(crate) struct FetchArgs {
    #[command(flatten)]
    batch: BatchArgs,
    /// Where the files go [default: ./proofs/CHAIN-NUMBER].
    #[arg(long)]
    out: Option<PathBuf>,
    #[command(flatten)]
    object_store: ObjectStoreArgs,
    #[command(flatten)]
    system: ProofSystemArgs,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Fetched {
    folder: PathBuf,
    proof_bytes: usize,
}

pub(crate) async fn fetch(url: &DatabaseUrl, args: FetchArgs, output: Output) -> anyhow::Result<()> {
    let system = args.system.open()?;
    let artifacts = args.object_store.open()?;
    let store = launch::connect(url).await?;
    let id = args.batch.id();
    let batch = store.batch(id).await?.ok_or(StoreError::NoSuchBatch(id))?;
    store.close().await;
    let proof = batch.final_proof.as_ref().with_context(|| {
        format!("{id} has no final proof: it is {}; see `prover_cli status batch`", batch.status)
    })?;
    let proof = artifacts.get(ArtifactKind::FinalProof, proof).await?;
    let input = artifacts.get(ArtifactKind::WitnessInput, &batch.input).await?;
    let folder = args.out.unwrap_or_else(|| launch::default_output_folder(id));
    launch::write_outputs(&proof, &*system, id, &input, &folder)?;
    let text = format!("{}\n", folder.display());
    output.print(&Fetched { folder, proof_bytes: proof.len() }, &text)
}
