//! From the completion of a job's last predecessor to the job's start.

use crate::noop_workers::{self, LEASE_DURATION, NoopWorkers, OpenBatch};
use crate::server::{Server, ServerArgs};
use crate::{Quantiles, print};
use anyhow::Context;
use clap::Args;
use job_store::JobStore;
use proving_model::Stage;
use serde::Serialize;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Between two, so that each finds a queue at rest.
const PAUSE: Duration = Duration::from_millis(2);

#[derive(Debug, Args)]
pub(crate) struct HandoverArgs {
    /// Parents, each measured once.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    jobs: u32,
    /// Children of each.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    children: u32,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Serialize)]
struct Figures {
    children: u32,
    /// The child completes and the parent starts in two processes' stores, milliseconds.
    other_process_ms: Quantiles,
    /// Both in one.
    same_process_ms: Quantiles,
}

pub(crate) async fn run(args: HandoverArgs) -> anyhow::Result<()> {
    let server = Server::open(&args.server, &[]).await?;
    let figures = measure(&args, &server).await;
    server.close().await?;
    let figures = figures?;
    let lines = format!(
        "last of {} children completes to parent starts, ms: in another process p50 {:.2} p99 {:.2}, in the same p50 {:.2} p99 {:.2}",
        figures.children,
        figures.other_process_ms.p50,
        figures.other_process_ms.p99,
        figures.same_process_ms.p50,
        figures.same_process_ms.p99
    );
    print(args.server.json, &figures, &lines)
}

async fn measure(args: &HandoverArgs, server: &Server) -> anyhow::Result<Figures> {
    Ok(Figures {
        children: args.children,
        other_process_ms: times(args, server, true).await?,
        same_process_ms: times(args, server, false).await?,
    })
}

/// `is_apart`: the children's worker has a store of its own, as another process would.
async fn times(args: &HandoverArgs, server: &Server, is_apart: bool) -> anyhow::Result<Quantiles> {
    let (url, store) = noop_workers::fresh_store(server).await?;
    let parents = noop_workers::register(&store, 1, LEASE_DURATION).await?;
    let theirs = if is_apart { JobStore::connect(&url).await? } else { store.clone() };
    let children = noop_workers::register(&theirs, 1, LEASE_DURATION).await?;
    let (started, mut starts) = mpsc::unbounded_channel();
    let noop = NoopWorkers { started: Some(started), ..NoopWorkers::idle() };
    let shutdown = CancellationToken::new();
    let batch = OpenBatch::insert(&store, &children, 1).await?;
    let running = {
        let (noop, shutdown) = (noop.clone(), shutdown.clone());
        // Parents are witness generations, children circuit proofs.
        tokio::spawn(async move {
            noop.run(parents, noop_workers::filter(Stage::WitnessGeneration), 1, 1, shutdown).await
        })
    };
    let fan_in = usize::try_from(args.children)?;
    let mut times = Vec::new();
    for parent in 0..usize::try_from(args.jobs)? {
        batch.queue_group(parent, fan_in).await?;
        let picked =
            theirs.pick(&noop_workers::filter(Stage::CircuitProof), fan_in, children.keeper.worker()).await?;
        anyhow::ensure!(picked.len() == fan_in, "the children were just queued");
        let (last, others) = picked.split_last().context("at least one")?;
        for job in others {
            theirs.complete(job, Some(&noop_workers::nothing())).await?;
        }
        let begun = Instant::now();
        theirs.complete(last, Some(&noop_workers::nothing())).await?;
        let (_, at) = starts.recv().await.context("the workers run")?;
        times.push(at.duration_since(begun).as_secs_f64() * 1_000.0);
        tokio::time::sleep(PAUSE).await;
    }
    shutdown.cancel();
    running.await?;
    if is_apart {
        theirs.close().await;
    }
    store.close().await;
    Ok(Quantiles::of(times))
}
