//! The baseline that benchmarks measure against: a table of three columns and plain statements, the least that PostgreSQL costs
//! a queue that leases, fences and keeps its rows. No product runs on it.
//!
//! Claims are committed asynchronously, since a claim that a server crash forgets costs a re-run; inserts and completions wait
//! for the disk.

use crate::database::connections::{Connections, Durability, session};
use crate::database::session::Session;
use crate::database::url::DatabaseUrl;
use crate::model::error::StoreError;
use sqlx::PgConnection;
use std::time::{Duration, Instant};
use tokio::{sync::mpsc, task::JoinSet};
use uuid::Uuid;

const CHANNEL: &str = "roundhouse_baseline";
/// Jobs that wait between a fetcher and the workers: two fetches, so that the workers never run dry.
const BUFFERED_FETCHES: usize = 2;

/// A claimed job: what a completion must show.
type Claim = (i64, Uuid);

/// The baseline's table on a database of its own.
#[derive(Debug, Clone)]
pub struct Baseline {
    durable: Connections,
    relaxed: Connections,
    listener: Session,
}

impl Baseline {
    /// Creates the table.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn prepare(url: &DatabaseUrl) -> Result<Self, StoreError> {
        let baseline = Self {
            durable: Connections::new(url, Durability::Durable, 4),
            relaxed: Connections::new(url, Durability::Relaxed, 4),
            listener: session(url, "wake-ups", Durability::Relaxed),
        };
        let schema = "CREATE SCHEMA IF NOT EXISTS roundhouse;
            DROP TABLE IF EXISTS baseline_jobs;
            CREATE TABLE baseline_jobs (
                id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, status smallint NOT NULL DEFAULT 0, token uuid);
            CREATE INDEX baseline_jobs_queued ON baseline_jobs (id) WHERE status = 0";
        baseline
            .durable
            .statement("baseline: prepare", async |connection: &mut PgConnection| {
                sqlx::raw_sql(schema).execute(connection).await
            })
            .await?;
        Ok(baseline)
    }

    /// Queues so many jobs, claims each by batches, works on none, completes each under its token. Returns the time from
    /// the first claim to the last completion.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn throughput(
        &self,
        jobs: usize,
        workers: usize,
        fetchers: usize,
        batch: usize,
    ) -> Result<Duration, StoreError> {
        self.durable
            .statement("baseline: insert", async |connection: &mut PgConnection| {
                sqlx::query("INSERT INTO baseline_jobs (status) SELECT 0 FROM generate_series(1, $1::int8)")
                    .bind(i64::try_from(jobs).unwrap_or(i64::MAX))
                    .execute(connection)
                    .await
            })
            .await?;
        self.durable
            .statement("baseline: analyze", async |connection: &mut PgConnection| {
                sqlx::raw_sql("ANALYZE baseline_jobs; CHECKPOINT").execute(connection).await
            })
            .await?;
        let begun = Instant::now();
        let (fetched, work) = async_channel(BUFFERED_FETCHES * batch);
        let (done, mut finished) = mpsc::channel::<Claim>(batch * 4);
        let mut tasks: JoinSet<Result<(), StoreError>> = JoinSet::new();
        for _ in 0..fetchers.max(1) {
            let (baseline, fetched) = (self.clone(), fetched.clone());
            tasks.spawn(async move {
                loop {
                    let claims = baseline.claim(batch).await?;
                    if claims.is_empty() {
                        return Ok(());
                    }
                    for claim in claims {
                        if fetched.send(claim).await.is_err() {
                            return Ok(());
                        }
                    }
                }
            });
        }
        drop(fetched);
        for _ in 0..workers.max(1) {
            let (work, done) = (work.clone(), done.clone());
            tasks.spawn(async move {
                while let Some(claim) = work.lock().await.recv().await {
                    if done.send(claim).await.is_err() {
                        break;
                    }
                }
                Ok(())
            });
        }
        drop(done);
        let mut completed = 0;
        let mut claims = Vec::new();
        while finished.recv_many(&mut claims, batch * 4).await > 0 {
            completed += self.complete(&claims).await?;
            claims.clear();
        }
        while let Some(task) = tasks.join_next().await {
            task.map_err(|e| StoreError::Invalid(e.to_string()))??;
        }
        if completed != jobs {
            return Err(StoreError::Invalid(format!("the baseline completed {completed} jobs of {jobs}")));
        }
        Ok(begun.elapsed())
    }

    /// Inserts one job after the other and claims each when its notification comes. Returns the time of each, from before the
    /// insert to the claim in hand.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn dispatch(&self, rounds: usize) -> Result<Vec<Duration>, StoreError> {
        let mut listener = self.listener.listen(CHANNEL).await?;
        let (claimed, mut claims) = mpsc::channel(1);
        let baseline = self.clone();
        let worker = tokio::spawn(async move {
            for _ in 0..rounds {
                let mut mine = Vec::new();
                while mine.is_empty() {
                    listener.recv().await?;
                    mine = baseline.claim(1).await?;
                }
                let _ = claimed.send(Instant::now()).await;
                baseline.complete(&mine).await?;
            }
            Ok::<_, StoreError>(())
        });
        let mut times = Vec::new();
        for _ in 0..rounds {
            let begun = Instant::now();
            self.durable
                .statement("baseline: insert", async |connection: &mut PgConnection| {
                    sqlx::query("INSERT INTO baseline_jobs (status) VALUES (0)").execute(connection).await
                })
                .await?;
            self.relaxed
                .statement("baseline: notify", async |connection: &mut PgConnection| {
                    sqlx::query("SELECT pg_notify($1, '')").bind(CHANNEL).execute(connection).await
                })
                .await?;
            match claims.recv().await {
                Some(at) => times.push(at.duration_since(begun)),
                None => break,
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        worker.await.map_err(|e| StoreError::Invalid(e.to_string()))??;
        Ok(times)
    }

    async fn claim(&self, want: usize) -> Result<Vec<Claim>, StoreError> {
        self.relaxed
            .statement("baseline: claim", async |connection: &mut PgConnection| {
                sqlx::query_as(
                    "UPDATE baseline_jobs SET status = 1, token = gen_random_uuid() WHERE id = ANY(ARRAY(
                         SELECT id FROM baseline_jobs WHERE status = 0
                         ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED))
                     RETURNING id, token",
                )
                .bind(i64::try_from(want).unwrap_or(i64::MAX))
                .fetch_all(connection)
                .await
            })
            .await
    }

    async fn complete(&self, claims: &[Claim]) -> Result<usize, StoreError> {
        let (ids, tokens): (Vec<i64>, Vec<Uuid>) = claims.iter().copied().unzip();
        let done = self
            .durable
            .statement("baseline: complete", async |connection: &mut PgConnection| {
                sqlx::query(
                    "UPDATE baseline_jobs j SET status = 2, token = NULL
                     FROM UNNEST($1::int8[], $2::uuid[]) AS d (id, token)
                     WHERE j.id = d.id AND j.token = d.token AND j.status = 1",
                )
                .bind(ids)
                .bind(tokens)
                .execute(connection)
                .await
            })
            .await?;
        Ok(usize::try_from(done.rows_affected()).unwrap_or(usize::MAX))
    }

    /// Closes all connections.
    pub async fn close(&self) {
        self.durable.close().await;
        self.relaxed.close().await;
    }
}

/// A channel that many receive from.
fn async_channel<T>(
    capacity: usize,
) -> (mpsc::Sender<T>, std::sync::Arc<tokio::sync::Mutex<mpsc::Receiver<T>>>) {
    let (sender, receiver) = mpsc::channel(capacity.max(1));
    (sender, std::sync::Arc::new(tokio::sync::Mutex::new(receiver)))
}
