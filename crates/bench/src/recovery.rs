//! From the end of a worker's process to the start of its job elsewhere, and what watching costs the server.

use crate::noop_workers::{self, LEASE_DURATION, NoopWorkers, OpenBatch, Worker};
use crate::server::{Server, ServerArgs, ServerLoad};
use crate::{Quantiles, print};
use anyhow::Context;
use artifact_store::ArtifactStore;
use clap::Args;
use job_monitor::MonitorConfig;
use job_store::leases::keeper::LeaseKeeper;
use job_store::leases::workers::NewWorker;
use job_store::{DatabaseUrl, JobStore};
use proving_model::Stage;
use rustix::process::Signal;
use serde::Serialize;
use std::{
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

/// The watch looks for new workers twice a second.
const WATCHED_AFTER: Duration = Duration::from_millis(1_200);
/// Between two looks of the rescue duty for expired leases.
const RESCUE_INTERVAL: Duration = Duration::from_millis(100);
/// How long the server's idle load is measured.
const IDLE: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub(crate) struct RecoveryArgs {
    /// Worker processes killed, one after the other.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    kills: u32,
    /// Worker processes frozen, and as many cut off.
    #[arg(long, default_value_t = 3)]
    freezes: u32,
    /// The lease of those that are frozen or cut off, milliseconds.
    #[arg(long, default_value_t = 2_000, value_parser = cli_support::milliseconds(100))]
    lease_ms: u64,
    /// Registered workers whose watch is measured; more than one figure with commas.
    #[arg(long, value_delimiter = ',', default_value = "10,100,1000")]
    watched: Vec<u32>,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Serialize)]
struct WatchCost {
    workers: u32,
    /// Memory of the server's processes that only they have, for the workers' connections and for the watch's.
    workers_mib: f64,
    watch_mib: f64,
    /// CPU time of the server in a second of rest, without the watch and with it, milliseconds.
    cpu_ms_without: f64,
    cpu_ms_with: f64,
}

#[derive(Debug, Serialize)]
struct Figures {
    /// `kill -9` to the job's start elsewhere.
    kill_ms: Quantiles,
    lease_ms: u64,
    /// SIGSTOP to the job's start elsewhere. The lease ran since the last heartbeat, at most a quarter of it before.
    freeze_ms: Option<Quantiles>,
    /// From the moment on which no byte passes between worker and server, with the connections open.
    cut_ms: Option<Quantiles>,
    watch: Vec<WatchCost>,
}

pub(crate) async fn run(args: RecoveryArgs) -> anyhow::Result<()> {
    // A worker has a connection; the server's default is a hundred.
    let most = args.watched.iter().max().copied().unwrap_or(0) + 100;
    let server = Server::open(&args.server, &[("max_connections", &most.to_string())]).await?;
    let figures = measure(&args, &server).await;
    server.close().await?;
    let figures = figures?;
    let mut lines = String::new();
    let mut line = |what: &str, q: &Quantiles| {
        let _ = writeln!(
            lines,
            "{what}, ms: p50 {:.1}, p99 {:.1}, least {:.1}, most {:.1} ({} times)",
            q.p50, q.p99, q.least, q.most, q.samples
        );
    };
    line("kill -9 to start elsewhere", &figures.kill_ms);
    if let Some(freeze) = &figures.freeze_ms {
        line(&format!("frozen to start elsewhere, lease {} ms", figures.lease_ms), freeze);
    }
    if let Some(cut) = &figures.cut_ms {
        line(&format!("cut off to start elsewhere, lease {} ms", figures.lease_ms), cut);
    }
    for WatchCost { workers, workers_mib, watch_mib, cpu_ms_without, cpu_ms_with } in &figures.watch {
        let _ = writeln!(
            lines,
            "{workers} workers: their connections take {workers_mib:.0} MiB of the server, the watch {watch_mib:.0} MiB more; \
             at rest the server works {cpu_ms_without:.1} ms a second without it, {cpu_ms_with:.1} ms with it"
        );
    }
    print(args.server.json, &figures, &lines)
}

async fn measure(args: &RecoveryArgs, server: &Server) -> anyhow::Result<Figures> {
    let mut watch = Vec::new();
    for workers in &args.watched {
        if let Some(cost) = watch_cost(server, *workers).await? {
            watch.push(cost);
        }
    }
    let (url, store) = noop_workers::fresh_store(server).await?;
    let shutdown = CancellationToken::new();
    let config = MonitorConfig { rescue_interval: RESCUE_INTERVAL, ..MonitorConfig::DEFAULT };
    let monitor = tokio::spawn(job_monitor::run(
        store.clone(),
        ArtifactStore::open("memory:")?,
        config,
        shutdown.clone(),
    ));
    let holder = noop_workers::register(&store, 1, LEASE_DURATION).await?;
    let batch = OpenBatch::insert(&store, &holder, 1).await?;
    let (mut kills, mut freezes, mut cuts) = (Vec::new(), Vec::new(), Vec::new());
    let mut job = 0;
    let kill = |worker: &Worker| worker.signal(Signal::KILL);
    for _ in 0..args.kills {
        kills.push(recover(&store, &batch, job, &url, LEASE_DURATION, &kill).await?);
        job += 1;
    }
    let lease = Duration::from_millis(args.lease_ms);
    let freeze = |worker: &Worker| worker.signal(Signal::STOP);
    for _ in 0..args.freezes {
        freezes.push(recover(&store, &batch, job, &url, lease, &freeze).await?);
        job += 1;
    }
    if let Some(socket) = server.socket() {
        for _ in 0..args.freezes {
            let proxy = Proxy::start(&socket).await?;
            let through = url.with_host_and_port("127.0.0.1", proxy.port)?;
            let cut = |_: &Worker| {
                proxy.is_cut.store(true, Ordering::Release);
                Ok(())
            };
            cuts.push(recover(&store, &batch, job, &through, lease, &cut).await?);
            job += 1;
        }
    }
    shutdown.cancel();
    monitor.await?;
    store.close().await;
    Ok(Figures {
        kill_ms: Quantiles::of(kills),
        lease_ms: args.lease_ms,
        freeze_ms: (!freezes.is_empty()).then(|| Quantiles::of(freezes)),
        cut_ms: (!cuts.is_empty()).then(|| Quantiles::of(cuts)),
        watch,
    })
}

/// A worker process takes a job; it ends, in whatever way; the job starts here. Returns the milliseconds between the two.
async fn recover(
    store: &JobStore,
    batch: &OpenBatch,
    job: usize,
    url: &DatabaseUrl,
    lease: Duration,
    end: &(dyn Fn(&Worker) -> anyhow::Result<()> + Sync),
) -> anyhow::Result<f64> {
    let arguments: Vec<String> =
        ["--workers=1", "--prefetch=0", "--work-ms=3600000"].map(str::to_owned).into();
    let arguments = [arguments, vec![format!("--lease-ms={}", lease.as_millis())]].concat();
    let url = url.clone();
    let mut worker = tokio::task::spawn_blocking(move || Worker::start(&url, &arguments)).await??;
    worker.begin()?;
    batch.queue(job..job + 1, None).await?;
    let (worker, said) = tokio::task::spawn_blocking(move || {
        let said = worker.hear();
        (worker, said)
    })
    .await?;
    let taken = said?.strip_prefix("started ").context("a worker says what it starts")?.to_owned();
    // From now on this process waits for the same job.
    let (started, mut starts) = mpsc::unbounded_channel();
    let noop = NoopWorkers { started: Some(started), ..NoopWorkers::idle() };
    let shutdown = CancellationToken::new();
    let context = noop_workers::register(store, 1, LEASE_DURATION).await?;
    let running = {
        let (noop, shutdown) = (noop.clone(), shutdown.clone());
        tokio::spawn(async move {
            noop.run(context, noop_workers::filter(Stage::CircuitProof), 1, 0, shutdown).await
        })
    };
    tokio::time::sleep(WATCHED_AFTER).await;
    let ended = Instant::now();
    end(&worker)?;
    let (job, at) = starts.recv().await.context("the workers run")?;
    anyhow::ensure!(job.id.to_string() == taken, "another job than the lost one was started");
    noop.until_done(1).await;
    shutdown.cancel();
    running.await?;
    Ok(at.duration_since(ended).as_secs_f64() * 1_000.0)
}

/// Passes bytes between a port and the server's socket until it is cut: from then on none passes, and nobody is told.
struct Proxy {
    port: u16,
    is_cut: Arc<AtomicBool>,
}

impl Proxy {
    async fn start(socket: &std::path::Path) -> anyhow::Result<Self> {
        let listener =
            TcpListener::bind(("127.0.0.1", 0)).await.context("cannot open a port for the proxy")?;
        let port = listener.local_addr()?.port();
        let is_cut = Arc::new(AtomicBool::new(false));
        let (socket, cut) = (socket.to_owned(), is_cut.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if let Ok(server) = UnixStream::connect(&socket).await {
                    tokio::spawn(Self::pass(client, server, cut.clone()));
                }
            }
        });
        Ok(Self { port, is_cut })
    }

    async fn pass(client: TcpStream, server: UnixStream, is_cut: Arc<AtomicBool>) {
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let up = Self::copy(&mut from_client, &mut to_server, &is_cut);
        let down = Self::copy(&mut from_server, &mut to_client, &is_cut);
        tokio::join!(up, down);
    }

    async fn copy(
        from: &mut (impl AsyncReadExt + Unpin),
        to: &mut (impl AsyncWriteExt + Unpin),
        is_cut: &AtomicBool,
    ) {
        let mut bytes = [0; 8_192];
        while let Ok(count) = from.read(&mut bytes).await {
            if is_cut.load(Ordering::Acquire) {
                std::future::pending::<()>().await;
            }
            if count == 0 || to.write_all(&bytes[..count]).await.is_err() {
                return;
            }
        }
    }
}

/// What so many workers cost the server, without a watch and with one. `None` where the server's processes cannot be seen.
async fn watch_cost(server: &Server, workers: u32) -> anyhow::Result<Option<WatchCost>> {
    let Some(postmaster) = server.postmaster() else { return Ok(None) };
    let (_, store) = noop_workers::fresh_store(server).await?;
    let load = || ServerLoad::of(postmaster);
    let before = load();
    let me = NewWorker {
        component: "bench".to_owned(),
        host: "here".to_owned(),
        capacity: 1,
        version: noop_workers::VERSION,
        memory_budget_bytes: None,
    };
    let mut keepers = Vec::new();
    for _ in 0..workers {
        keepers.push(LeaseKeeper::start(&store, &me, LEASE_DURATION / 4, LEASE_DURATION).await?);
    }
    let with_workers = load();
    let cpu_without = idle_cpu(postmaster).await;
    let shutdown = CancellationToken::new();
    let config = MonitorConfig {
        rescue_interval: Duration::from_secs(3_600),
        retry_interval: Duration::from_secs(3_600),
        ..MonitorConfig::DEFAULT
    };
    let monitor = tokio::spawn(job_monitor::run(
        store.clone(),
        ArtifactStore::open("memory:")?,
        config,
        shutdown.clone(),
    ));
    while load().processes <= with_workers.processes {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // The watch has its connection; what follows is rest.
    tokio::time::sleep(WATCHED_AFTER).await;
    let with_watch = load();
    let cpu_with = idle_cpu(postmaster).await;
    shutdown.cancel();
    monitor.await?;
    drop(keepers);
    store.close().await;
    let mib = |more: &ServerLoad, less: &ServerLoad| (more.private_kib - less.private_kib) / 1_024.0;
    Ok(Some(WatchCost {
        workers,
        workers_mib: mib(&with_workers, &before),
        watch_mib: mib(&with_watch, &with_workers),
        cpu_ms_without: cpu_without,
        cpu_ms_with: cpu_with,
    }))
}

/// CPU milliseconds of the server in a second.
async fn idle_cpu(postmaster: u32) -> f64 {
    let before = ServerLoad::of(postmaster);
    tokio::time::sleep(IDLE).await;
    (ServerLoad::of(postmaster).cpu_ms - before.cpu_ms) / IDLE.as_secs_f64()
}
