//! Many workers on jobs of a set length: what is lost between two jobs.

use crate::noop_workers::{self, LEASE_DURATION, NoopWorkers, OpenBatch};
use crate::server::{Server, ServerArgs};
use crate::{Quantiles, print};
use clap::Args;
use cli_support::BadInput;
use proving_model::Stage;
use serde::Serialize;
use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Longest work of one job.
const WORK_MAX: Duration = Duration::from_secs(3_600);

#[derive(Debug, Args)]
pub(crate) struct ScalingArgs {
    /// Workers; more than one figure with commas.
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8,16,32,64")]
    workers: Vec<usize>,
    /// Seconds that each job sleeps; more than one figure with commas.
    #[arg(long, value_delimiter = ',', default_value = "0,0.1,1,7")]
    work: Vec<f64>,
    /// Jobs of each worker, one after the other; of work of 0 a hundred times as many.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(2..))]
    jobs: u32,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Serialize)]
struct Figure {
    workers: usize,
    work_seconds: f64,
    jobs: usize,
    wall_seconds: f64,
    /// The work divided by the workers, over the wall time; nothing for work of 0.
    efficiency: Option<f64>,
    /// Between the end of a worker's job and the start of its next, milliseconds.
    overhead_ms: Quantiles,
    /// The median of that, over the work.
    share: Option<f64>,
}

pub(crate) async fn run(args: ScalingArgs) -> anyhow::Result<()> {
    let server = Server::open(&args.server, &[]).await?;
    let figures = measure(&args, &server).await;
    server.close().await?;
    let figures = figures?;
    let mut lines = String::new();
    for figure in &figures {
        let Figure { workers, work_seconds, jobs, wall_seconds, overhead_ms, .. } = figure;
        let _ = write!(
            lines,
            "{workers:3} workers, work {work_seconds} s, {jobs} jobs: wall {wall_seconds:.3} s, between two jobs ms p50 {:.3} p99 {:.3}",
            overhead_ms.p50, overhead_ms.p99
        );
        if let (Some(efficiency), Some(share)) = (figure.efficiency, figure.share) {
            let _ = write!(lines, ", efficiency {efficiency:.4}, share of the work {:.4} %", share * 100.0);
        }
        lines.push('\n');
    }
    print(args.server.json, &figures, &lines)
}

async fn measure(args: &ScalingArgs, server: &Server) -> anyhow::Result<Vec<Figure>> {
    let (_, store) = noop_workers::fresh_store(server).await?;
    let context = noop_workers::register(&store, 64, LEASE_DURATION).await?;
    let mut figures = Vec::new();
    for work_seconds in &args.work {
        let work =
            Duration::try_from_secs_f64(*work_seconds).ok().filter(|work| *work <= WORK_MAX).ok_or_else(
                || BadInput(format!("--work is a number of seconds from 0 to 3600, not {work_seconds}")),
            )?;
        for workers in &args.workers {
            let each = usize::try_from(args.jobs)? * if work.is_zero() { 100 } else { 1 };
            let jobs = workers * each;
            let batch = OpenBatch::insert(&store, &context, u32::try_from(figures.len())?).await?;
            for first in (0..jobs).step_by(1_000) {
                batch.queue(first..jobs.min(first + 1_000), None).await?;
            }
            let (started, mut starts) = mpsc::unbounded_channel();
            let noop = NoopWorkers { work, started: Some(started), ..NoopWorkers::idle() };
            let shutdown = CancellationToken::new();
            let begun = Instant::now();
            let running = {
                let (noop, context, shutdown) = (noop.clone(), context.clone(), shutdown.clone());
                let (filter, workers) = (noop_workers::filter(Stage::CircuitProof), *workers);
                tokio::spawn(async move { noop.run(context, filter, workers, workers, shutdown).await })
            };
            noop.until_done(jobs as u64).await;
            let wall = begun.elapsed();
            shutdown.cancel();
            running.await?;
            drop(noop);
            let mut times = Vec::new();
            while let Ok((_, at)) = starts.try_recv() {
                times.push(at);
            }
            times.sort();
            // With all workers busy, the start that comes so many starts later is that of the worker which became free.
            let overheads = times.iter().zip(times.iter().skip(*workers)).map(|(earlier, later)| {
                later.duration_since(*earlier).saturating_sub(work).as_secs_f64() * 1_000.0
            });
            let overhead_ms = Quantiles::of(overheads);
            let worked = work.as_secs_f64() * each as f64;
            figures.push(Figure {
                workers: *workers,
                work_seconds: *work_seconds,
                jobs,
                wall_seconds: wall.as_secs_f64(),
                efficiency: (!work.is_zero()).then(|| worked / wall.as_secs_f64()),
                overhead_ms,
                share: (!work.is_zero()).then(|| overhead_ms.p50 / 1_000.0 / work.as_secs_f64()),
            });
        }
        tracing::info!("work of {work_seconds} s is measured");
    }
    store.close().await;
    Ok(figures)
}
