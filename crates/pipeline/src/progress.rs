//! How far a batch is: bars by round, or plain lines where there is no terminal.

use indicatif::{ProgressBar, ProgressStyle};
use job_store::JobStore;
use job_store::reports::batch::BatchReport;
use proving_model::{AggregationRound, BatchId, BatchStatus, JobStatus, Stage};
use std::{
    fmt::Write,
    io::IsTerminal,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// How often the bars are brought up to date.
const REPORT_INTERVAL: Duration = Duration::from_millis(500);

/// A database that does not answer for so long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// How many jobs of a round and stage there are, or are done.
pub fn count_jobs(report: &BatchReport, stage: Stage, round: AggregationRound, done_only: bool) -> u64 {
    let of_round = report.counts.iter().filter(|c| c.stage == stage.as_str() && c.round == round.number());
    let counted = of_round.filter(|c| !done_only || c.status == JobStatus::Successful.as_str());
    counted.map(|c| u64::try_from(c.count).unwrap_or_default()).sum()
}

struct Bars {
    bars: Vec<(Stage, AggregationRound, ProgressBar)>,
    last_line: String,
    is_terminal: bool,
}

impl Bars {
    fn new() -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let style = ProgressStyle::with_template("{prefix:>17} {bar:40} {pos}/{len}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let rounds = AggregationRound::ALL.into_iter().map(|round| (Stage::CircuitProof, round));
        let bars = rounds
            .chain([(Stage::Compression, AggregationRound::Scheduler)])
            .map(|(stage, round)| {
                let bar = cli_support::bars().add(ProgressBar::new(0).with_style(style.clone()));
                bar.set_prefix(if stage == Stage::Compression { "compression" } else { round.as_str() });
                (stage, round, bar)
            })
            .collect();
        Self { bars, last_line: String::new(), is_terminal }
    }

    fn show(&mut self, report: &BatchReport) {
        let mut line = String::new();
        for (stage, round, bar) in &self.bars {
            let all = count_jobs(report, *stage, *round, false);
            let done = count_jobs(report, *stage, *round, true);
            bar.set_length(all);
            bar.set_position(done);
            if all > 0 {
                // Writing to a string cannot fail.
                let _ = write!(line, " {} {done}/{all}", bar.prefix());
            }
        }
        if !self.is_terminal && line != self.last_line {
            tracing::info!("proven:{line}");
            self.last_line = line;
        }
    }
}

/// Shows the batch's way until it ends, or the signal comes.
pub async fn watch(
    store: &JobStore,
    batch: BatchId,
    stop: &CancellationToken,
) -> anyhow::Result<BatchReport> {
    let mut bars = Bars::new();
    let mut last_report = Instant::now();
    loop {
        let report = match store.batch_report(batch).await {
            Ok(report) => report,
            Err(e) if e.is_transient() && last_report.elapsed() < SILENCE_MAX => {
                tracing::warn!("the batch's state cannot be read now: {e}");
                tokio::time::sleep(REPORT_INTERVAL).await;
                continue;
            }
            Err(e) => return Err(e.into()),
        };
        last_report = Instant::now();
        bars.show(&report);
        match report.batch.status {
            BatchStatus::Successful => return Ok(report),
            BatchStatus::Failed | BatchStatus::Cancelled => {
                let reason = report.batch.error.unwrap_or_default();
                anyhow::bail!("{batch} was not proven: {reason}");
            }
            BatchStatus::Queued | BatchStatus::InProgress => {}
        }
        tokio::select! {
            () = tokio::time::sleep(REPORT_INTERVAL) => {}
            () = stop.cancelled() => anyhow::bail!("interrupted; run the same command again to go on from here"),
        }
    }
}
