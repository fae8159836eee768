//! Commands that change the course of batches: each says first what it would change, and asks.

use crate::{Output, batch::BatchArgs};
use anyhow::Context;
use clap::{ArgGroup, Args};
use cli_support::BadInput;
use job_store::DatabaseUrl;
use job_store::operator::cancel::Cancelled;
use job_store::operator::delete::Deleted;
use job_store::operator::mode::Mode;
use job_store::operator::pause::{Pausable, PauseChange};
use job_store::operator::quarantine::JobChange;
use job_store::operator::restart::Restarted;
use outside::printable_lines;
use proving_model::{AggregationRound, Stage};
use schemars::JsonSchema;
use serde::Serialize;
use std::io::{BufRead, IsTerminal, Read, Write, stderr, stdin};

/// How sure the caller is.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct ConsentArgs {
    /// Say what would change, and change nothing.
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
}

/// Most bytes of an answer: a batch's number is the longest.
const ANSWER_BYTES_MAX: u64 = 100;

impl ConsentArgs {
    /// Asks, where it must; `Err` when the answer is not the word that stands for yes.
    fn ask(self, question: &str, word: &str) -> anyhow::Result<()> {
        if self.yes {
            return Ok(());
        }
        if !stdin().is_terminal() {
            let text = format!("{question} Nobody is there to ask: call it with --yes, or with --dry-run");
            return Err(BadInput(text).into());
        }
        write!(stderr(), "{} Type {word} to go on: ", printable_lines(question)).context("cannot ask")?;
        let mut answer = String::new();
        stdin().lock().take(ANSWER_BYTES_MAX).read_line(&mut answer).context("cannot hear the answer")?;
        if answer.trim() == word {
            return Ok(());
        }
        Err(BadInput("nothing was changed".to_owned()).into())
    }
}

#[derive(Debug, Args)]
pub(crate) struct CancelArgs {
    #[command(flatten)]
    batch: BatchArgs,
    #[command(flatten)]
    consent: ConsentArgs,
}

/// What a command changed, as JSON shows it.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Changed<T> {
    pub(crate) dry_run: bool,
    #[serde(flatten)]
    pub(crate) changed: T,
}

#[derive(Debug, Args)]
pub(crate) struct RequeueArgs {
    #[command(flatten)]
    batch: BatchArgs,
    /// Say what would change, and change nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Destroys nothing, so it does not ask.
pub(crate) async fn requeue(url: &DatabaseUrl, args: RequeueArgs, output: Output) -> anyhow::Result<()> {
    let store = cli_support::connect(url).await?;
    let id = args.batch.id();
    let mode = if args.dry_run { Mode::DryRun } else { Mode::Apply };
    let changed = store.requeue_failed(id, mode).await?;
    store.close().await;
    let verb = if args.dry_run { "would be queued" } else { "are queued" };
    let text = format!("failed jobs of {id} that {verb} again: {}\n", changed.jobs);
    output.print(&Changed { dry_run: args.dry_run, changed }, &text)
}

#[derive(Debug, Args)]
pub(crate) struct RestartArgs {
    #[command(flatten)]
    batch: BatchArgs,
    /// The first round to make again: basic-circuits, leaf-aggregation, node-aggregation, recursion-tip or scheduler.
    #[arg(long)]
    from: AggregationRound,
    #[command(flatten)]
    consent: ConsentArgs,
}

/// Throws work away, so it asks.
pub(crate) async fn restart(url: &DatabaseUrl, args: RestartArgs, output: Output) -> anyhow::Result<()> {
    let store = cli_support::connect(url).await?;
    let RestartArgs { batch, from, consent } = args;
    let id = batch.id();
    let in_words = |changed: &Restarted| {
        format!("jobs made again: {}, running jobs stopped: {}", changed.jobs_again, changed.jobs_stopped)
    };
    let would = store.restart_batch(id, from, Mode::DryRun).await?;
    let result = if consent.dry_run {
        let text = format!("{id} would be restarted from {from} on: {}\n", in_words(&would));
        output.print(&Changed { dry_run: true, changed: would }, &text)
    } else {
        consent.ask(
            &format!("{id} is restarted from {from} on: {}.", in_words(&would)),
            &id.number.to_string(),
        )?;
        let changed = store.restart_batch(id, from, Mode::Apply).await?;
        let text = format!("{id} is restarted from {from} on: {}\n", in_words(&changed));
        output.print(&Changed { dry_run: false, changed }, &text)
    };
    store.close().await;
    result
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).args(["chain_id", "stage"]))]
pub(crate) struct PauseArgs {
    /// The chain's id.
    #[arg(short, long)]
    chain_id: Option<u32>,
    /// Or a stage, of all chains: witness-generation, circuit-proof or compression.
    #[arg(short, long, value_parser = parse_stage)]
    stage: Option<Stage>,
    /// Say what would change, and change nothing.
    #[arg(long)]
    dry_run: bool,
}

/// With dashes, as flags are written, or with underscores, as reports print it.
fn parse_stage(text: &str) -> Result<Stage, String> {
    text.replace('-', "_").parse().map_err(|e| format!("{e}"))
}

/// Can be taken back, so it does not ask.
pub(crate) async fn set_paused(
    url: &DatabaseUrl,
    args: PauseArgs,
    is_paused: bool,
    output: Output,
) -> anyhow::Result<()> {
    let (what, name) = match (args.chain_id, args.stage) {
        (Some(chain_id), _) => (Pausable::Chain(chain_id), format!("chain {chain_id}")),
        (None, Some(stage)) => (Pausable::Stage(stage), format!("stage {stage}")),
        (None, None) => return Err(BadInput("name a chain or a stage".to_owned()).into()),
    };
    let store = cli_support::connect(url).await?;
    let mode = if args.dry_run { Mode::DryRun } else { Mode::Apply };
    let changed = store.set_paused(what, is_paused, mode).await;
    store.close().await;
    let changed = changed?;
    let state = if is_paused { "paused" } else { "resumed" };
    let text = match (args.dry_run, changed) {
        (_, PauseChange { was_so_already: true, .. }) if is_paused => format!("{name} is paused already\n"),
        (_, PauseChange { was_so_already: true, .. }) => format!("{name} is not paused\n"),
        (true, changed) => format!("{name} would be {state}, with {} queued jobs\n", changed.jobs),
        (false, changed) => format!("{name} is {state}, with {} queued jobs\n", changed.jobs),
    };
    output.print(&Changed { dry_run: args.dry_run, changed }, &text)
}

#[derive(Debug, Args)]
pub(crate) struct QuarantineArgs {
    /// The job's id.
    job: i64,
    /// Why; it stands where a job's last error does.
    #[arg(long, default_value = "quarantined by an operator")]
    reason: String,
    /// Say what would change, and change nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ReleaseArgs {
    /// The job's id.
    job: i64,
    /// Say what would change, and change nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Can be taken back, so it does not ask.
pub(crate) async fn quarantine(
    url: &DatabaseUrl,
    args: QuarantineArgs,
    output: Output,
) -> anyhow::Result<()> {
    let store = cli_support::connect(url).await?;
    let mode = if args.dry_run { Mode::DryRun } else { Mode::Apply };
    let changed = store.quarantine_job(args.job, &args.reason, mode).await;
    store.close().await;
    print_job_change(args.job, changed?, args.dry_run, output)
}

pub(crate) async fn release(url: &DatabaseUrl, args: ReleaseArgs, output: Output) -> anyhow::Result<()> {
    let store = cli_support::connect(url).await?;
    let mode = if args.dry_run { Mode::DryRun } else { Mode::Apply };
    let changed = store.release_job(args.job, mode).await;
    store.close().await;
    print_job_change(args.job, changed?, args.dry_run, output)
}

fn print_job_change(job: i64, changed: JobChange, dry_run: bool, output: Output) -> anyhow::Result<()> {
    let verb = if dry_run { "would be" } else { "is" };
    let text = format!("job {job} was {}, and {verb} {} now\n", changed.was, changed.is);
    output.print(&Changed { dry_run, changed }, &text)
}

#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// The worker's id, or as much of its beginning as tells it from the others that live.
    worker: String,
    /// Say what would change, and change nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Destroys nothing: what the worker does not finish, another does.
pub(crate) async fn drain(url: &DatabaseUrl, args: DrainArgs, output: Output) -> anyhow::Result<()> {
    let store = cli_support::connect(url).await?;
    let known = store.workers(false).await?;
    let named: Vec<_> =
        known.iter().filter(|worker| worker.id.to_string().starts_with(&args.worker)).collect();
    let worker = match named.as_slice() {
        [worker] => *worker,
        [] => {
            let text = format!("no worker {} lives: see `prover_cli status workers`", args.worker);
            return Err(BadInput(text).into());
        }
        several => {
            let text = format!("{} workers begin with {}: name more of it", several.len(), args.worker);
            return Err(BadInput(text).into());
        }
    };
    let mode = if args.dry_run { Mode::DryRun } else { Mode::Apply };
    let changed = store.drain_worker(worker.id, mode).await;
    store.close().await;
    let changed = changed?;
    let verb = if args.dry_run { "would stop" } else { "stops" };
    let text = format!(
        "{} on {}, process {}, {verb} once the jobs that it holds are over: {}\n",
        worker.component, worker.host, worker.pid, changed.jobs_held
    );
    output.print(&Changed { dry_run: args.dry_run, changed }, &text)
}

pub(crate) async fn cancel(url: &DatabaseUrl, args: CancelArgs, output: Output) -> anyhow::Result<()> {
    let store = cli_support::connect(url).await?;
    let id = args.batch.id();
    let would = store.cancel_batch(id, Mode::DryRun).await?;
    let in_words = |changed: &Cancelled| {
        let next = if changed.starts_next { ", the next batch of its chain starts" } else { "" };
        format!(
            "jobs dropped: {}, running jobs stopped: {}{next}",
            changed.jobs_dropped, changed.jobs_stopped
        )
    };
    let result = if args.consent.dry_run {
        let text = format!("{id} would be cancelled: {}\n", in_words(&would));
        output.print(&Changed { dry_run: true, changed: would }, &text)
    } else if would == Cancelled::default() {
        output.print(&Changed { dry_run: false, changed: would }, &format!("{id} is cancelled already\n"))
    } else {
        args.consent
            .ask(&format!("{id} is cancelled for good: {}.", in_words(&would)), &id.number.to_string())?;
        let changed = store.cancel_batch(id, Mode::Apply).await?;
        let text = format!("{id} is cancelled: {}\n", in_words(&changed));
        output.print(&Changed { dry_run: false, changed }, &text)
    };
    store.close().await;
    result
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    batch: BatchArgs,
    #[command(flatten)]
    consent: ConsentArgs,
}

pub(crate) async fn delete(url: &DatabaseUrl, args: DeleteArgs, output: Output) -> anyhow::Result<()> {
    let store = cli_support::connect(url).await?;
    let id = args.batch.id();
    let in_words = |changed: &Deleted| {
        let next = if changed.starts_next { ", the next batch of its chain starts" } else { "" };
        format!("jobs: {}{next}", changed.jobs)
    };
    let would = store.delete_batch(id, Mode::DryRun).await?;
    let result = if args.consent.dry_run {
        let text = format!("{id} would be deleted, {}\n", in_words(&would));
        output.print(&Changed { dry_run: true, changed: would }, &text)
    } else {
        args.consent
            .ask(&format!("{id} is deleted for good, {}.", in_words(&would)), &id.number.to_string())?;
        let changed = store.delete_batch(id, Mode::Apply).await?;
        let text = format!("{id} is deleted, {}\n", in_words(&changed));
        output.print(&Changed { dry_run: false, changed }, &text)
    };
    store.close().await;
    result
}
