//! Whether size matters: a pick and a completion with ever more jobs queued, and with ever more finished ones behind them; and what a
//! million jobs leave behind in the table that they went through.

use crate::noop_workers::{self, LEASE_DURATION, OpenBatch};
use crate::server::{Server, ServerArgs};
use crate::{Quantiles, median, print};
use anyhow::{Context, ensure};
use clap::Args;
use job_store::JobStore;
use job_store::measure::ballast::Ballast;
use job_store::model::rows::LeasedJob;
use job_store::runner::context::WorkerContext;
use proving_model::Stage;
use serde::Serialize;
use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

/// Measured before anything is, so that every size starts with warm caches and prepared statements.
const WARM_UP: usize = 200;
/// Jobs picked and completed at once where many go through.
const AT_ONCE: usize = 512;
/// Jobs that one extension queues.
const QUEUED_AT_ONCE: usize = 1_000;

#[derive(Debug, Args)]
pub(crate) struct GrowthArgs {
    /// Jobs queued; more than one figure with commas, the smallest first: the others are compared with it.
    #[arg(long, value_delimiter = ',', default_value = "10000,1000000,10000000")]
    queued: Vec<u32>,
    /// Finished jobs in the archive, beside as many queued ones as the smallest figure.
    #[arg(long, default_value_t = 10_000_000)]
    archived: u32,
    /// Picks and completions of each round and size.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    operations: u32,
    /// How often each is measured, in turn.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Jobs that go through the table, in ten batches, each archived when it is proven; 0 leaves that out.
    #[arg(long, default_value_t = 1_000_000)]
    through: u32,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Serialize)]
struct Figure {
    queued: u32,
    archived: u32,
    pick_ms: Quantiles,
    complete_ms: Quantiles,
    /// The medians of the rounds' p50s, to those of the smallest size in the same round.
    pick_ratio: f64,
    complete_ratio: f64,
}

/// The table after one more batch went through it.
#[derive(Debug, Serialize)]
struct Bloat {
    jobs_so_far: u32,
    table_bytes: i64,
    index_bytes: i64,
    jobs_per_second: f64,
}

#[derive(Debug, Serialize)]
struct Figures {
    sizes: Vec<Figure>,
    bloat: Vec<Bloat>,
}

/// A database of one size.
struct Size {
    queued: u32,
    archived: u32,
    store: JobStore,
    context: WorkerContext,
    picks: Vec<Vec<f64>>,
    completions: Vec<Vec<f64>>,
}

pub(crate) async fn run(args: GrowthArgs) -> anyhow::Result<()> {
    let server = Server::open(&args.server, &[]).await?;
    let figures = measure(&args, &server).await;
    server.close().await?;
    let figures = figures?;
    let mut lines = String::new();
    for Figure { queued, archived, pick_ms, complete_ms, pick_ratio, complete_ratio } in &figures.sizes {
        let _ = writeln!(
            lines,
            "{queued:9} queued, {archived:9} archived: pick p50 {:.3} ms, p99 {:.3}, {pick_ratio:.2} of the smallest; \
             complete p50 {:.3} ms, p99 {:.3}, {complete_ratio:.2}",
            pick_ms.p50, pick_ms.p99, complete_ms.p50, complete_ms.p99
        );
    }
    for Bloat { jobs_so_far, table_bytes, index_bytes, jobs_per_second } in &figures.bloat {
        let megabytes = |bytes: &i64| *bytes as f64 / f64::from(1 << 20);
        let _ = writeln!(
            lines,
            "{jobs_so_far:9} jobs went through: the table has {:.0} MiB, its indexes {:.0} MiB; {jobs_per_second:.0} jobs/s",
            megabytes(table_bytes),
            megabytes(index_bytes)
        );
    }
    print(args.server.json, &figures, &lines)
}

async fn measure(args: &GrowthArgs, server: &Server) -> anyhow::Result<Figures> {
    let smallest = *args.queued.first().context("--queued names no size")?;
    let mut sizes = Vec::new();
    let plain = args.queued.iter().map(|queued| (*queued, 0));
    for (queued, archived) in plain.chain((args.archived > 0).then_some((smallest, args.archived))) {
        sizes.push(fill(server, queued, archived).await?);
    }
    for round in 1..=args.rounds {
        for size in &mut sizes {
            size.measure(args.operations).await?;
        }
        tracing::info!("round {round} of {} is measured", args.rounds);
    }
    let p50s = |rounds: &[Vec<f64>]| -> Vec<f64> {
        rounds.iter().map(|round| Quantiles::of(round.iter().copied()).p50).collect()
    };
    let first = sizes.first().map(|size| (p50s(&size.picks), p50s(&size.completions)));
    let (picks, completions) = first.unwrap_or_default();
    let ratio = |ours: &[Vec<f64>], theirs: &[f64]| {
        median(&p50s(ours).iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect::<Vec<_>>())
    };
    let figures = sizes
        .iter()
        .map(|size| Figure {
            queued: size.queued,
            archived: size.archived,
            pick_ms: Quantiles::of(size.picks.iter().flatten().copied()),
            complete_ms: Quantiles::of(size.completions.iter().flatten().copied()),
            pick_ratio: ratio(&size.picks, &picks),
            complete_ratio: ratio(&size.completions, &completions),
        })
        .collect();
    for size in &sizes {
        size.store.close().await;
    }
    let bloat = if args.through > 0 { go_through(server, args.through).await? } else { Vec::new() };
    Ok(Figures { sizes: figures, bloat })
}

async fn fill(server: &Server, queued: u32, archived: u32) -> anyhow::Result<Size> {
    tracing::info!(queued, archived, "filling a database");
    let (_, store) = noop_workers::fresh_store(server).await?;
    if archived > 0 {
        store.add_ballast(noop_workers::VERSION, archived.into(), Ballast::Archived).await?;
    }
    store.add_ballast(noop_workers::VERSION, queued.into(), Ballast::Queued).await?;
    store.settle().await?;
    let context = noop_workers::register(&store, 1, LEASE_DURATION).await?;
    let mut size = Size { queued, archived, store, context, picks: Vec::new(), completions: Vec::new() };
    size.measure(u32::try_from(WARM_UP)?).await?;
    size.picks.clear();
    size.completions.clear();
    Ok(size)
}

impl Size {
    async fn measure(&mut self, operations: u32) -> anyhow::Result<()> {
        let (mut picks, mut completions) = (Vec::new(), Vec::new());
        for _ in 0..operations {
            let begun = Instant::now();
            let jobs = pick(&self.store, &self.context, 1).await?;
            picks.push(begun.elapsed().as_secs_f64() * 1e3);
            let begun = Instant::now();
            self.store.complete(&jobs[0], Some(&noop_workers::nothing())).await?;
            completions.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        self.picks.push(picks);
        self.completions.push(completions);
        Ok(())
    }
}

async fn pick(store: &JobStore, context: &WorkerContext, want: usize) -> anyhow::Result<Vec<LeasedJob>> {
    let jobs = store.pick(&noop_workers::filter(Stage::CircuitProof), want, context.keeper.worker()).await?;
    ensure!(!jobs.is_empty(), "the queue ran dry: ask for fewer operations");
    Ok(jobs)
}

/// Ten batches, one after the other: queued, picked, completed, archived.
async fn go_through(server: &Server, jobs: u32) -> anyhow::Result<Vec<Bloat>> {
    let (_, store) = noop_workers::fresh_store(server).await?;
    let context = noop_workers::register(&store, 1, LEASE_DURATION).await?;
    let of_a_batch = usize::try_from(jobs.div_ceil(10))?;
    let mut bloat = Vec::new();
    let mut done = 0;
    for number in 1..=10 {
        let batch = OpenBatch::insert(&store, &context, number).await?;
        for first in (0..of_a_batch).step_by(QUEUED_AT_ONCE) {
            batch.queue(first..(first + QUEUED_AT_ONCE).min(of_a_batch), None).await?;
        }
        batch.close().await?;
        let begun = Instant::now();
        let mut left = of_a_batch;
        while left > 0 {
            let jobs = pick(&store, &context, AT_ONCE).await?;
            left -= jobs.len();
            let output = noop_workers::nothing();
            let completions = jobs.iter().map(|job| store.complete(job, Some(&output)));
            for completed in futures::future::join_all(completions).await {
                completed?;
            }
        }
        let took = begun.elapsed();
        let by = context.keeper.worker();
        let last = store.pick(&noop_workers::filter(Stage::Compression), 1, by).await?;
        store
            .complete(last.first().context("the batch ends with it")?, Some(&noop_workers::nothing()))
            .await?;
        store.archive_batch(Duration::ZERO).await?.context("the batch is proven")?;
        done += u32::try_from(of_a_batch)?;
        let (table_bytes, index_bytes) = store.hot_table_bytes().await?;
        let jobs_per_second = of_a_batch as f64 / took.as_secs_f64();
        bloat.push(Bloat { jobs_so_far: done, table_bytes, index_bytes, jobs_per_second });
        tracing::info!(jobs = done, "went through");
    }
    store.close().await;
    Ok(bloat)
}
