//! `set-batch`.

use crate::{
    Output,
    batch::{BatchArgs, deadline_warning},
    operate::Changed,
};
use clap::{ArgGroup, Args};
use job_store::DatabaseUrl;
use job_store::operator::mode::Mode;
use job_store::operator::set_batch::BatchSettings;
use proving_model::Deadline;

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("settings").required(true).multiple(true).args(["priority", "deadline", "no_deadline"]))]
pub(crate) struct SetBatchArgs {
    #[command(flatten)]
    batch: BatchArgs,
    /// Higher is sooner.
    #[arg(long, allow_hyphen_values = true)]
    priority: Option<i32>,
    /// When the final proof should be there, as RFC 3339 has it, such as 2026-11-21T18:00:00Z.
    #[arg(long, conflicts_with = "no_deadline")]
    deadline: Option<Deadline>,
    /// Take the deadline away.
    #[arg(long)]
    no_deadline: bool,
    /// Say what would change, and change nothing.
    #[arg(long)]
    dry_run: bool,
}

pub(crate) async fn set_batch(url: &DatabaseUrl, args: SetBatchArgs, output: Output) -> anyhow::Result<()> {
    let store = cli_support::connect(url).await?;
    let (id, mode) = (args.batch.id(), if args.dry_run { Mode::DryRun } else { Mode::Apply });
    let deadline = if args.no_deadline { Some(None) } else { args.deadline.map(Some) };
    let changed = store.set_batch(id, BatchSettings { priority: args.priority, deadline }, mode).await?;
    let mut text = format!(
        "{id} {} priority {} and {}\n",
        if args.dry_run { "would have" } else { "has" },
        changed.priority,
        changed
            .deadline
            .as_ref()
            .map_or("no deadline".to_owned(), |deadline| format!("the deadline {deadline}"))
    );
    if !args.dry_run {
        let report = store.batch_report(id).await?;
        text += &deadline_warning(
            report.deadline_standing(),
            changed.deadline.as_deref(),
            report.time_left_seconds,
        );
    }
    store.close().await;
    output.print(&Changed { dry_run: args.dry_run, changed }, &text)
}
