//! All of the pipeline on one machine: a private PostgreSQL, a folder for artifacts, every component in this process.

use crate::endpoints::Phase;
use crate::plan::Plan;
use crate::progress;
use crate::run::{Backends, load_keys_for, run_plan};
use anyhow::Context;
use artifact_store::{ArtifactStore, witness_input_key};
use cli_support::BadInput;
use embedded_postgres::{EmbeddedPostgres, Options, PostgresError, Programs};
use job_runner::{RunnerReport, Shutdown};
use job_store::batches::insert::NewBatch;
use job_store::operator::mode::Mode;
use job_store::reports::batch::BatchReport;
use job_store::{DatabaseUrl, JobStore};
use private_folder::{FolderError, PrivateFolder};
use proof_system::ProofSystem;
use proving_model::{ArtifactKind, BatchId};
use rustix::time::{ClockId, clock_gettime};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// Jobs that still run when the user interrupts are handed back after this time: they are made again at the next run.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// The default data folder: PostgreSQL does not run as root, and others cannot enter a home.
pub fn data_folder(given: Option<PathBuf>) -> PathBuf {
    let home = std::env::var_os("HOME").filter(|_| !rustix::process::geteuid().is_root());
    given.unwrap_or_else(|| match home {
        Some(home) => PathBuf::from(home).join(".local/share/roundhouse"),
        None => PathBuf::from("/var/lib/roundhouse"),
    })
}

/// A folder of ours for work with a private PostgreSQL in it, created where it is not yet.
pub fn open_work_folder(path: &Path) -> anyhow::Result<PrivateFolder> {
    embedded_postgres::check_passage(path).map_err(cluster_error)?;
    PrivateFolder::open(path, embedded_postgres::access_above()).map_err(folder_error)
}

/// An error of a folder; one that is not ours is a mistake of the call.
pub fn folder_error(error: FolderError) -> anyhow::Error {
    match error {
        FolderError::NotOurs { .. } => BadInput(error.to_string()).into(),
        FolderError::Io { .. } => error.into(),
    }
}

/// An error of a private PostgreSQL; a folder that cannot have one is a mistake of the call.
pub fn cluster_error(error: PostgresError) -> anyhow::Error {
    if error.is_wrong_folder() { BadInput(error.to_string()).into() } else { error.into() }
}

/// The folder of the work on one input, in the data folder: two runs of different inputs share nothing, and the same input again resumes.
pub fn work_folder(data: &Path, system: &dyn ProofSystem, batch: BatchId, payload: &[u8]) -> PathBuf {
    let mut hasher = blake3::Hasher::new();
    // Other keys prove something else: their work is not to be gone on with.
    hasher.update(system.name().as_bytes()).update(system.verification_keys_digest().as_bytes());
    let digest = hasher.update(payload).finalize().to_hex();
    data.join(format!("{}-{}-{}", batch.chain_id, batch.number, &digest.as_str()[..16]))
}

/// A private database and artifact folder that belong to this process while it lives.
pub struct LocalStack {
    folder: PrivateFolder,
    server: EmbeddedPostgres,
    backends: Backends,
    plan: Plan,
}

/// What a batch took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spent {
    /// From the start of the components to the batch's end.
    pub wall: Duration,
    /// CPU time of this process; PostgreSQL's own is not in it.
    pub cpu: Duration,
    /// CPU time of synthesis, proving and compression.
    pub proving: Duration,
}

/// A batch that was proven here.
pub struct Proven {
    /// The batch and its jobs.
    pub report: BatchReport,
    /// The final proof, verified.
    pub final_proof: Vec<u8>,
    /// What it took.
    pub spent: Spent,
}

impl LocalStack {
    /// Starts, or starts again, the stack whose work lies in the folder, with these programs of PostgreSQL; it works by this plan.
    pub async fn start(
        folder: &Path,
        programs: Programs,
        system: Arc<dyn ProofSystem>,
        plan: Plan,
    ) -> anyhow::Result<Self> {
        let folder = open_work_folder(folder)?;
        let work = folder.path().to_owned();
        let options = Options { programs: Some(programs), ..Options::default() };
        let starting = tokio::task::spawn_blocking(move || EmbeddedPostgres::start(&work, &options));
        // The keys are loaded while the server sets up its folder: each takes seconds.
        let (server, keys) = tokio::join!(starting, load_keys_for(&plan, &system));
        let server = server?.map_err(cluster_error)?;
        keys?;
        let url = DatabaseUrl::new(&server.url("postgres"))?;
        let store = JobStore::connect(&url).await?;
        store.migrate().await?;
        let artifacts = ArtifactStore::open(&folder.path().join("artifacts").to_string_lossy())?;
        let digest = system.verification_keys_digest();
        store.insert_protocol_version(system.protocol_version(), system.name(), &digest).await?;
        Ok(Self { folder, server, backends: Backends { store, artifacts, system }, plan })
    }

    /// Proves a batch, or goes on with it, and returns its final proof; the components run from here to there.
    pub async fn prove(&self, batch: BatchId, payload: &[u8], shutdown: &Shutdown) -> anyhow::Result<Proven> {
        let Backends { store, artifacts, system, .. } = &self.backends;
        let begun = (Instant::now(), clock(ClockId::ProcessCPUTime), pool_cpu_time());
        let artifact =
            artifacts.put(ArtifactKind::WitnessInput, witness_input_key(batch, payload), payload).await?;
        let new = NewBatch::new(batch, system.protocol_version(), artifact);
        store.insert_batch(&new).await?;
        store.requeue_failed(batch, Mode::Apply).await?;

        let done = shutdown.child();
        let components = async {
            let result =
                run_plan(&self.backends, &self.plan, &watch::Sender::new(Phase::Starting), done.clone())
                    .await;
            // Components that ended by themselves will not end the batch: whoever watches it must hear of it.
            done.drain();
            result
        };
        let watching = async {
            let report = progress::watch(store, batch, done.picking_ends()).await;
            // When the machine's end is announced, what runs goes on, and the components end by themselves.
            if !shutdown.picks_no_more() {
                done.drain();
            }
            report.map(|report| (report, begun.0.elapsed()))
        };
        let (reports, watched) = tokio::join!(components, watching);
        let (reports, (report, wall)) = (reports?, watched?);
        let artifact =
            report.batch.final_proof.as_ref().context("a successful batch names its final proof")?;
        let final_proof = artifacts.get(ArtifactKind::FinalProof, artifact).await?;
        let cpu = clock(ClockId::ProcessCPUTime).saturating_sub(begun.1);
        let pool = pool_cpu_time().saturating_sub(begun.2);
        let spent = Spent { wall, cpu, proving: pool + executors_cpu_time(&reports) };
        Ok(Proven { report, final_proof, spent })
    }

    /// Stops the server; the work stays for the next start.
    pub async fn stop(self) -> anyhow::Result<PrivateFolder> {
        self.backends.store.close().await;
        let server = self.server;
        tokio::task::spawn_blocking(move || server.stop()).await?;
        Ok(self.folder)
    }
}

fn clock(id: ClockId) -> Duration {
    let time = clock_gettime(id);
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

/// CPU time of the threads that the proof system shares its work among.
fn pool_cpu_time() -> Duration {
    rayon::broadcast(|_| clock(ClockId::ThreadCPUTime)).into_iter().sum()
}

/// CPU time of the threads that synthesise, prove and compress.
fn executors_cpu_time(reports: &[RunnerReport]) -> Duration {
    let proving = reports.iter().filter(|report| report.name != "witness_generator");
    proving.map(|report| report.execute_cpu_time).sum()
}
