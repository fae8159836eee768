//! Keeping leases alive: one thread a process, with a runtime and a connection of its own, so that no load on the
//! workers' runtime starves it.
//!
//! The connection is also the process's sign of life. It holds a session-level advisory lock from before the first
//! pick on; when the process dies, however it does, the server drops the lock at once, and [`crate::DeathWatch`]
//! sees that. A process that hangs or is cut off keeps the lock, and loses its leases by their expiry.

use crate::connections::LIVELINESS;
use crate::metrics::{QueryTimer, STORE_METRICS};
use crate::wake::Waker;
use crate::workers::register;
use crate::{JobStore, LeasedJob, NewWorker, StoreError};
use job_runner::Lease;
use proving_model::Stage;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection};
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use uuid::Uuid;

/// The first half of the advisory locks' names; the second is the worker's number.
pub(crate) const ALIVE_LOCKS: i32 = 0x726f_756e;

/// The leases of this process. Clones share them; the thread ends when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct LeaseKeeper {
    held: Arc<Mutex<HashMap<LeaseName, Held>>>,
    _alive: Arc<mpsc::Sender<()>>,
    worker: Uuid,
    /// The place of the one suspect that this process has at a time.
    suspect_place: Arc<Semaphore>,
    waker: Waker,
}

/// A job and its token.
type LeaseName = (i64, Uuid);

#[derive(Debug, Clone)]
struct Held {
    lease: Lease,
    /// The progress that its row shows.
    told: f32,
    /// When the lease was last known to hold, by this process's clock; only its own passage of time counts.
    confirmed: Instant,
    suspect_place: Option<Arc<OwnedSemaphorePermit>>,
}

/// What the thread works with.
struct Heart {
    options: PgConnectOptions,
    connection: Option<PgConnection>,
    worker: Uuid,
    number: i32,
    interval: Duration,
    duration: Duration,
    held: Arc<Mutex<HashMap<LeaseName, Held>>>,
    /// Leases of this worker's that nobody in it knew of at the last beat.
    strays: HashSet<LeaseName>,
    waker: Waker,
}

impl LeaseKeeper {
    /// Registers this process as a worker, takes the lock that says that it lives, and starts the thread, which prolongs its
    /// leases by `duration` at every `interval`.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] when the interval is not well below the duration, or no thread can be started;
    /// [`StoreError::Database`].
    pub async fn start(
        store: &JobStore,
        worker: &NewWorker,
        interval: Duration,
        duration: Duration,
    ) -> Result<Self, StoreError> {
        if interval.is_zero() || interval * 2 > duration {
            return Err(StoreError::Invalid(format!(
                "the heartbeat interval ({interval:?}) must be above 0 and at most half of the lease ({duration:?}), \
                 or one late heartbeat loses every lease"
            )));
        }
        let failed =
            |e: std::io::Error| StoreError::Invalid(format!("cannot start the heartbeat thread: {e}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        // A heartbeat that a crash of the server forgets is followed by another.
        let relaxed = [("synchronous_commit", "off")];
        let options = store.url.options()?.disable_statement_logging().options(relaxed).options(LIVELINESS);
        let held: Arc<Mutex<HashMap<LeaseName, Held>>> = Arc::default();
        let (alive, mut ended) = mpsc::channel::<()>(1);
        let (ready, started) = oneshot::channel();
        let (theirs, worker, waker) = (held.clone(), worker.clone(), store.waker.clone());
        let live = async move {
            let born = Heart::start(options, &worker, interval, duration, theirs, waker).await;
            let mut heart = match born {
                Ok(heart) => {
                    let _ = ready.send(Ok(heart.worker));
                    heart
                }
                Err(e) => {
                    let _ = ready.send(Err(e));
                    return;
                }
            };
            // A timeout is the next beat; the channel's end is the process's wish to stop.
            while tokio::time::timeout(interval, ended.recv()).await.is_err() {
                heart.beat_or_warn().await;
            }
        };
        let thread = std::thread::Builder::new().name("lease-keeper".to_owned());
        thread.spawn(move || runtime.block_on(live)).map_err(failed)?;
        let worker = started
            .await
            .map_err(|_| StoreError::Invalid("the heartbeat thread ended before it began".to_owned()))??;
        Ok(Self {
            held,
            _alive: Arc::new(alive),
            worker,
            suspect_place: Arc::new(Semaphore::new(1)),
            waker: store.waker.clone(),
        })
    }

    /// This process's id in the store; it goes into every lease.
    #[must_use]
    pub fn worker(&self) -> Uuid {
        self.worker
    }

    /// Takes a freshly picked job's lease into care. `asked` is when the pick was begun: the lease holds from there at least.
    pub fn hold(&self, job: &LeasedJob, lease: &Lease, asked: impl Into<Instant>) {
        self.hold_in_place(job, lease, asked.into(), None);
    }

    /// The place of a suspect, where no other has it.
    pub(crate) fn suspect_place(&self) -> Option<OwnedSemaphorePermit> {
        self.suspect_place.clone().try_acquire_owned().ok()
    }

    pub(crate) fn hold_in_place(
        &self,
        job: &LeasedJob,
        lease: &Lease,
        asked: Instant,
        suspect_place: Option<OwnedSemaphorePermit>,
    ) {
        let suspect_place = suspect_place.map(Arc::new);
        let held = Held { lease: lease.clone(), told: 0.0, confirmed: asked, suspect_place };
        let mut all = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert((job.id, job.token), held);
        STORE_METRICS.leases_held.set(all.len());
    }

    /// The most memory that a job in care was seen to take.
    pub(crate) fn peak_memory_bytes(&self, job: &LeasedJob) -> Option<u64> {
        let all = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&(job.id, job.token)).and_then(|held| held.lease.peak_memory_bytes())
    }

    /// Lets go of a job that was completed, failed or released.
    pub fn forget(&self, job: &LeasedJob) {
        let mut all = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = all.remove(&(job.id, job.token));
        STORE_METRICS.leases_held.set(all.len());
        drop(all);
        if gone.is_some_and(|held| held.suspect_place.is_some()) {
            // Another suspect may have waited in the queue for this one's place, and nobody else tells.
            self.waker.wake_here();
        }
    }
}

impl Heart {
    async fn start(
        options: PgConnectOptions,
        worker: &NewWorker,
        interval: Duration,
        duration: Duration,
        held: Arc<Mutex<HashMap<LeaseName, Held>>>,
        waker: Waker,
    ) -> Result<Self, StoreError> {
        let mut connection = options.connect().await.map_err(StoreError::database("heartbeat: connect"))?;
        let (worker, number) = register(&mut connection, worker, duration).await?;
        let strays = HashSet::new();
        let mut heart =
            Self { options, connection: None, worker, number, interval, duration, held, strays, waker };
        heart.show_life(&mut connection).await?;
        heart.connection = Some(connection);
        Ok(heart)
    }

    /// Takes the lock. A connection that broke without the server's notice may still have it, and then stands for us.
    async fn show_life(&self, connection: &mut PgConnection) -> Result<(), StoreError> {
        sqlx::query_scalar!(r#"SELECT pg_try_advisory_lock($1, $2) AS "is_taken!""#, ALIVE_LOCKS, self.number)
            .fetch_one(connection)
            .await
            .map(|is_taken| {
                if !is_taken {
                    tracing::warn!(
                        "an earlier connection of this process still holds its lock; until the server notices its end, \
                         this worker's death would be noticed by expiry alone"
                    );
                }
            })
            .map_err(StoreError::database("heartbeat: lock"))
    }

    async fn beat_or_warn(&mut self) {
        let limit = self.duration.saturating_sub(self.interval);
        match tokio::time::timeout(limit, self.beat()).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => {
                self.connection = None;
                tracing::warn!("a heartbeat failed, leases run on until they expire: {e}");
            }
            Err(_) => {
                self.connection = None;
                tracing::warn!("a heartbeat had no answer within {limit:?}");
            }
        }
        self.lose_expired();
    }

    async fn beat(&mut self) -> Result<(), StoreError> {
        let _timer = QueryTimer::start("heartbeat");
        let error = StoreError::database;
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let mut fresh = self.options.connect().await.map_err(error("heartbeat: connect"))?;
                self.show_life(&mut fresh).await?;
                fresh
            }
        };
        let snapshot: Vec<(LeaseName, Held)> = {
            let all = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            all.iter().map(|(name, held)| (*name, held.clone())).collect()
        };
        let asked = Instant::now();
        sqlx::query!(
            "UPDATE workers SET heartbeat_at = now(), expires_at = now() + make_interval(secs => $2), stopped_at = NULL
             WHERE id = $1",
            self.worker,
            self.duration.as_secs_f64()
        )
        .execute(&mut connection)
        .await
        .map_err(error("heartbeat"))?;
        // After the prolongation: what is still held now is held for a whole duration from `asked` on.
        let kept = sqlx::query!(
            r#"SELECT id, lease_token AS "token!" FROM prover_jobs WHERE worker_id = $1 AND status = 'in_progress'"#,
            self.worker
        )
        .fetch_all(&mut connection)
        .await
        .map_err(error("heartbeat: look at the leases"))?;
        let kept: HashSet<LeaseName> = kept.into_iter().map(|row| (row.id, row.token)).collect();
        self.settle(&snapshot, &kept, asked);
        self.hand_back_strays(&mut connection, kept).await?;
        self.tell_progress(&mut connection, &snapshot).await?;
        self.connection = Some(connection);
        Ok(())
    }

    /// Hands back what is leased to this worker and nobody in it knows of: the answer to its pick was lost, or its end could not be
    /// written. This worker's life would keep it for ever. Only what was unknown one beat ago already: an answer may be on
    /// its way.
    async fn hand_back_strays(
        &mut self,
        connection: &mut PgConnection,
        mut leased: HashSet<LeaseName>,
    ) -> Result<(), StoreError> {
        {
            let all = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            leased.retain(|name| !all.contains_key(name));
        }
        let (ids, tokens): (Vec<i64>, Vec<Uuid>) = leased.intersection(&self.strays).copied().unzip();
        self.strays = leased;
        if ids.is_empty() {
            return Ok(());
        }
        let stages = sqlx::query_scalar!(
            r#"WITH strays AS (
                   SELECT j.id, j.attempts, j.worker_id, j.lease_token, j.started_at
                   FROM UNNEST($1::int8[], $2::uuid[]) AS s (id, token)
                   JOIN prover_jobs j ON j.id = s.id AND j.lease_token = s.token
                   -- One that is locked is being ended by a connection that nobody hears of any more.
                   ORDER BY j.id FOR UPDATE OF j SKIP LOCKED
               ), attempted AS (
                   INSERT INTO job_attempts
                       (job_id, attempt, worker_id, lease_token, started_at, finished_at, outcome, error)
                   SELECT id, attempts, worker_id, lease_token, started_at, now(), 'released',
                          'the worker never heard that it had the job, or could not write its end'
                   FROM strays
               )
               UPDATE prover_jobs j SET status = 'queued', queued_at = now(), progress = 0, not_before = now(),
                   worker_id = NULL, lease_token = NULL
               FROM strays s WHERE j.id = s.id
               RETURNING j.stage"#,
            &ids,
            &tokens
        )
        .fetch_all(connection)
        .await
        .map_err(StoreError::database("heartbeat: hand back strays"))?;
        tracing::warn!(jobs = stages.len(), "leases that nobody knew of were handed back");
        let stages: BTreeSet<Stage> = stages.iter().filter_map(|stage| stage.parse().ok()).collect();
        stages.into_iter().for_each(|stage| self.waker.wake(stage));
        Ok(())
    }

    fn settle(&self, snapshot: &[(LeaseName, Held)], kept: &HashSet<LeaseName>, asked: Instant) {
        let mut all = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, _) in snapshot {
            if kept.contains(name) {
                if let Some(held) = all.get_mut(name) {
                    held.confirmed = asked;
                }
            } else if let Some(gone) = all.remove(name) {
                // Finished meanwhile, or taken from us; losing a finished one's lease does nothing.
                gone.lease.lose();
                STORE_METRICS.leases_lost.inc();
            }
        }
    }

    /// Writes the progress of those that made some since the last beat.
    async fn tell_progress(
        &self,
        connection: &mut PgConnection,
        snapshot: &[(LeaseName, Held)],
    ) -> Result<(), StoreError> {
        let news: Vec<_> = snapshot.iter().filter(|(_, held)| held.lease.progress() > held.told).collect();
        if news.is_empty() {
            return Ok(());
        }
        let (ids, tokens): (Vec<i64>, Vec<Uuid>) = news.iter().map(|(name, _)| *name).unzip();
        let progress: Vec<f32> = news.iter().map(|(_, held)| held.lease.progress()).collect();
        sqlx::query!(
            "UPDATE prover_jobs j SET progress = h.progress
             FROM UNNEST($1::int8[], $2::uuid[], $3::float4[]) AS h (id, token, progress)
             WHERE j.id = h.id AND j.lease_token = h.token",
            &ids,
            &tokens,
            &progress
        )
        .execute(connection)
        .await
        .map_err(StoreError::database("heartbeat: progress"))?;
        let mut all = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        for ((name, _), progress) in news.iter().zip(progress) {
            if let Some(held) = all.get_mut(name) {
                held.told = progress;
            }
        }
        Ok(())
    }

    /// Without a confirmed heartbeat for a whole duration the database has, or will have, given the job to another.
    fn lose_expired(&self) {
        let mut all = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, held| {
            let expired = held.confirmed.elapsed() >= self.duration;
            if expired {
                held.lease.lose();
                STORE_METRICS.leases_lost.inc();
            }
            !expired
        });
    }
}
