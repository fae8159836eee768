//! `status`: of a batch, of the queue.

use crate::{Output, batch::BatchArgs};
use clap::{Args, Subcommand};
use job_store::{AttemptReport, BatchReport, DatabaseUrl, JobCount, QueueCount, VersionReport, WorkerReport};
use proving_model::{AggregationRound, JobStatus, Stage};
use serde::Serialize;
use std::{collections::BTreeMap, fmt::Write};

#[derive(Debug, Subcommand)]
pub(crate) enum StatusCommand {
    /// A batch, round by round, and every attempt that did not simply succeed.
    Batch(BatchArgs),
    /// What is queued, in progress, waiting or failed, by version, chain, stage, round and memory class.
    Queue,
    /// The workers that live, and those that were lost in the last day.
    Workers(WorkersArgs),
    /// The protocol versions that the database knows.
    Versions,
}

#[derive(Debug, Args)]
pub(crate) struct WorkersArgs {
    /// Those that stopped in order too.
    #[arg(long)]
    all: bool,
}

pub(crate) async fn show(url: &DatabaseUrl, command: StatusCommand, output: Output) -> anyhow::Result<()> {
    let store = launch::connect(url).await?;
    match command {
        StatusCommand::Batch(batch) => {
            let report = store.batch_report(batch.id()).await?;
            let troubles = store.troubled_attempts(batch.id()).await?;
            output.print(&BatchView::new(&report, &troubles), &batch_text(&report, &troubles)?)?;
        }
        StatusCommand::Queue => {
            let counts = store.queue_report().await?;
            output.print(&counts, &queue_text(&counts)?)?;
        }
        StatusCommand::Workers(args) => {
            let workers = store.workers(args.all).await?;
            output.print(&workers, &workers_text(&workers)?)?;
        }
        StatusCommand::Versions => {
            let versions = store.versions().await?;
            output.print(&versions, &versions_text(&versions)?)?;
        }
    }
    store.close().await;
    Ok(())
}

/// A batch as JSON shows it.
#[derive(Serialize)]
struct BatchView<'a> {
    chain_id: u32,
    number: u32,
    status: &'static str,
    protocol_version: String,
    age_seconds: f64,
    duration_seconds: Option<f64>,
    error: Option<&'a str>,
    final_proof_bytes: Option<u64>,
    jobs: &'a [JobCount],
    attempts: i64,
    failed_attempts: i64,
    worker_deaths: i64,
    /// Attempts that run, or did not end well.
    troubled_attempts: &'a [AttemptReport],
}

impl<'a> BatchView<'a> {
    fn new(report: &'a BatchReport, troubles: &'a [AttemptReport]) -> Self {
        let batch = &report.batch;
        Self {
            chain_id: batch.id.chain_id,
            number: batch.id.number,
            status: batch.status.as_str(),
            protocol_version: batch.version.to_string(),
            age_seconds: batch.age_seconds,
            duration_seconds: batch.duration_seconds,
            error: batch.error.as_deref(),
            final_proof_bytes: batch.final_proof.as_ref().map(|proof| proof.size_bytes),
            jobs: &report.counts,
            attempts: report.attempts,
            failed_attempts: report.failed_attempts,
            worker_deaths: report.worker_deaths,
            troubled_attempts: troubles,
        }
    }
}

fn batch_text(report: &BatchReport, troubles: &[AttemptReport]) -> Result<String, std::fmt::Error> {
    let batch = &report.batch;
    let mut text = format!("{}: {}", batch.id, batch.status);
    match batch.duration_seconds {
        Some(seconds) => write!(text, " after {seconds:.1} s")?,
        None => write!(text, ", inserted {:.0} s ago", batch.age_seconds)?,
    }
    writeln!(text, ", protocol version {}", batch.version)?;
    if let Some(error) = &batch.error {
        writeln!(text, "  {error}")?;
    }
    writeln!(text, "{:<20}{:>12}{:>12}  not done", "round", "generated", "proven")?;
    let rounds = AggregationRound::ALL
        .map(|round| (round.as_str(), round, [Some(Stage::WitnessGeneration), Some(Stage::CircuitProof)]));
    let compression = ("compression", AggregationRound::Scheduler, [None, Some(Stage::Compression)]);
    for (name, round, stages) in rounds.into_iter().chain([compression]) {
        let mut line = format!("{name:<20}");
        let mut not_done: BTreeMap<&str, i64> = BTreeMap::new();
        for stage in stages {
            let counts = report
                .counts
                .iter()
                .filter(|c| c.round == round.number() && Some(c.stage.as_str()) == stage.map(Stage::as_str));
            let (mut done, mut all) = (0, 0);
            for count in counts {
                all += count.count;
                if count.status == JobStatus::Successful.as_str() {
                    done += count.count;
                } else {
                    *not_done.entry(&count.status).or_default() += count.count;
                }
            }
            let cell = if all == 0 { String::new() } else { format!("{done}/{all}") };
            write!(line, "{cell:>12}")?;
        }
        let not_done: Vec<String> =
            not_done.iter().map(|(status, jobs)| format!("{jobs} {status}")).collect();
        writeln!(text, "{}", format!("{line}  {}", not_done.join(", ")).trim_end())?;
    }
    writeln!(
        text,
        "{} attempts: {} failed, {} lost with their worker",
        report.attempts, report.failed_attempts, report.worker_deaths
    )?;
    for attempt in troubles {
        write!(
            text,
            "  job {} attempt {}, {} on {}, process {}: {} after {:.1} s",
            attempt.job_id,
            attempt.attempt,
            attempt.component,
            attempt.host,
            attempt.pid,
            attempt.outcome.as_deref().unwrap_or("running"),
            attempt.seconds
        )?;
        match &attempt.error {
            Some(error) => writeln!(text, ": {error}")?,
            None => writeln!(text)?,
        }
    }
    Ok(text)
}

fn queue_text(counts: &[QueueCount]) -> Result<String, std::fmt::Error> {
    if counts.is_empty() {
        return Ok("nothing is queued, in progress, waiting or failed\n".to_owned());
    }
    let mut text = String::new();
    writeln!(
        text,
        "{:<9}{:>6}  {:<19}{:<18}{:<7}{:<19}{:>8}{:>10}",
        "version", "chain", "stage", "round", "memory", "status", "jobs", "oldest"
    )?;
    for count in counts {
        let version = format!("0.{}.{}", count.protocol_minor, count.protocol_patch);
        let round = AggregationRound::from_number(count.round).map_or("?", AggregationRound::as_str);
        writeln!(
            text,
            "{version:<9}{:>6}  {:<19}{round:<18}{:<7}{:<19}{:>8}{:>8.0} s",
            count.chain_id, count.stage, count.memory_class, count.status, count.count, count.oldest_seconds
        )?;
    }
    Ok(text)
}

fn workers_text(workers: &[WorkerReport]) -> Result<String, std::fmt::Error> {
    if workers.is_empty() {
        return Ok("no worker lives\n".to_owned());
    }
    let mut text = String::new();
    writeln!(
        text,
        "{:<38}{:<22}{:<18}{:>8}  {:<9}{:>9}{:>12}{:>11}  state",
        "worker", "component", "host", "process", "version", "jobs", "memory", "heartbeat"
    )?;
    for worker in workers {
        let version = format!("0.{}.{}", worker.protocol_minor, worker.protocol_patch);
        let jobs = format!("{}/{}", worker.jobs_held, worker.capacity);
        let memory =
            worker.memory_budget_bytes.map_or("no limit".to_owned(), |bytes| format!("{} MiB", bytes >> 20));
        writeln!(
            text,
            "{:<38}{:<22}{:<18}{:>8}  {version:<9}{jobs:>9}{memory:>12}{:>9.1} s  {}",
            worker.id.to_string(),
            worker.component,
            worker.host,
            worker.pid,
            worker.heartbeat_age_seconds,
            worker.state
        )?;
    }
    Ok(text)
}

fn versions_text(versions: &[VersionReport]) -> Result<String, std::fmt::Error> {
    if versions.is_empty() {
        return Ok("no protocol version is known: run `prover_cli insert-version`\n".to_owned());
    }
    let mut text = String::new();
    writeln!(
        text,
        "{:<9}{:<14}{:>14}{:>14}  keys",
        "version", "proof system", "open batches", "live workers"
    )?;
    for version in versions {
        let name = format!("0.{}.{}", version.minor, version.patch);
        writeln!(
            text,
            "{name:<9}{:<14}{:>14}{:>14}  {}",
            version.proof_system,
            version.open_batches,
            version.live_workers,
            version.verification_keys_digest
        )?;
    }
    Ok(text)
}
