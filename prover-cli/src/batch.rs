//! `insert-batch`, and how commands name a batch.

use crate::{Output, version::VersionArgs};
use anyhow::Context;
use artifact_store::witness_input_key;
use clap::Args;
use job_store::{ChainSettings, DatabaseUrl, InsertedBatch, NewBatch};
use launch::{BadInput, ObjectStoreArgs, ProofSystemArgs};
use proof_system::InputSource;
use proving_model::{ArtifactKind, BatchId, HeadOfChain};
use schemars::JsonSchema;
use serde::Serialize;
use std::path::PathBuf;

/// Which batch.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct BatchArgs {
    /// The batch's number, bound to the proof.
    #[arg(short, long)]
    number: u32,
    /// The chain's id, bound to the proof.
    #[arg(short, long, default_value_t = 0)]
    chain_id: u32,
}

impl BatchArgs {
    pub(crate) fn id(self) -> BatchId {
        BatchId { chain_id: self.chain_id, number: self.number }
    }
}

#[derive(Debug, Args)]
pub(crate) struct InsertBatchArgs {
    #[command(flatten)]
    batch: BatchArgs,
    #[command(flatten)]
    version: VersionArgs,
    /// The input; for the ledger a CSV file with the header from,to,amount.
    #[arg(long)]
    input: PathBuf,
    /// Opening balances, a CSV file with the header account,balance [default: accounts.csv beside the input].
    #[arg(long)]
    accounts: Option<PathBuf>,
    /// Higher is sooner.
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    priority: i32,
    /// When the final proof should be there, such as 2026-11-21T18:00:00Z; among batches of one priority the earlier is sooner.
    #[arg(long)]
    deadline: Option<String>,
    #[command(flatten)]
    object_store: ObjectStoreArgs,
    #[command(flatten)]
    system: ProofSystemArgs,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Inserted {
    chain_id: u32,
    number: u32,
    is_new: bool,
    summary: String,
}

pub(crate) async fn insert(url: &DatabaseUrl, args: InsertBatchArgs, output: Output) -> anyhow::Result<()> {
    let system = args.system.open()?;
    let version = args.version.check(&*system)?;
    let source = InputSource { path: args.input, state_path: args.accounts };
    let input = system.read_input(&source).map_err(|e| BadInput(e.to_string()))?;
    let id = args.batch.id();
    let artifacts = args.object_store.open()?;
    let store = launch::connect(url).await?;
    store.check_protocol_version(version, system.name(), &system.verification_keys_digest()).await?;
    // The name is made of the content: an input that is there already is the same.
    let artifact = artifacts
        .put(ArtifactKind::WitnessInput, witness_input_key(id, &input.payload), &input.payload)
        .await
        .context("the input was not stored, and the batch is not queued")?;
    let batch =
        NewBatch { priority: args.priority, deadline: args.deadline, ..NewBatch::new(id, version, artifact) };
    let inserted = store.insert_batch(&batch).await?;
    store.close().await;
    let is_new = inserted == InsertedBatch::New;
    let what = if is_new { "is queued" } else { "was there already, with the same input" };
    let text = format!("{id} {what}: {}\n", input.summary);
    output
        .print(&Inserted { chain_id: id.chain_id, number: id.number, is_new, summary: input.summary }, &text)
}

#[derive(Debug, Args)]
pub(crate) struct SetChainArgs {
    /// The chain's id.
    #[arg(short, long)]
    chain_id: u32,
    /// How its batches wait for each other: preferred works on earlier ones first; strict holds each back until all earlier ones
    /// are proven.
    #[arg(long)]
    head_of_chain: Option<HeadOfChain>,
    /// Its share of the fleet against other chains', 1 to 1000.
    #[arg(long)]
    share: Option<u16>,
}

pub(crate) async fn set_chain(url: &DatabaseUrl, args: SetChainArgs, output: Output) -> anyhow::Result<()> {
    let SetChainArgs { chain_id, head_of_chain, share } = args;
    if head_of_chain.is_none() && share.is_none() {
        return Err(BadInput("nothing to set: give --head-of-chain, --share, or both".to_owned()).into());
    }
    let store = launch::connect(url).await?;
    let settings = ChainSettings { head_of_chain, share };
    store.set_chain(chain_id, settings).await?;
    store.close().await;
    let set = ChainSet { chain_id, head_of_chain, share };
    output.print(&set, &format!("chain {chain_id} is set\n"))
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct ChainSet {
    chain_id: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    head_of_chain: Option<HeadOfChain>,
    #[serde(skip_serializing_if = "Option::is_none")]
    share: Option<u16>,
}
