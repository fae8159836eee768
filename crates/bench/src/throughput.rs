//! Jobs without work, from queued to completed.

use crate::noop_workers::{self, LEASE_DURATION, NoopWorkers, OpenBatch, Worker};
use crate::server::{Server, ServerArgs};
use crate::{median, print};
use anyhow::Context;
use artifact_store::ArtifactStore;
use clap::Args;
use job_store::measure::baseline::Baseline;
use job_store::runner::context::WorkerContext;
use job_store::{DatabaseUrl, JobStore};
use proving_model::{ArtifactRef, Stage};
use serde::Serialize;
use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// The baseline's fetchers and their batch: what was found to be best for it.
const BASELINE_FETCHERS: usize = 2;
const BASELINE_BATCH: usize = 128;
/// Jobs that one extension queues.
const QUEUED_AT_ONCE: usize = 1_000;

#[derive(Debug, Args)]
pub(crate) struct ThroughputArgs {
    /// Jobs of each measurement.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..))]
    jobs: u32,
    /// Workers; more than one figure with commas.
    #[arg(long, value_delimiter = ',', default_value = "1,8,32")]
    workers: Vec<usize>,
    /// Processes that share the workers; more than one figure with commas.
    #[arg(long, value_delimiter = ',', default_value = "1,4")]
    processes: Vec<usize>,
    /// Jobs that each process holds ready beside those it works on. The default is what serves jobs without work best; a prover,
    /// whose jobs take seconds, holds a few.
    #[arg(long, default_value_t = 4_096)]
    prefetch: usize,
    /// Leaves out the measurements in which each job reads an artifact of 1 kB and writes one.
    #[arg(long)]
    without_artifacts: bool,
    /// How often each is measured.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Serialize)]
struct Figure {
    workers: usize,
    processes: usize,
    artifacts: bool,
    /// Of each round.
    jobs_per_second: Vec<f64>,
    median: f64,
    /// The median of the rounds' ratios to the baseline with as many workers.
    of_the_baseline: f64,
}

#[derive(Debug, Serialize)]
struct Figures {
    jobs: u32,
    baseline: Vec<Figure>,
    roundhouse: Vec<Figure>,
}

pub(crate) async fn run(args: ThroughputArgs) -> anyhow::Result<()> {
    let server = Server::open(&args.server, &[]).await?;
    let figures = measure(&args, &server).await;
    server.close().await?;
    let figures = figures?;
    let mut lines =
        format!("{} jobs without work, jobs/s, medians of {} rounds\n", figures.jobs, args.rounds);
    for (name, figure) in figures
        .baseline
        .iter()
        .map(|f| ("baseline", f))
        .chain(figures.roundhouse.iter().map(|f| ("roundhouse", f)))
    {
        let Figure { workers, processes, artifacts, median, of_the_baseline, .. } = figure;
        let artifacts = if *artifacts { "with artifacts" } else { "" };
        let _ = writeln!(
            lines,
            "{name:10} {workers:3} workers in {processes} processes {artifacts:14} {median:8.0}  {of_the_baseline:.2} of the baseline"
        );
    }
    print(args.server.json, &figures, &lines)
}

async fn measure(args: &ThroughputArgs, server: &Server) -> anyhow::Result<Figures> {
    let jobs = usize::try_from(args.jobs)?;
    let baseline_url = server.database().await?;
    let baseline = Baseline::prepare(&baseline_url).await?;
    let new = |workers, processes, artifacts| Figure {
        workers,
        processes,
        artifacts,
        jobs_per_second: Vec::new(),
        median: 0.0,
        of_the_baseline: 0.0,
    };
    let mut baselines: Vec<Figure> = args.workers.iter().map(|workers| new(*workers, 1, false)).collect();
    let mut ours = Vec::new();
    for artifacts in [false, true].into_iter().take(if args.without_artifacts { 1 } else { 2 }) {
        for processes in &args.processes {
            ours.extend(
                args.workers.iter().filter(|w| *w >= processes).map(|w| new(*w, *processes, artifacts)),
            );
        }
    }
    let (url, store) = noop_workers::fresh_store(server).await?;
    let context = noop_workers::register(&store, 1, LEASE_DURATION).await?;
    let artifacts = server.folder.path().join("artifacts").to_string_lossy().into_owned();
    let artifact_store = ArtifactStore::open(&artifacts)?;
    let input = noop_workers::input_artifact(&artifact_store).await?;
    let mut number = 0;
    for round in 1..=args.rounds {
        for figure in &mut baselines {
            let took = baseline.throughput(jobs, figure.workers, BASELINE_FETCHERS, BASELINE_BATCH).await?;
            figure.jobs_per_second.push(jobs as f64 / took.as_secs_f64());
        }
        for figure in &mut ours {
            number += 1;
            queue(&store, &context, number, jobs, &input).await?;
            let folder = figure.artifacts.then_some(artifacts.as_str());
            let took = if figure.processes == 1 {
                in_this_process(&context, figure.workers, args.prefetch, folder, jobs).await?
            } else {
                in_processes(&url, figure.processes, figure.workers, args.prefetch, folder, jobs).await?
            };
            figure.jobs_per_second.push(jobs as f64 / took.as_secs_f64());
        }
        tracing::info!("round {round} of {} is measured", args.rounds);
    }
    for figure in &mut ours {
        let baseline =
            baselines.iter().find(|baseline| baseline.workers == figure.workers).context("measured above")?;
        let ratios: Vec<f64> = figure
            .jobs_per_second
            .iter()
            .zip(&baseline.jobs_per_second)
            .map(|(ours, baseline)| ours / baseline)
            .collect();
        figure.of_the_baseline = median(&ratios);
    }
    for figure in baselines.iter_mut().chain(&mut ours) {
        figure.median = median(&figure.jobs_per_second);
    }
    baselines.iter_mut().for_each(|baseline| baseline.of_the_baseline = 1.0);
    store.close().await;
    baseline.close().await;
    Ok(Figures { jobs: args.jobs, baseline: baselines, roundhouse: ours })
}

async fn queue(
    store: &JobStore,
    context: &WorkerContext,
    number: u32,
    jobs: usize,
    input: &ArtifactRef,
) -> anyhow::Result<()> {
    let batch = OpenBatch::insert(store, context, number).await?;
    for first in (0..jobs).step_by(QUEUED_AT_ONCE) {
        batch.queue(first..jobs.min(first + QUEUED_AT_ONCE), Some(input)).await?;
    }
    Ok(store.analyze().await?)
}

async fn in_this_process(
    context: &WorkerContext,
    workers: usize,
    prefetch: usize,
    artifacts: Option<&str>,
    jobs: usize,
) -> anyhow::Result<Duration> {
    let noop =
        NoopWorkers { artifacts: artifacts.map(ArtifactStore::open).transpose()?, ..NoopWorkers::idle() };
    let shutdown = CancellationToken::new();
    let begun = Instant::now();
    let running = {
        let (noop, context, shutdown) = (noop.clone(), context.clone(), shutdown.clone());
        tokio::spawn(async move {
            noop.run(context, noop_workers::filter(Stage::CircuitProof), workers, prefetch, shutdown).await
        })
    };
    noop.until_done(jobs as u64).await;
    let took = begun.elapsed();
    shutdown.cancel();
    running.await?;
    Ok(took)
}

async fn in_processes(
    url: &DatabaseUrl,
    processes: usize,
    workers: usize,
    prefetch: usize,
    artifacts: Option<&str>,
    jobs: usize,
) -> anyhow::Result<Duration> {
    let (url, artifacts) = (url.clone(), artifacts.map(ToOwned::to_owned));
    tokio::task::spawn_blocking(move || {
        let mut arguments =
            vec![format!("--workers={}", workers / processes), format!("--prefetch={prefetch}")];
        arguments.extend(artifacts.map(|folder| format!("--artifacts={folder}")));
        let mut noop =
            (0..processes).map(|_| Worker::start(&url, &arguments)).collect::<anyhow::Result<Vec<_>>>()?;
        let begun = noop_workers::now();
        for worker in &mut noop {
            worker.begin()?;
        }
        // They end when their inputs do.
        let inputs: Vec<_> = noop.iter_mut().map(Worker::take_input).collect();
        let (told, hears) = std::sync::mpsc::channel();
        let last = std::thread::scope(|scope| {
            for (i, worker) in noop.iter_mut().enumerate() {
                let told = told.clone();
                scope.spawn(move || {
                    while let Ok(line) = worker.hear() {
                        let numbers = line.split_once(' ').map(|(done, last)| (done.parse(), last.parse()));
                        if let Some((Ok(done), Ok(last))) = numbers {
                            let _ = told.send((i, done, Duration::from_nanos(last)));
                        }
                    }
                });
            }
            drop(told);
            let mut done: Vec<usize> = vec![0; processes];
            let mut last = Duration::ZERO;
            for (i, count, at) in hears {
                done[i] = count;
                last = last.max(at);
                if done.iter().sum::<usize>() >= jobs {
                    break;
                }
            }
            drop(inputs);
            last
        });
        Ok(last.saturating_sub(begun))
    })
    .await?
}
