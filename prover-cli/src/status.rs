//! `status`: of a batch, of the queue.

use crate::{Output, batch::BatchArgs, words::duration};
use clap::{Args, Subcommand};
use job_store::DatabaseUrl;
use job_store::model::deadline::DeadlineStanding;
use job_store::model::ids::job_id_as_text;
use job_store::reports::attempts::AttemptReport;
use job_store::reports::backlog::Demand;
use job_store::reports::batch::{BatchReport, JobCount, StuckJob};
use job_store::reports::time_left::CircuitProgress;
use job_store::reports::versions::VersionReport;
use job_store::reports::workers::WorkerReport;
use outside::{printable, printable_within};
use proving_model::{AggregationRound, JobStatus, Stage};
use schemars::JsonSchema;
use serde::Serialize;
use std::{collections::BTreeMap, fmt::Write};

#[derive(Debug, Subcommand)]
pub(crate) enum StatusCommand {
    /// A batch, round by round: how far it is, what is stuck, and how long it may take yet.
    Batch(BatchStatusArgs),
    /// What is queued, in progress, waiting or failed, by version, chain, stage, round and memory class.
    Queue,
    /// The workers that live, and those that were lost in the last day.
    Workers(WorkersArgs),
    /// The protocol versions that the database knows.
    Versions,
}

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct BatchStatusArgs {
    #[command(flatten)]
    batch: BatchArgs,
    /// Also by circuit, with what they took, and every attempt that did not simply succeed.
    #[arg(short, long)]
    verbose: bool,
}

#[derive(Debug, Args)]
pub(crate) struct WorkersArgs {
    /// Those that stopped in order too.
    #[arg(long)]
    all: bool,
}

pub(crate) async fn show(url: &DatabaseUrl, command: StatusCommand, output: Output) -> anyhow::Result<()> {
    let store = cli_support::connect(url).await?;
    match command {
        StatusCommand::Batch(BatchStatusArgs { batch, verbose }) => {
            let report = store.batch_report(batch.id()).await?;
            let troubles = store.troubled_attempts(batch.id()).await?;
            let text = batch_text(&report, verbose.then_some(&*troubles))?;
            output.print(&BatchView::new(&report, &troubles), &text)?;
        }
        StatusCommand::Queue => {
            let demand = store.demand().await?;
            output.print(&demand, &queue_text(&demand)?)?;
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
#[derive(Serialize, JsonSchema)]
pub(crate) struct BatchView<'a> {
    chain_id: u32,
    number: u32,
    status: &'static str,
    protocol_version: String,
    priority: i32,
    /// As RFC 3339 has it.
    deadline: Option<&'a str>,
    /// Seconds from now, or from its end, to its deadline; negative once that has passed.
    deadline_margin_seconds: Option<f64>,
    deadline_standing: Option<DeadlineStanding>,
    age_seconds: f64,
    duration_seconds: Option<f64>,
    error: Option<&'a str>,
    final_proof_bytes: Option<u64>,
    /// `null` where there is nothing to go by.
    time_left_seconds: Option<f64>,
    jobs: &'a [JobCount],
    circuits: &'a [CircuitProgress],
    stuck_jobs: Vec<StuckView<'a>>,
    attempts: i64,
    failed_attempts: i64,
    worker_deaths: i64,
    /// Attempts that run, or did not end well.
    troubled_attempts: &'a [AttemptReport],
}

/// A job that failed, or was put back, as JSON shows it.
#[derive(Serialize, JsonSchema)]
struct StuckView<'a> {
    #[serde(serialize_with = "job_id_as_text")]
    #[schemars(with = "String")]
    job_id: i64,
    job: String,
    status: &'static str,
    attempts: i32,
    failures: i32,
    worker_deaths: i32,
    error: Option<&'a str>,
}

impl<'a> StuckView<'a> {
    fn new(job: &'a StuckJob) -> Self {
        Self {
            job_id: job.id,
            job: job.key.to_string(),
            status: job.status.as_str(),
            attempts: job.attempts,
            failures: job.failures,
            worker_deaths: job.worker_deaths,
            error: job.error.as_deref(),
        }
    }
}

impl<'a> BatchView<'a> {
    pub(crate) fn new(report: &'a BatchReport, troubles: &'a [AttemptReport]) -> Self {
        let batch = &report.batch;
        Self {
            chain_id: batch.id.chain_id,
            number: batch.id.number,
            status: batch.status.as_str(),
            protocol_version: batch.version.to_string(),
            priority: batch.priority,
            deadline: batch.deadline.as_deref(),
            deadline_margin_seconds: batch.deadline_margin_seconds,
            deadline_standing: report.deadline_standing(),
            age_seconds: batch.age_seconds,
            duration_seconds: batch.duration_seconds,
            error: batch.error.as_deref(),
            final_proof_bytes: batch.final_proof.as_ref().map(|proof| proof.size_bytes),
            time_left_seconds: report.time_left_seconds,
            jobs: &report.counts,
            circuits: &report.circuits,
            stuck_jobs: report.stuck.iter().map(StuckView::new).collect(),
            attempts: report.attempts,
            failed_attempts: report.failed_attempts,
            worker_deaths: report.worker_deaths,
            troubled_attempts: troubles,
        }
    }
}

/// A batch in words; with its troubled attempts, by circuit too.
pub(crate) fn batch_text(
    report: &BatchReport,
    troubles: Option<&[AttemptReport]>,
) -> Result<String, std::fmt::Error> {
    let batch = &report.batch;
    let mut text = format!("{}: {}", batch.id, batch.status);
    match batch.duration_seconds {
        Some(seconds) => write!(text, " after {seconds:.1} s")?,
        None => write!(text, ", inserted {:.0} s ago", batch.age_seconds)?,
    }
    if let Some(seconds) = report.time_left_seconds {
        write!(text, ", about {} left", duration(seconds))?;
    }
    writeln!(text, ", protocol version {}", batch.version)?;
    if let (Some(deadline), Some(margin), Some(standing)) =
        (&batch.deadline, batch.deadline_margin_seconds, report.deadline_standing())
    {
        let by = duration(margin.abs());
        match standing {
            DeadlineStanding::Met => writeln!(text, "  deadline {deadline}: met, {by} before")?,
            DeadlineStanding::Missed => writeln!(text, "  deadline {deadline}: missed by {by}")?,
            DeadlineStanding::Passed => writeln!(text, "  deadline {deadline}: passed {by} ago")?,
            DeadlineStanding::AtRisk | DeadlineStanding::OnTime => {
                writeln!(text, "  deadline {deadline}: in {by}, {}", standing.in_words())?;
            }
        }
    }
    if let Some(error) = &batch.error {
        writeln!(text, "  {}", printable_within(error))?;
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
    let Some(troubles) = troubles else {
        for job in &report.stuck {
            let error = printable_within(job.error.as_deref().unwrap_or_default());
            writeln!(text, "  job {} ({}) is {}: {error}", job.id, job.key, job.status)?;
        }
        return Ok(text);
    };
    circuits_text(&report.circuits, &mut text)?;
    for attempt in troubles {
        write!(
            text,
            "  job {} attempt {}, {} on {}, process {}: {} after {:.1} s",
            attempt.job_id,
            attempt.attempt,
            printable(&attempt.component),
            printable(&attempt.host),
            attempt.pid,
            attempt.outcome.as_deref().unwrap_or("running"),
            attempt.seconds
        )?;
        match &attempt.error {
            Some(error) => writeln!(text, ": {}", printable_within(error))?,
            None => writeln!(text)?,
        }
    }
    Ok(text)
}

fn circuits_text(circuits: &[CircuitProgress], text: &mut String) -> std::fmt::Result {
    writeln!(
        text,
        "{:<18}{:<19}{:>7}{:>9}{:>8}{:>8}{:>8}{:>8}{:>11}{:>11}{:>11}",
        "round", "stage", "circuit", "waiting", "queued", "runs", "done", "failed", "p50", "p95", "expected"
    )?;
    for circuit in circuits {
        let round = AggregationRound::from_number(circuit.round).map_or("?", AggregationRound::as_str);
        let seconds =
            |seconds: Option<f64>| seconds.map_or(String::new(), |seconds| format!("{seconds:.2} s"));
        writeln!(
            text,
            "{round:<18}{:<19}{:>7}{:>9}{:>8}{:>8}{:>8}{:>8}{:>11}{:>11}{:>11}",
            circuit.stage,
            circuit.circuit_id,
            circuit.jobs.waiting,
            circuit.jobs.queued,
            circuit.jobs.in_progress,
            circuit.jobs.successful,
            circuit.jobs.failed,
            seconds(circuit.p50_seconds),
            seconds(circuit.p95_seconds),
            seconds(Some(circuit.expected_seconds))
        )?;
    }
    Ok(())
}

fn queue_text(demand: &[Demand]) -> Result<String, std::fmt::Error> {
    if demand.is_empty() {
        return Ok("nothing is queued, in progress, waiting or failed\n".to_owned());
    }
    let mut text = String::new();
    writeln!(
        text,
        "{:<9}{:>6}  {:<19}{:<18}{:<7}{:>8}{:>8}{:>8}{:>8}{:>8}{:>10}{:>10}",
        "version",
        "chain",
        "stage",
        "round",
        "memory",
        "queued",
        "runs",
        "waits",
        "failed",
        "paused",
        "oldest",
        "backlog"
    )?;
    for kind in demand {
        let version = format!("0.{}.{}", kind.protocol_minor, kind.protocol_patch);
        let round = AggregationRound::from_number(kind.round).map_or("?", AggregationRound::as_str);
        let oldest = kind.oldest_seconds.map_or(String::new(), duration);
        let line = format!(
            "{version:<9}{:>6}  {:<19}{round:<18}{:<7}{:>8}{:>8}{:>8}{:>8}{:>8}{oldest:>10}{:>10}",
            kind.chain_id,
            kind.stage,
            kind.memory_class,
            kind.queued,
            kind.in_progress,
            kind.waiting,
            kind.failed,
            kind.paused,
            duration(kind.backlog_seconds)
        );
        writeln!(text, "{}", line.trim_end())?;
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
            printable(&worker.component),
            printable(&worker.host),
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
            printable(&version.proof_system),
            version.open_batches,
            version.live_workers,
            printable(&version.verification_keys_digest)
        )?;
    }
    Ok(text)
}
