//! `watch`: the same as `status`, live.

use crate::status::{BatchView, batch_text};
use crate::{Output, print, words::duration};
use clap::Args;
use cli_support::BadInput;
use job_store::model::deadline::DeadlineStanding;
use job_store::reports::counts::StateCounts;
use job_store::reports::dashboard::{BatchOverview, Overview, ROUND_NAMES};
use job_store::{DatabaseUrl, JobStore, StoreError};
use outside::{printable, printable_lines};
use proving_model::{BatchId, BatchStatus};
use std::{
    fmt::Write as _,
    io::{IsTerminal, stdout},
    time::{Duration, Instant},
};

/// A look may take this part of the time: one that reads a large queue is taken less often.
const LOOK_SHARE: u32 = 20;
/// The longest time between two looks.
const INTERVAL_MAX: Duration = Duration::from_secs(24 * 3_600);
/// Rows of each table; a terminal has few lines.
const ROWS_MAX: usize = 12;
/// Cells of a batch's bar.
const BAR_CELLS: usize = 20;

#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// Only this batch, until it is over; the exit status is then 1 when it was not proven.
    #[arg(short, long)]
    number: Option<u32>,
    /// The chain's id.
    #[arg(short, long, default_value_t = 0, requires = "number")]
    chain_id: u32,
    /// Seconds between two looks.
    #[arg(long, default_value_t = 1.0)]
    interval: f64,
}

/// On a terminal each look takes the place of the one before; else it is a line, of JSON where that is asked for.
pub(crate) async fn watch(url: &DatabaseUrl, args: WatchArgs, output: Output) -> anyhow::Result<()> {
    let interval = Duration::try_from_secs_f64(args.interval).ok();
    let interval =
        interval.filter(|interval| !interval.is_zero() && *interval <= INTERVAL_MAX).ok_or_else(|| {
            let longest = INTERVAL_MAX.as_secs();
            BadInput(format!(
                "--interval is a number of seconds above 0, {longest} at most, not {}",
                args.interval
            ))
        })?;
    let store = cli_support::connect(url).await?;
    let is_live = stdout().is_terminal() && !output.is_json;
    let shutdown = cli_support::shutdown_on_signal(None)?;
    let batch = args.number.map(|number| BatchId { chain_id: args.chain_id, number });
    let result = loop {
        let begun = Instant::now();
        let look = match batch {
            Some(id) => look_at_batch(&store, id).await,
            None => look_at_all(&store).await,
        };
        let look = match look {
            Ok(look) => look,
            // A database that restarts is waited for.
            Err(e) if e.downcast_ref().is_some_and(StoreError::is_transient) => {
                tracing::warn!("next try in {interval:?}: {e:#}");
                tokio::select! {
                    () = shutdown.drain_begins().cancelled() => break Ok(()),
                    () = tokio::time::sleep(interval) => continue,
                }
            }
            Err(e) => break Err(e),
        };
        let shown = match (output.is_json, is_live) {
            (true, _) => printable(&look.json).into_owned() + "\n",
            // Home, the lines, each to its end, and nothing below them.
            (false, true) => {
                format!("\x1b[H{}\x1b[J", printable_lines(&look.text).replace('\n', "\x1b[K\n"))
            }
            (false, false) => printable(&look.line).into_owned() + "\n",
        };
        if !print(&shown)? {
            break Ok(());
        }
        match look.end {
            Some(BatchStatus::Successful) => break Ok(()),
            Some(status) => break Err(anyhow::anyhow!("the batch is {status}")),
            None => {}
        }
        tokio::select! {
            () = shutdown.drain_begins().cancelled() => break Ok(()),
            () = tokio::time::sleep(interval.max(begun.elapsed() * LOOK_SHARE)) => {}
        }
    };
    store.close().await;
    result
}

/// What one look found, in three forms.
struct Look {
    text: String,
    line: String,
    json: String,
    /// The state of a batch that is over.
    end: Option<BatchStatus>,
}

async fn look_at_batch(store: &JobStore, id: BatchId) -> anyhow::Result<Look> {
    let report = store.batch_report(id).await?;
    let troubles = store.troubled_attempts(id).await?;
    let status = report.batch.status;
    let mut line = format!("{id}: {status}");
    let rounds = report.circuits.iter().fold([StateCounts::default(); 5], |mut rounds, circuit| {
        let round = &mut rounds[usize::try_from(circuit.round).unwrap_or(0).min(4)];
        round.successful += circuit.jobs.successful;
        round.waiting += circuit.jobs.all() - circuit.jobs.successful;
        rounds
    });
    for (name, round) in ROUND_NAMES.iter().zip(rounds) {
        let all = round.successful + round.waiting;
        if all > 0 {
            write!(line, ", {name} {}/{all}", round.successful)?;
        }
    }
    if let Some(seconds) = report.time_left_seconds {
        write!(line, ", about {} left", duration(seconds))?;
    }
    if let (Some(deadline), Some(standing)) = (&report.batch.deadline, report.deadline_standing()) {
        write!(line, ", deadline {deadline} {}", standing.in_words())?;
    }
    let is_over = matches!(status, BatchStatus::Successful | BatchStatus::Failed | BatchStatus::Cancelled);
    Ok(Look {
        text: batch_text(&report, Some(&troubles))?,
        line,
        json: serde_json::to_string(&BatchView::new(&report, &troubles))?,
        end: is_over.then_some(status),
    })
}

async fn look_at_all(store: &JobStore) -> anyhow::Result<Look> {
    let overview = store.overview().await?;
    Ok(Look {
        text: overview_text(&overview)?,
        line: overview_line(&overview)?,
        json: serde_json::to_string(&overview)?,
        end: None,
    })
}

fn overview_line(overview: &Overview) -> Result<String, std::fmt::Error> {
    let mut line = format!("batches: {}", batches_in_words(overview));
    for stage in &overview.stages {
        let StateCounts { queued, in_progress, waiting, failed, .. } = stage.jobs;
        if queued + in_progress + waiting + failed > 0 {
            write!(line, "; {}: {queued} queued, {in_progress} in progress", stage.stage)?;
        }
    }
    let live = overview.workers.iter().filter(|worker| worker.worker.state == "live").count();
    write!(line, "; {live} workers")?;
    Ok(line)
}

fn batches_in_words(overview: &Overview) -> String {
    if overview.open_batches.is_empty() {
        return "none is open".to_owned();
    }
    let words: Vec<String> =
        overview.open_batches.iter().map(|(status, count)| format!("{count} {status}")).collect();
    words.join(", ")
}

fn bar(rounds: &[StateCounts; 6]) -> String {
    let (done, all) = rounds.iter().fold((0, 0), |(done, all), r| (done + r.successful, all + r.all()));
    let cells = if all == 0 {
        0
    } else {
        usize::try_from(done).unwrap_or(0) * BAR_CELLS / usize::try_from(all).unwrap_or(1)
    };
    format!("{}{}", "█".repeat(cells), "░".repeat(BAR_CELLS.saturating_sub(cells)))
}

fn overview_text(overview: &Overview) -> Result<String, std::fmt::Error> {
    let mut text = format!("batches: {}\n", batches_in_words(overview));
    let paused = &overview.paused;
    if !paused.chains.is_empty() || !paused.stages.is_empty() {
        let chains = paused.chains.iter().map(|chain| format!("chain {chain}"));
        let all: Vec<String> = chains.chain(paused.stages.iter().cloned()).collect();
        writeln!(text, "paused: {}", all.join(", "))?;
    }
    writeln!(
        text,
        "\n{:>6}{:>9}  {:<13}{:>8}{:>12}  {:<21}{:>12}{:>10}{:>10}{:>6}{:>10}{:>9}",
        "chain",
        "batch",
        "state",
        "age",
        "deadline",
        "",
        "basic",
        "leaf",
        "node",
        "tip",
        "scheduler",
        "final"
    )?;
    for batch in overview.batches.iter().take(ROWS_MAX) {
        batch_line(batch, &mut text)?;
    }
    writeln!(
        text,
        "\n{:<20}{:>9}{:>9}{:>9}{:>9}{:>11}",
        "stage", "queued", "runs", "waits", "failed", "oldest"
    )?;
    for stage in &overview.stages {
        writeln!(
            text,
            "{:<20}{:>9}{:>9}{:>9}{:>9}{:>11}",
            stage.stage,
            stage.jobs.queued,
            stage.jobs.in_progress,
            stage.jobs.waiting,
            stage.jobs.failed,
            stage.oldest_seconds.map_or(String::new(), duration)
        )?;
    }
    writeln!(text, "\n{:<24}{:<18}{:>8}  {:<10}{:>7}  runs", "worker", "host", "process", "state", "jobs")?;
    for shown in overview.workers.iter().take(ROWS_MAX) {
        let worker = &shown.worker;
        let running = shown.running.first().map_or(String::new(), |job| {
            format!("{} of {}/{}, {}", job.job, job.chain_id, job.batch_number, duration(job.seconds))
        });
        writeln!(
            text,
            "{:<24}{:<18}{:>8}  {:<10}{:>7}  {running}",
            printable(&worker.component),
            printable(&worker.host),
            worker.pid,
            worker.state,
            format!("{}/{}", worker.jobs_held, worker.capacity)
        )?;
    }
    let more = overview.workers.len().saturating_sub(ROWS_MAX);
    if more > 0 {
        writeln!(text, "and {more} others")?;
    }
    for trouble in overview.troubles.iter().take(5) {
        let error = trouble.error.as_deref().unwrap_or_default().lines().next().unwrap_or_default();
        let ago = duration(trouble.seconds_ago);
        writeln!(
            text,
            "{ago} ago  {} of job {} ({}): {error}",
            trouble.outcome, trouble.job_id, trouble.job
        )?;
    }
    Ok(text)
}

/// How far it is to a batch's deadline, or how late the batch is.
fn to_deadline(batch: &BatchOverview) -> String {
    let Some(margin) = batch.deadline_margin_seconds else { return String::new() };
    let standing = batch.status.parse().ok().and_then(|status| DeadlineStanding::of(status, margin, None));
    match standing {
        None => String::new(),
        Some(DeadlineStanding::Met) => "met".to_owned(),
        Some(DeadlineStanding::Missed | DeadlineStanding::Passed) => format!("{} late", duration(-margin)),
        Some(DeadlineStanding::AtRisk | DeadlineStanding::OnTime) => format!("in {}", duration(margin)),
    }
}

fn batch_line(batch: &BatchOverview, text: &mut String) -> std::fmt::Result {
    let cell = |counts: &StateCounts| match counts.all() {
        0 => String::new(),
        all => format!("{}/{all}", counts.successful),
    };
    let [basic, leaf, node, tip, scheduler, compression] = &batch.rounds;
    writeln!(
        text,
        "{:>6}{:>9}  {:<13}{:>8}{:>12}  {:<21}{:>12}{:>10}{:>10}{:>6}{:>10}{:>9}",
        batch.chain_id,
        batch.number,
        batch.status,
        duration(batch.duration_seconds.unwrap_or(batch.age_seconds)),
        to_deadline(batch),
        if batch.rounds.iter().all(|round| round.all() == 0) { String::new() } else { bar(&batch.rounds) },
        cell(basic),
        cell(leaf),
        cell(node),
        cell(tip),
        cell(scheduler),
        cell(compression)
    )
}
