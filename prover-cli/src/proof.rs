//! `proof`: final proofs.

use crate::Output;
use crate::batch::BatchArgs;
use anyhow::Context;
use artifact_store::ArtifactStore;
use clap::{Args, Subcommand};
use cli_support::{ObjectStoreArgs, ProofSystems, VerifierArgs, verifier_in_words};
use job_store::{DatabaseUrl, StoreError};
use proving_model::{ArtifactKind, BatchId};
use schemars::JsonSchema;
use serde::Serialize;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(crate) enum ProofCommand {
    /// Fetch a batch's final proof with its statement, and verify it.
    Fetch(FetchArgs),
    /// Verify a batch's final proof where it lies, and write nothing. `prover verify` is for files.
    Verify(VerifyArgs),
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
    system: VerifierArgs,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    batch: BatchArgs,
    #[command(flatten)]
    object_store: ObjectStoreArgs,
    #[command(flatten)]
    system: VerifierArgs,
}

/// A batch's final proof verifies.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Verified {
    chain_id: u32,
    number: u32,
    proof_bytes: usize,
    /// The proof system and the verification key that it was verified with.
    verified_with: String,
    /// What it proves, in the proof system's own form.
    statement: serde_json::Value,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Fetched {
    folder: PathBuf,
    proof_bytes: usize,
}

/// A batch's final proof, and its input.
async fn read(url: &DatabaseUrl, id: BatchId, artifacts: &ArtifactStore) -> anyhow::Result<[Vec<u8>; 2]> {
    let store = cli_support::connect(url).await?;
    let batch = store.batch(id).await?.ok_or(StoreError::NoSuchBatch(id))?;
    store.close().await;
    let proof = batch.final_proof.as_ref().with_context(|| {
        format!("{id} has no final proof: it is {}; see `prover_cli status batch`", batch.status)
    })?;
    let proof = artifacts.get(ArtifactKind::FinalProof, proof).await?;
    Ok([proof, artifacts.get(ArtifactKind::WitnessInput, &batch.input).await?])
}

pub(crate) async fn fetch(
    url: &DatabaseUrl,
    args: FetchArgs,
    systems: &ProofSystems,
    output: Output,
) -> anyhow::Result<()> {
    let system = args.system.open(systems)?;
    let id = args.batch.id();
    let [proof, input] = read(url, id, &args.object_store.open()?).await?;
    let folder = args.out.unwrap_or_else(|| cli_support::default_output_folder(id));
    cli_support::write_outputs(&proof, &*system, id, &input, &folder)?;
    let text = format!("{}\n", folder.display());
    output.print(&Fetched { folder, proof_bytes: proof.len() }, &text)
}

pub(crate) async fn verify(
    url: &DatabaseUrl,
    args: VerifyArgs,
    systems: &ProofSystems,
    output: Output,
) -> anyhow::Result<()> {
    let system = args.system.open(systems)?;
    let id = args.batch.id();
    let [proof, input] = read(url, id, &args.object_store.open()?).await?;
    let files = proof_system::verify_outputs(&*system, id, &input, &proof)?;
    let statement = &files.first().context("the proof system has a statement")?.content;
    let verified_with = verifier_in_words(&*system);
    let text = format!("{id}: the proof of {} bytes verifies with {verified_with}\n", proof.len());
    // A statement that is no JSON is shown as text.
    let statement = serde_json::from_slice(statement)
        .unwrap_or_else(|_| String::from_utf8_lossy(statement).into_owned().into());
    let BatchId { chain_id, number } = id;
    output.print(&Verified { chain_id, number, proof_bytes: proof.len(), verified_with, statement }, &text)
}
