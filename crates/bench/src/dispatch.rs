//! From before a job's insertion to its start.

use crate::noop_workers::{self, LEASE_DURATION, NoopWorkers, OpenBatch};
use crate::server::{Server, ServerArgs};
use crate::{Quantiles, median, print};
use anyhow::Context;
use clap::Args;
use job_store::JobStore;
use job_store::measure::baseline::Baseline;
use proving_model::Stage;
use serde::Serialize;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Between two jobs, so that each finds a queue at rest.
const PAUSE: Duration = Duration::from_millis(2);

#[derive(Debug, Args)]
pub(crate) struct DispatchArgs {
    /// Jobs of each round.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    jobs: u32,
    /// Workers that wait.
    #[arg(long, default_value_t = 32)]
    workers: usize,
    /// How often each is measured.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Serialize)]
struct Figures {
    workers: usize,
    /// Plain statements: insert, NOTIFY, claim committed asynchronously; milliseconds.
    baseline_ms: Quantiles,
    roundhouse_ms: Quantiles,
    /// Of that, until the insertion was on the disk.
    insertion_ms: Quantiles,
    /// Medians of the rounds' ratios to the baseline.
    p50_ratio: f64,
    p99_ratio: f64,
}

pub(crate) async fn run(args: DispatchArgs) -> anyhow::Result<()> {
    let server = Server::open(&args.server, &[]).await?;
    let figures = measure(&args, &server).await;
    server.close().await?;
    let figures = figures?;
    let Figures { baseline_ms: baseline, roundhouse_ms: ours, .. } = &figures;
    let lines = format!(
        "insertion to start, ms, {} workers: baseline p50 {:.2} p99 {:.2}, roundhouse p50 {:.2} p99 {:.2} (insertion on disk: p50 {:.2}); \
         ratios p50 {:.2}, p99 {:.2} (medians of {} rounds)",
        args.workers,
        baseline.p50,
        baseline.p99,
        ours.p50,
        ours.p99,
        figures.insertion_ms.p50,
        figures.p50_ratio,
        figures.p99_ratio,
        args.rounds
    );
    print(args.server.json, &figures, &lines)
}

async fn measure(args: &DispatchArgs, server: &Server) -> anyhow::Result<Figures> {
    let jobs = usize::try_from(args.jobs)?;
    let baseline = Baseline::prepare(&server.database().await?).await?;
    let (url, store) = noop_workers::fresh_store(server).await?;
    let context = noop_workers::register(&store, args.workers, LEASE_DURATION).await?;
    let (started, mut starts) = mpsc::unbounded_channel();
    let noop = NoopWorkers { started: Some(started), ..NoopWorkers::idle() };
    let shutdown = CancellationToken::new();
    // Inserted as another process would: its wake-ups come by way of the server.
    let elsewhere = JobStore::connect(&url).await?;
    let batch =
        OpenBatch::insert(&elsewhere, &noop_workers::register(&elsewhere, 1, LEASE_DURATION).await?, 1)
            .await?;
    let running = {
        let (noop, context, shutdown) = (noop.clone(), context.clone(), shutdown.clone());
        let (filter, workers) = (noop_workers::filter(Stage::CircuitProof), args.workers);
        tokio::spawn(async move { noop.run(context, filter, workers, 1, shutdown).await })
    };
    let milliseconds = |duration: Duration| duration.as_secs_f64() * 1_000.0;
    let (mut baselines, mut ours, mut p50s, mut p99s) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut inserted = Vec::new();
    for round in 0..usize::try_from(args.rounds)? {
        let theirs: Vec<f64> = baseline.dispatch(jobs).await?.into_iter().map(milliseconds).collect();
        let mut times = Vec::new();
        for job in 0..jobs {
            let begun = Instant::now();
            let sequence = round * jobs + job;
            batch.queue(sequence..sequence + 1, None).await?;
            inserted.push(milliseconds(begun.elapsed()));
            let (_, at) = starts.recv().await.context("the workers run")?;
            times.push(milliseconds(at.duration_since(begun)));
            tokio::time::sleep(PAUSE).await;
        }
        let (theirs_all, ours_all) =
            (Quantiles::of(theirs.iter().copied()), Quantiles::of(times.iter().copied()));
        p50s.push(ours_all.p50 / theirs_all.p50);
        p99s.push(ours_all.p99 / theirs_all.p99);
        baselines.extend(theirs);
        ours.extend(times);
    }
    shutdown.cancel();
    running.await?;
    elsewhere.close().await;
    store.close().await;
    baseline.close().await;
    Ok(Figures {
        workers: args.workers,
        baseline_ms: Quantiles::of(baselines),
        roundhouse_ms: Quantiles::of(ours),
        insertion_ms: Quantiles::of(inserted),
        p50_ratio: median(&p50s),
        p99_ratio: median(&p99s),
    })
}
