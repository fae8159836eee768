//! `prover prove`: all of the pipeline on one machine, for one input.

use crate::BadInput;
use crate::components::{Component, Ground, Plan, keys_folder, run_plan, shutdown_on_signal};
use anyhow::Context;
use artifact_store::{ArtifactStore, witness_input_key};
use clap::Args;
use embedded_postgres::{EmbeddedPostgres, Options};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use job_store::{BatchReport, DatabaseUrl, JobStore, NewBatch};
use ledger_circuits::LedgerProofSystem;
use proof_system::{InputSource, ProofSystem};
use proving_model::{AggregationRound, ArtifactKind, BatchId, BatchStatus, JobStatus, Stage};
use std::{
    fs,
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// How often the bars are brought up to date.
const REPORT_INTERVAL: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(crate) struct ProveArgs {
    /// The transfers, a CSV file with the header from,to,amount.
    input: PathBuf,
    /// Opening balances, a CSV file with the header account,balance [default: accounts.csv beside the input].
    #[arg(long)]
    accounts: Option<PathBuf>,
    /// The batch's number, bound to the proof.
    #[arg(long, default_value_t = 1)]
    number: u32,
    /// The chain's id, bound to the proof.
    #[arg(long, default_value_t = 0)]
    chain_id: u32,
    /// Where proof, statement and balances go [default: ./proofs/CHAIN-NUMBER].
    #[arg(long)]
    out: Option<PathBuf>,
    /// Where the work is kept while it runs, so that an interrupted run resumes [default: the data folder].
    #[arg(long, env = "ROUNDHOUSE_DATA")]
    data: Option<PathBuf>,
    /// The key folder [default: the user's cache folder].
    #[arg(long, env = "ROUNDHOUSE_KEYS")]
    keys: Option<PathBuf>,
}

/// The default data folder: PostgreSQL does not run as root, and others cannot enter root's home.
fn data_folder(given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    if let Some(folder) = given {
        return Ok(folder);
    }
    let home = std::env::var_os("HOME").map(PathBuf::from);
    match home {
        Some(home) if home != Path::new("/root") => Ok(home.join(".local/share/roundhouse")),
        _ => Ok(PathBuf::from("/var/lib/roundhouse")),
    }
}

pub(crate) async fn prove(args: ProveArgs) -> anyhow::Result<()> {
    let begun = Instant::now();
    let system = Arc::new(LedgerProofSystem::shipped(&keys_folder(args.keys)?)?);
    let source = InputSource { path: args.input, state_path: args.accounts };
    let input = system.read_input(&source).map_err(|e| BadInput(e.to_string()))?;
    let batch = BatchId { chain_id: args.chain_id, number: args.number };
    tracing::info!("{batch}: {}", input.summary);

    // One folder an input: two runs of different inputs share nothing, and the same input again resumes.
    let digest = blake3::hash(&input.payload).to_hex();
    let work = data_folder(args.data)?.join(format!(
        "{}-{}-{}",
        batch.chain_id,
        batch.number,
        &digest.as_str()[..16]
    ));
    fs::create_dir_all(&work).with_context(|| format!("cannot create {}", work.display()))?;
    let cluster = work.join("postgres");
    let server =
        tokio::task::spawn_blocking(move || EmbeddedPostgres::start(&cluster, &Options::default())).await??;
    let url = DatabaseUrl::new(&server.url("postgres"))?;
    let store = JobStore::connect(&url).await?;
    store.migrate().await?;
    let artifacts = ArtifactStore::open(&work.join("artifacts").to_string_lossy())?;
    let keys_digest = system.verification_keys_digest();
    store.insert_protocol_version(system.protocol_version(), system.name(), &keys_digest).await?;
    let key = witness_input_key(batch, &input.payload);
    let artifact = artifacts.put(ArtifactKind::WitnessInput, key, &input.payload).await?;
    let new_batch = NewBatch { id: batch, version: system.protocol_version(), input: artifact, priority: 0 };
    store.insert_batch(&new_batch).await?;
    store.requeue_failed(batch).await?;

    let shutdown = shutdown_on_signal()?;
    let ground = Ground { url, store: store.clone(), artifacts: artifacts.clone(), system: system.clone() };
    let plan = Plan {
        components: vec![Component::All],
        rounds: AggregationRound::ALL.to_vec(),
        light_wvg_count: 1,
        heavy_wvg_count: 1,
        drain_timeout: Duration::from_secs(5),
    };
    let done = shutdown.child_token();
    let running = tokio::spawn(run_plan(ground, plan, done.clone()));
    let report = watch(&store, batch, &done).await;
    done.cancel();
    running.await.context("the components ended")??;
    let report = report?;
    let finished = finish(&report, &system, &artifacts, batch, &input.payload, args.out).await;
    store.close().await;
    drop(store);
    tokio::task::spawn_blocking(move || server.stop()).await?;
    finished?;
    summarise(&report, begun.elapsed());
    // The proof is out: what is left is scratch.
    fs::remove_dir_all(&work).with_context(|| format!("cannot remove {}", work.display()))
}

/// Bars by round, or plain lines where there is no terminal.
struct Bars {
    bars: Vec<(Stage, AggregationRound, ProgressBar)>,
    last_line: String,
}

impl Bars {
    fn new() -> Self {
        let target = if std::io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let all = MultiProgress::with_draw_target(target);
        let style = ProgressStyle::with_template("{prefix:>17} {bar:40} {pos}/{len}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let rounds = AggregationRound::ALL.into_iter().map(|round| (Stage::CircuitProof, round));
        let bars = rounds
            .chain([(Stage::Compression, AggregationRound::Scheduler)])
            .map(|(stage, round)| {
                let bar = all.add(ProgressBar::new(0).with_style(style.clone()));
                bar.set_prefix(if stage == Stage::Compression { "compression" } else { round.as_str() });
                (stage, round, bar)
            })
            .collect();
        Self { bars, last_line: String::new() }
    }

    fn show(&mut self, report: &BatchReport) {
        let mut line = String::new();
        for (stage, round, bar) in &self.bars {
            let of = |done: bool| -> u64 {
                report
                    .counts
                    .iter()
                    .filter(|c| c.stage == stage.as_str() && c.round == round.number())
                    .filter(|c| !done || c.status == JobStatus::Successful.as_str())
                    .map(|c| u64::try_from(c.count).unwrap_or_default())
                    .sum()
            };
            bar.set_length(of(false));
            bar.set_position(of(true));
            if of(false) > 0 {
                line.push_str(&format!(" {} {}/{}", bar.prefix(), of(true), of(false)));
            }
        }
        if !std::io::stderr().is_terminal() && line != self.last_line {
            tracing::info!("proven:{line}");
            self.last_line = line;
        }
    }
}

/// Shows the batch's way until it ends, or the signal comes.
async fn watch(store: &JobStore, batch: BatchId, stop: &CancellationToken) -> anyhow::Result<BatchReport> {
    let mut bars = Bars::new();
    loop {
        let report = store.batch_report(batch).await?;
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

/// Writes the proof and what goes beside it, and verifies it as anybody else would.
async fn finish(
    report: &BatchReport,
    system: &LedgerProofSystem,
    artifacts: &ArtifactStore,
    batch: BatchId,
    payload: &[u8],
    out: Option<PathBuf>,
) -> anyhow::Result<()> {
    let artifact = report.batch.final_proof.as_ref().context("a successful batch names its final proof")?;
    let proof = artifacts.get(ArtifactKind::FinalProof, artifact).await?;
    let out = out.unwrap_or_else(|| PathBuf::from(format!("proofs/{}-{}", batch.chain_id, batch.number)));
    fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
    let files = system.outputs(batch, payload)?;
    let statement = files.first().context("the proof system has a statement")?.content.clone();
    system.verify_final(&proof, &statement).context("the final proof was made and does not verify")?;
    for (name, content) in
        files.iter().map(|file| (file.name, file.content.as_slice())).chain([("proof.bin", proof.as_slice())])
    {
        let path = out.join(name);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
    }
    tracing::info!("verified; {} holds the proof of {} bytes and its statement", out.display(), proof.len());
    Ok(())
}

fn summarise(report: &BatchReport, wall: Duration) {
    let mut text = String::from("proven");
    for round in AggregationRound::ALL {
        let jobs: i64 = report
            .counts
            .iter()
            .filter(|c| c.round == round.number() && c.stage == Stage::CircuitProof.as_str())
            .map(|c| c.count)
            .sum();
        text.push_str(&format!("\n  {round:<17} {jobs:>6} circuits"));
    }
    text.push_str(&format!("\n  wall time         {:>8.1} s", wall.as_secs_f64()));
    text.push_str(&format!(
        "\n  attempts {}, of which failed {}, lost with their worker {}\n",
        report.attempts, report.failed_attempts, report.worker_deaths
    ));
    let _ = std::io::stdout().write_all(text.as_bytes());
}
