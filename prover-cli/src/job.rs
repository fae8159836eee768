//! `why` and `attempts`: single jobs.

use crate::Output;
use clap::Args;
use cli_support::BadInput;
use job_store::reports::attempts::AttemptReport;
use job_store::reports::why::{Explanation, Takers, Why};
use job_store::{DatabaseUrl, JobStore, StoreError};
use outside::{printable, printable_within};
use proving_model::{BatchId, BatchStatus};
use schemars::JsonSchema;
use serde::Serialize;
use std::fmt::Write;

#[derive(Debug, Args)]
pub(crate) struct WhyArgs {
    /// The job's id, as `status batch` and `attempts` print it.
    #[arg(required_unless_present = "number", conflicts_with = "number")]
    job: Option<i64>,
    /// Or a batch's number: the answer is then about what keeps the batch.
    #[arg(short, long)]
    number: Option<u32>,
    /// The chain's id.
    #[arg(short, long, default_value_t = 0, requires = "number")]
    chain_id: u32,
}

#[derive(Debug, Args)]
pub(crate) struct AttemptsArgs {
    /// The job's id.
    job: i64,
}

/// A job's answer as JSON shows it.
#[derive(Serialize, JsonSchema)]
pub(crate) struct JobView<'a> {
    chain_id: u32,
    batch_number: u32,
    job: String,
    #[serde(flatten)]
    explanation: &'a Explanation,
}

impl<'a> JobView<'a> {
    fn new(explanation: &'a Explanation) -> Self {
        Self {
            chain_id: explanation.batch.chain_id,
            batch_number: explanation.batch.number,
            job: explanation.key.to_string(),
            explanation,
        }
    }
}

/// A batch's answer as JSON shows it.
#[derive(Serialize, JsonSchema)]
pub(crate) struct BatchAnswer<'a> {
    chain_id: u32,
    number: u32,
    status: &'static str,
    error: Option<&'a str>,
    /// Of each kind of job that keeps the batch, the first.
    jobs: Vec<JobView<'a>>,
}

pub(crate) async fn why(url: &DatabaseUrl, args: WhyArgs, output: Output) -> anyhow::Result<()> {
    let store = cli_support::connect(url).await?;
    let result = match (args.job, args.number) {
        (Some(job), _) => {
            let explanation = store.why(job).await?;
            output.print(&JobView::new(&explanation), &job_text(&explanation)?)
        }
        (None, Some(number)) => why_batch(&store, BatchId { chain_id: args.chain_id, number }, output).await,
        (None, None) => Err(BadInput("name a job, or a batch with --number".to_owned()).into()),
    };
    store.close().await;
    result
}

async fn why_batch(store: &JobStore, id: BatchId, output: Output) -> anyhow::Result<()> {
    let batch = store.batch(id).await?.ok_or(StoreError::NoSuchBatch(id))?;
    let mut explanations = Vec::new();
    if !matches!(batch.status, BatchStatus::Successful | BatchStatus::Cancelled) {
        for job in store.telling_jobs(id).await? {
            explanations.push(store.why(job).await?);
        }
    }
    let mut text = format!("{id} is {}", batch.status);
    match &batch.error {
        Some(error) => writeln!(text, ": {}", printable_within(error))?,
        None => writeln!(text, ".")?,
    }
    for explanation in &explanations {
        text.push_str(&job_text(explanation)?);
    }
    let answer = BatchAnswer {
        chain_id: id.chain_id,
        number: id.number,
        status: batch.status.as_str(),
        error: batch.error.as_deref(),
        jobs: explanations.iter().map(JobView::new).collect(),
    };
    output.print(&answer, &text)
}

pub(crate) async fn attempts(url: &DatabaseUrl, args: AttemptsArgs, output: Output) -> anyhow::Result<()> {
    let store = cli_support::connect(url).await?;
    let explanation = store.why(args.job).await?;
    let attempts = store.attempts_of(args.job).await?;
    store.close().await;
    let mut text = format!("job {} of {}: {}\n", explanation.job_id, explanation.batch, explanation.key);
    if attempts.is_empty() {
        text.push_str("  nobody has had it yet\n");
    }
    for attempt in &attempts {
        text.push_str(&attempt_text(attempt)?);
    }
    output.print(&attempts, &text)
}

/// One attempt in a line, and its error below it, whole.
fn attempt_text(attempt: &AttemptReport) -> Result<String, std::fmt::Error> {
    let mut text = format!(
        "  attempt {}: {} after {:.1} s, {} on {}, process {}",
        attempt.attempt,
        attempt.outcome.as_deref().unwrap_or("running"),
        attempt.seconds,
        printable(&attempt.component),
        printable(&attempt.host),
        attempt.pid
    );
    if let Some(bytes) = attempt.peak_memory_bytes {
        write!(text, ", {} at most", mebibytes(bytes))?;
    }
    text.push('\n');
    for line in attempt.error.iter().flat_map(|error| error.lines()) {
        writeln!(text, "    {line}")?;
    }
    Ok(text)
}

fn mebibytes(bytes: i64) -> String {
    format!("{} MiB", bytes.max(0) >> 20)
}

/// One paragraph.
fn job_text(explanation: &Explanation) -> Result<String, std::fmt::Error> {
    let mut text = format!("job {} of {}, {}, ", explanation.job_id, explanation.batch, explanation.key);
    match &explanation.why {
        Why::Over { status } => write!(text, "is {status}.")?,
        Why::Running { component, host, pid, seconds, progress, is_expired } => {
            write!(
                text,
                "runs for {seconds:.1} s on {}, process {pid}, {}",
                printable(host),
                printable(component)
            )?;
            if *progress > 0.0 {
                write!(text, ", {:.0} % done", progress * 100.0)?;
            }
            text.push('.');
            if *is_expired {
                text.push_str(
                    " The worker's lease is over: it died, hung or was cut off. A job monitor puts the job back; if it \
                     stays like this, none runs.",
                );
            }
        }
        Why::Failed { failures, worker_deaths, timeouts, error } => {
            write!(
                text,
                "failed for good, after {failures} failures, {worker_deaths} deaths of its worker and {timeouts} \
                 timeouts. It stays so until it is released."
            )?;
            if let Some(error) = error {
                write!(text, " The last error: {}", printable_within(error))?;
            }
        }
        Why::WaitsForProofs { missing, first } => {
            write!(text, "waits for {missing} {}: ", if *missing == 1 { "output" } else { "outputs" })?;
            let named: Vec<String> = first
                .iter()
                .map(|job| format!("{} of job {} ({})", job.job, job.job_id, job.status))
                .collect();
            text.push_str(&named.join(", "));
            let others = missing - i64::try_from(first.len()).unwrap_or(i64::MAX);
            if others > 0 {
                write!(text, " and {others} others")?;
            }
            text.push('.');
        }
        Why::WaitsForCircuit { generator } => {
            write!(
                text,
                "waits for its circuit, which was lost and is made again: the generator is {generator}."
            )?;
        }
        Why::WaitsForBatch { number, status } => {
            write!(text, "waits for batch {number} of its chain, which is {status}: the chain is strict.")?;
        }
        Why::Rests { seconds, error } => {
            write!(text, "failed, and rests for another {seconds:.1} s before its next attempt.")?;
            if let Some(error) = error {
                write!(text, " The last error: {}", printable_within(error))?;
            }
        }
        Why::Paused { what, name, seconds } => {
            write!(
                text,
                "is queued, and held back: the {what} {name} was paused {seconds:.0} s ago. It runs once that is resumed."
            )?;
        }
        Why::NobodyTakesIt { takers, peak_memory_bytes } => {
            write!(text, "is queued, and nobody takes it: {}", who_is_missing(takers, *peak_memory_bytes))?;
        }
        Why::Queued { place, takers, is_suspect } => {
            match place {
                Some(1) => write!(text, "is the next of its kind to be taken")?,
                Some(place) => write!(text, "is number {place} of its kind in the queue")?,
                None => write!(text, "is queued behind more than ten thousand of its kind")?,
            }
            let Takers { with_room, jobs_held, capacity, .. } = takers;
            let workers = if *with_room == 1 { "worker takes" } else { "workers take" };
            write!(
                text,
                "; {with_room} live {workers} such jobs, with {jobs_held} in hand and places for {capacity}."
            )?;
            if *is_suspect {
                text.push_str(" Workers died with it, so it is taken where no other such job is.");
            }
        }
    }
    text.push('\n');
    Ok(text)
}

/// What the fleet lacks, by the first condition that no worker meets.
fn who_is_missing(takers: &Takers, peak: i64) -> String {
    let Takers { live, of_version, of_kind, largest_budget_bytes, .. } = takers;
    match (live, of_version, of_kind) {
        (0, ..) => "no worker lives that takes jobs.".to_owned(),
        (_, 0, _) => format!("none of the {live} live workers is of its protocol version."),
        (_, _, 0) => format!(
            "none of the {of_version} live workers of its protocol version takes its stage, round and memory class."
        ),
        _ => format!(
            "it is expected to take {} of memory, and the largest budget of the {of_kind} workers of its kind is {}.",
            mebibytes(peak),
            mebibytes(largest_budget_bytes.unwrap_or_default())
        ),
    }
}
