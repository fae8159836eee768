//! A whole component on a durable queue: squares numbers that lie in PostgreSQL, under leases, with retries.
//!
//! `cargo run -p job-store --example on_postgresql`
//!
//! Kill it while it runs, or let a job panic as number 13 does at its first attempt: nothing is lost.

use async_trait::async_trait;
use embedded_postgres::{EmbeddedPostgres, Options};
use job_runner::{
    ExecuteError, Executor, JobContext, JobRunner, JobSaver, Lease, MemoryBudget, Outcome, SaveError,
};
use job_store::batches::add_jobs::{Extension, NewJob};
use job_store::batches::insert::NewBatch;
use job_store::database::listen::WakeListener;
use job_store::leases::keeper::LeaseKeeper;
use job_store::leases::pick::PickFilter;
use job_store::leases::workers::NewWorker;
use job_store::model::rows::LeasedJob;
use job_store::runner::context::{LoadError, WorkerContext};
use job_store::runner::picker::{Loader, QueuePicker};
use job_store::{DatabaseUrl, JobStore};
use proving_model::{
    AggregationRound, ArtifactRef, BatchId, CircuitId, JobKey, MemoryClass, ProtocolVersion, Stage,
};
use std::{error::Error, os::unix::fs::PermissionsExt, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

const VERSION: ProtocolVersion = ProtocolVersion { minor: 0, patch: 1 };
const BATCH: BatchId = BatchId { chain_id: 0, number: 1 };
const NUMBERS: i32 = 20;

/// The input of a job. A real component reads its artifact here.
struct Number;

#[async_trait]
impl Loader for Number {
    type Input = i64;

    async fn load(&self, job: &LeasedJob) -> Result<i64, LoadError> {
        Ok(i64::from(job.key.sequence))
    }
}

struct Square;

impl Executor for Square {
    type Input = i64;
    type Output = i64;
    type Metadata = LeasedJob;

    fn execute(&self, number: i64, ctx: &JobContext<'_, LeasedJob>) -> Result<i64, ExecuteError> {
        assert!(number != 13 || ctx.metadata().attempt > 1, "an unlucky number");
        Ok(number * number)
    }
}

/// Completes jobs. A real component writes its artifact first.
struct Complete {
    store: JobStore,
    worker: WorkerContext,
    last: CancellationToken,
}

#[async_trait]
impl JobSaver for Complete {
    type Executor = Square;

    async fn save(&self, job: &LeasedJob, _: &Lease, outcome: &mut Outcome<i64>) -> Result<(), SaveError> {
        match outcome {
            Outcome::Failure(error) => self.worker.fail(job, error).await,
            Outcome::Success(square) => {
                let key = format!("square-{}", square.unwrap_or_default());
                let output = ArtifactRef { key, checksum: [0; 32], size_bytes: 0 };
                self.worker.complete(job, Some(&output)).await?;
                let report = self.store.demand().await;
                if report.is_ok_and(|left| left.is_empty()) {
                    self.last.cancel();
                }
                Ok(())
            }
        }
    }

    async fn release(&self, job: &LeasedJob) {
        self.worker.release(job).await;
    }
}

/// Puts a batch's numbers into the queue, as a witness generator does with circuits: under the lease of its own job.
async fn insert_numbers(store: &JobStore, worker: &WorkerContext) -> Result<(), Box<dyn Error>> {
    store.insert_protocol_version(VERSION, "squares", "no keys").await?;
    let input = ArtifactRef { key: "numbers".to_owned(), checksum: [0; 32], size_bytes: 0 };
    store.insert_batch(&NewBatch::new(BATCH, VERSION, input.clone())).await?;
    let generators = store.pick(&filter(Stage::WitnessGeneration), 1, worker.keeper.worker()).await?;
    for generator in generators {
        let jobs = (1..=NUMBERS).map(|sequence| NewJob {
            key: JobKey {
                round: AggregationRound::BasicCircuits,
                stage: Stage::CircuitProof,
                circuit_id: CircuitId(1),
                depth: 0,
                sequence,
            },
            memory_class: MemoryClass::Light,
            expected_cost_ms: 0,
            peak_memory_bytes: 0,
            input: Some(input.clone()),
        });
        store.extend_batch(&generator, &Extension { jobs: jobs.collect(), links: Vec::new() }).await?;
        store.complete(&generator, None).await?;
    }
    Ok(())
}

fn filter(stage: Stage) -> PickFilter {
    PickFilter {
        stage,
        rounds: AggregationRound::ALL.to_vec(),
        memory_classes: vec![MemoryClass::Light],
        version: VERSION,
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().init();
    // A folder that the unprivileged user may pass through whom PostgreSQL runs as.
    let folder = tempfile::tempdir()?;
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o711))?;
    let server = EmbeddedPostgres::start(folder.path(), &Options::default())?;
    let url = DatabaseUrl::new(&server.url("postgres"))?;
    let store = JobStore::connect(&url).await?;
    store.migrate().await?;

    let me = NewWorker {
        component: "square".to_owned(),
        host: "here".to_owned(),
        capacity: 4,
        version: VERSION,
        memory_budget_bytes: None,
    };
    let worker = WorkerContext {
        wake: WakeListener::start(&store).await?,
        keeper: LeaseKeeper::start(&store, &me, Duration::from_secs(5), Duration::from_secs(20)).await?,
        memory: MemoryBudget::new(None),
        store: Arc::new(store.clone()),
        poll_interval: Duration::from_secs(1),
        job_timeout: Duration::from_secs(60),
        circuit_names: None,
    };
    insert_numbers(&store, &worker).await?;
    let last = CancellationToken::new();
    let report = JobRunner::builder("square")
        .picker(QueuePicker::new(worker.clone(), filter(Stage::CircuitProof), Number))
        .executor(Square)
        .saver(Complete { store: store.clone(), worker, last: last.clone() })
        .workers(4)
        .shutdown(last)
        .build()
        .run()
        .await;
    tracing::info!("{report:?}");
    store.close().await;
    Ok(())
}
