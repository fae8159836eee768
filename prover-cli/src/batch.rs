//! `insert-batch`, and how commands name a batch.

use crate::{Output, version::VersionArgs, words::duration};
use anyhow::{Context, ensure};
use artifact_store::witness_input_key;
use clap::Args;
use cli_support::{BadInput, ObjectStoreArgs, ProofSystemArgs, ProofSystems};
use job_store::batches::chains::ChainSettings;
use job_store::batches::insert::{Existing, InsertedBatch, NewBatch};
use job_store::model::deadline::DeadlineStanding;
use job_store::{DatabaseUrl, JobStore, StoreError};
use proving_model::{ArtifactKind, BatchId, BatchStatus, Deadline, HeadOfChain, ProtocolVersion};
use schemars::JsonSchema;
use serde::Serialize;

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
    /// The input: a file, a URL (file:, http:, https:, s3:, gs:, az:), or - for standard input; for the ledger CSV with the header
    /// from,to,amount.
    #[arg(long, allow_hyphen_values = true)]
    input: String,
    /// Opening balances, as the input a file, a URL or -: CSV with the header account,balance [default: accounts.csv beside the input, or in
    /// the current folder when that is standard input].
    #[arg(long, allow_hyphen_values = true)]
    accounts: Option<String>,
    /// Higher is sooner.
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    priority: i32,
    /// When the final proof should be there, as RFC 3339 has it, such as 2026-11-21T18:00:00Z; among batches of one priority the earlier is
    /// sooner.
    #[arg(long)]
    deadline: Option<Deadline>,
    /// Take this input for a batch that is there already and has failed or was cancelled.
    #[arg(long)]
    replace: bool,
    /// How many jobs the live circuit provers of its version are to have places for at the same time. The batch is refused when they have
    /// fewer.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    compute_capacity: Option<u32>,
    /// How few of these will do [default: all].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..), requires = "compute_capacity")]
    minimal_compute_capacity: Option<u32>,
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
    /// Whether it took the place of a batch that had failed or was cancelled.
    has_replaced: bool,
    /// Its state now.
    status: &'static str,
    /// Its priority; of a batch that was there already, not that of this call.
    priority: i32,
    /// Its deadline, likewise.
    deadline: Option<String>,
    /// How it stands to that.
    deadline_standing: Option<DeadlineStanding>,
    summary: String,
    /// Jobs that the live circuit provers of its version have places for, when `--compute-capacity` asks for some.
    capacity: Option<i64>,
}

pub(crate) async fn insert(
    url: &DatabaseUrl,
    args: InsertBatchArgs,
    systems: &ProofSystems,
    output: Output,
) -> anyhow::Result<()> {
    let system = args.system.open(systems)?;
    let version = args.version.check(&*system)?;
    let input = crate::input::read(&*system, &args.input, args.accounts.as_deref()).await?;
    let id = args.batch.id();
    let artifacts = args.object_store.open()?;
    let store = cli_support::connect(url).await?;
    store.check_protocol_version(version, system.name(), &system.verification_keys_digest()).await?;
    let capacity = match args.compute_capacity {
        Some(asked) => Some(check_capacity(&store, version, asked, args.minimal_compute_capacity).await?),
        None => None,
    };
    // The name is made of the content: an input that is there already is the same.
    let artifact = artifacts
        .put(ArtifactKind::WitnessInput, witness_input_key(id, &input.payload), &input.payload)
        .await
        .context("the input was not stored, and the batch is not queued")?;
    let batch =
        NewBatch { priority: args.priority, deadline: args.deadline, ..NewBatch::new(id, version, artifact) };
    let existing = if args.replace { Existing::Replace } else { Existing::Keep };
    let inserted = store.insert_or_replace(&batch, existing).await?;
    let found = store.batch(id).await?.ok_or(StoreError::NoSuchBatch(id))?;
    let expected = match found.deadline {
        Some(_) => expected_seconds(&store, id, version).await?,
        None => None,
    };
    store.close().await;
    let (is_new, has_replaced) = (
        matches!(inserted, InsertedBatch::New | InsertedBatch::Replaced),
        inserted == InsertedBatch::Replaced,
    );
    let what = match inserted {
        InsertedBatch::New => "is queued",
        InsertedBatch::Replaced => "is queued, in place of the one that was there",
        InsertedBatch::AlreadyThere | InsertedBatch::OtherSettings => {
            "was there already, with the same input"
        }
    };
    let mut text = format!("{id} {what}: {}\n", input.summary);
    if !is_new && matches!(found.status, BatchStatus::Failed | BatchStatus::Cancelled) {
        text += &format!("it is {}: --replace has it proven anew\n", found.status);
    }
    if inserted == InsertedBatch::OtherSettings {
        text += &format!(
            "its priority stays {} and its deadline {}: `prover_cli set-batch` changes them\n",
            found.priority,
            found.deadline.as_deref().unwrap_or("none")
        );
    }
    let standing = found.deadline_standing(expected);
    text += &deadline_warning(standing, found.deadline.as_deref(), expected);
    if let (Some(there), Some(asked)) = (capacity, args.compute_capacity)
        && there < i64::from(asked)
    {
        text += &format!("of the {asked} places that are asked for {there} are there\n");
    }
    let inserted = Inserted {
        chain_id: id.chain_id,
        number: id.number,
        is_new,
        has_replaced,
        status: found.status.as_str(),
        priority: found.priority,
        deadline: found.deadline,
        deadline_standing: standing,
        summary: input.summary,
        capacity,
    };
    output.print(&inserted, &text)
}

/// The seconds that a batch is expected to take yet; before it is cut into circuits, what the last proven ones took has to do.
async fn expected_seconds(
    store: &JobStore,
    id: BatchId,
    version: ProtocolVersion,
) -> anyhow::Result<Option<f64>> {
    let left = store.batch_report(id).await?.time_left_seconds;
    Ok(match left {
        Some(seconds) => Some(seconds),
        None => store.usual_batch_seconds(version).await?,
    })
}

/// A line about a deadline that has passed, or that the estimate does not meet.
pub(crate) fn deadline_warning(
    standing: Option<DeadlineStanding>,
    deadline: Option<&str>,
    expected: Option<f64>,
) -> String {
    let deadline = deadline.unwrap_or_default();
    match (standing, expected) {
        (Some(DeadlineStanding::Passed), _) => format!("its deadline, {deadline}, has passed\n"),
        (Some(DeadlineStanding::AtRisk), Some(expected)) => {
            format!("its deadline, {deadline}, is at risk: it takes about {}\n", duration(expected))
        }
        _ => String::new(),
    }
}

/// How many jobs the live circuit provers of this version have places for; refuses fewer than `least`, or than are asked for.
async fn check_capacity(
    store: &JobStore,
    version: ProtocolVersion,
    asked: u32,
    least: Option<u32>,
) -> anyhow::Result<i64> {
    let least = least.unwrap_or(asked);
    if least > asked {
        let text = format!("--minimal-compute-capacity={least} is more than --compute-capacity={asked}");
        return Err(BadInput(text).into());
    }
    let proves = |component: &str| component.split(',').any(|name| matches!(name, "circuit-prover" | "all"));
    let own = (i32::from(version.minor), i32::from(version.patch));
    let workers = store.workers(false).await?.into_iter().filter(|worker| {
        worker.state == "live"
            && proves(&worker.component)
            && (worker.protocol_minor, worker.protocol_patch) == own
    });
    let there = workers.map(|worker| i64::from(worker.capacity)).sum();
    ensure!(
        there >= i64::from(least),
        "the live circuit provers of version {version} have places for {there} jobs, and the batch wants {least}: nothing was inserted. \
         Start more of them, or ask for less (--minimal-compute-capacity)"
    );
    Ok(there)
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
    let store = cli_support::connect(url).await?;
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
