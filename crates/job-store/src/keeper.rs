//! Keeping leases alive: one thread a process, with a runtime and a connection of its own, so that no load on the
//! workers' runtime starves it.
//!
//! The connection is also the process's sign of life. It holds a session-level advisory lock from before the first
//! pick on; when the process dies, however it does, the server drops the lock at once, and [`crate::DeathWatch`]
//! sees that. A process that hangs or is cut off keeps the lock, and loses its leases by their expiry.
//!
//! **A lock is nobody else's.** Whoever may connect may take any advisory lock, and holding one of ours would let him say when we
//! die. So each connection has a lock of its own, named by 64 random bits, and its worker's row in `signs_of_life` says which
//! process of the server holds it: while that process is there, the worker is not dead.

use crate::connections::LIVELINESS;
use crate::metrics::{QueryTimer, STORE_METRICS};
use crate::wake::{Announcements, Waker};
use crate::workers::register;
use crate::{JobStore, LeasedJob, NewWorker, StoreError};
use async_trait::async_trait;
use job_runner::Lease;
use proving_model::Stage;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection};
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How many random keys are tried before something must be wrong: one in 2^64 is taken by chance.
const KEYS_TRIED: u32 = 3;

/// The leases of this process. Clones share them; the thread ends when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct LeaseKeeper {
    held: Arc<Mutex<BTreeMap<LeaseName, Held>>>,
    _alive: Arc<mpsc::Sender<()>>,
    worker: Uuid,
    /// The place of the one suspect that this process has at a time.
    suspect_place: Arc<Semaphore>,
    announcements: Announcements,
    drain_asked: CancellationToken,
}

/// A job and its token.
pub(crate) type LeaseName = (i64, Uuid);

#[derive(Debug, Clone)]
struct Held {
    lease: Lease,
    /// The progress that its row shows.
    told: f32,
    /// When it was picked.
    begun: Instant,
    /// When the lease was last known to hold, by this process's clock; only its own passage of time counts.
    confirmed: Instant,
    suspect_place: Option<Arc<OwnedSemaphorePermit>>,
}

/// What a heartbeat tells the store, and hears from it.
#[async_trait]
pub trait Pulse: Send + 'static {
    /// Prolongs this worker's leases, from now on, by their whole duration.
    async fn prolong(&mut self) -> Result<Prolonged, StoreError>;

    /// Writes how far jobs are, where the lease still holds.
    async fn tell_progress(&mut self, progress: &[(LeaseName, f32)]) -> Result<(), StoreError>;

    /// Hands jobs back at no cost, where the lease still holds.
    async fn hand_back(&mut self, strays: &[LeaseName]) -> Result<(), StoreError>;
}

/// What a worker hears when it prolongs its leases.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prolonged {
    /// All leases that it has: jobs and tokens.
    pub leases: Vec<(i64, Uuid)>,
    /// Whether it is to finish what it runs and stop.
    pub drain_asked: bool,
}

/// Why a heart beats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beat {
    /// It is time.
    Regular,
    /// Somebody took leases from their workers: which of them are this process's?
    Extra,
}

/// What beats.
struct Heart<P> {
    pulse: P,
    interval: Duration,
    duration: Duration,
    held: Arc<Mutex<BTreeMap<LeaseName, Held>>>,
    /// Leases of this worker's that nobody in it knew of at the last beat.
    strays: HashSet<LeaseName>,
    announcements: Announcements,
    drain_asked: CancellationToken,
}

/// The pulse of a process on the database: a connection of its own, which is also its sign of life.
struct Connected {
    options: PgConnectOptions,
    connection: Option<PgConnection>,
    worker: Uuid,
    duration: Duration,
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
        let held: Arc<Mutex<BTreeMap<LeaseName, Held>>> = Arc::default();
        let (alive, ended) = mpsc::channel::<()>(1);
        let (ready, started) = oneshot::channel();
        let (theirs, worker, waker) = (held.clone(), worker.clone(), store.waker.clone());
        let announcements = waker.announcements();
        let drain_asked = CancellationToken::new();
        let asked = drain_asked.clone();
        let live = async move {
            let pulse = match Connected::start(options, &worker, duration, waker).await {
                Ok(pulse) => {
                    let _ = ready.send(Ok(pulse.worker));
                    pulse
                }
                Err(e) => {
                    let _ = ready.send(Err(e));
                    return;
                }
            };
            let strays = HashSet::new();
            let heart =
                Heart { pulse, interval, duration, held: theirs, strays, announcements, drain_asked: asked };
            heart.live(ended).await;
        };
        let thread = std::thread::Builder::new().name("lease-keeper".to_owned());
        thread.spawn(move || runtime.block_on(live)).map_err(failed)?;
        let worker = started
            .await
            .map_err(|_| StoreError::Invalid("the heartbeat thread ended before it began".to_owned()))??;
        Ok(Self::of(held, alive, worker, store.waker.announcements(), drain_asked))
    }

    /// One whose heart beats on the runtime at hand, by this pulse: for simulations, which hold the clock.
    #[must_use]
    pub fn with_pulse(
        pulse: impl Pulse,
        worker: Uuid,
        announcements: Announcements,
        interval: Duration,
        duration: Duration,
    ) -> Self {
        let held: Arc<Mutex<BTreeMap<LeaseName, Held>>> = Arc::default();
        let (alive, ended) = mpsc::channel::<()>(1);
        let drain_asked = CancellationToken::new();
        let heart = Heart {
            pulse,
            interval,
            duration,
            held: held.clone(),
            strays: HashSet::new(),
            announcements: announcements.clone(),
            drain_asked: drain_asked.clone(),
        };
        tokio::spawn(heart.live(ended));
        Self::of(held, alive, worker, announcements, drain_asked)
    }

    fn of(
        held: Arc<Mutex<BTreeMap<LeaseName, Held>>>,
        alive: mpsc::Sender<()>,
        worker: Uuid,
        announcements: Announcements,
        drain_asked: CancellationToken,
    ) -> Self {
        let suspect_place = Arc::new(Semaphore::new(1));
        Self { held, _alive: Arc::new(alive), worker, suspect_place, announcements, drain_asked }
    }

    /// This process's id in the store; it goes into every lease.
    #[must_use]
    pub fn worker(&self) -> Uuid {
        self.worker
    }

    /// Cancelled once an operator has asked this process to drain.
    #[must_use]
    pub fn drain_asked(&self) -> CancellationToken {
        self.drain_asked.clone()
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
        let held = Held { lease: lease.clone(), told: 0.0, begun: asked, confirmed: asked, suspect_place };
        let mut all = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert((job.id, job.token), held);
        STORE_METRICS.leases_held.set(all.len());
    }

    /// The most memory that a job in care was seen to take.
    pub(crate) fn peak_memory_bytes(&self, job: &LeasedJob) -> Option<u64> {
        let all = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&(job.id, job.token)).and_then(|held| held.lease.peak_memory_bytes())
    }

    /// Lets go of a job that was completed, failed or released; returns for how long it was held, if it was.
    pub fn forget(&self, job: &LeasedJob) -> Option<Duration> {
        let mut all = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = all.remove(&(job.id, job.token));
        STORE_METRICS.leases_held.set(all.len());
        drop(all);
        let held_for = gone.as_ref().map(|held| held.begun.elapsed());
        if gone.is_some_and(|held| held.suspect_place.is_some()) {
            // Another suspect may have waited in the queue for this one's place, and nobody else tells.
            self.announcements.announce_all();
        }
        held_for
    }
}

impl Connected {
    async fn start(
        options: PgConnectOptions,
        worker: &NewWorker,
        duration: Duration,
        waker: Waker,
    ) -> Result<Self, StoreError> {
        let mut connection = options.connect().await.map_err(StoreError::database("heartbeat: connect"))?;
        let worker = register(&mut connection, worker, duration).await?;
        let mut pulse = Self { options, connection: None, worker, duration, waker };
        pulse.show_life(&mut connection).await?;
        pulse.connection = Some(connection);
        Ok(pulse)
    }

    /// Takes a lock that nobody can have foreseen, and writes down which one, and who holds it. The one of an earlier connection
    /// goes when the server notices that one's end.
    async fn show_life(&self, connection: &mut PgConnection) -> Result<(), StoreError> {
        for _ in 0..KEYS_TRIED {
            let (lock_key, watch_key) = (random_key(), random_key());
            let is_taken = sqlx::query_scalar!(r#"SELECT pg_try_advisory_lock($1) AS "is_taken!""#, lock_key)
                .fetch_one(&mut *connection)
                .await
                .map_err(StoreError::database("heartbeat: lock"))?;
            if !is_taken {
                tracing::warn!(
                    "another session holds this worker's lock, which nobody can know yet: trying another"
                );
                continue;
            }
            return sqlx::query!(
                "INSERT INTO signs_of_life (worker_id, lock_key, watch_key, backend_pid, backend_started_at)
                 SELECT w.id, $2, $3, a.pid, a.backend_start
                 FROM workers w, pg_stat_get_activity(pg_backend_pid()) a
                 WHERE w.id = $1
                 ON CONFLICT (worker_id) DO UPDATE SET lock_key = EXCLUDED.lock_key, watch_key = EXCLUDED.watch_key,
                     backend_pid = EXCLUDED.backend_pid, backend_started_at = EXCLUDED.backend_started_at",
                self.worker,
                lock_key,
                watch_key
            )
            .execute(connection)
            .await
            .map(drop)
            .map_err(StoreError::database("heartbeat: sign of life"));
        }
        Err(StoreError::Invalid(format!(
            "other sessions hold {KEYS_TRIED} random advisory locks that this worker asked for: somebody takes all locks of \
             this database; find them in pg_locks and revoke their CONNECT (`prover database roles`)"
        )))
    }

    /// The connection, out of its place: what fails, or is given up half way, takes it along.
    async fn take(&mut self) -> Result<PgConnection, StoreError> {
        if let Some(connection) = self.connection.take() {
            return Ok(connection);
        }
        let connected = self.options.connect().await;
        let mut fresh = connected.map_err(StoreError::database("heartbeat: connect"))?;
        self.show_life(&mut fresh).await?;
        Ok(fresh)
    }
}

/// 64 bits of the operating system's randomness: of a UUID's two halves one has its version and the other its variant, at other places.
fn random_key() -> i64 {
    let (high, low) = Uuid::new_v4().as_u64_pair();
    (high ^ low).cast_signed()
}

#[async_trait]
impl Pulse for Connected {
    async fn prolong(&mut self) -> Result<Prolonged, StoreError> {
        let _timer = QueryTimer::start("heartbeat");
        let error = StoreError::database;
        let mut connection = self.take().await?;
        let drain_asked = sqlx::query_scalar!(
            r#"UPDATE workers SET heartbeat_at = now(), expires_at = now() + make_interval(secs => $2),
                   stopped_at = NULL
               WHERE id = $1
               RETURNING drain_asked_at IS NOT NULL AS "drain_asked!""#,
            self.worker,
            self.duration.as_secs_f64()
        )
        .fetch_optional(&mut connection)
        .await
        .map_err(error("heartbeat"))?;
        let leased = sqlx::query!(
            r#"SELECT id, lease_token AS "token!" FROM prover_jobs
               WHERE worker_id = $1 AND status = 'in_progress'"#,
            self.worker
        )
        .fetch_all(&mut connection)
        .await
        .map_err(error("heartbeat: look at the leases"))?;
        self.connection = Some(connection);
        let leases = leased.into_iter().map(|row| (row.id, row.token)).collect();
        Ok(Prolonged { leases, drain_asked: drain_asked.unwrap_or_default() })
    }

    async fn tell_progress(&mut self, progress: &[(LeaseName, f32)]) -> Result<(), StoreError> {
        let mut connection = self.take().await?;
        let (ids, tokens): (Vec<i64>, Vec<Uuid>) = progress.iter().map(|(name, _)| *name).unzip();
        let fractions: Vec<f32> = progress.iter().map(|(_, fraction)| *fraction).collect();
        sqlx::query!(
            "UPDATE prover_jobs j SET progress = h.progress
             FROM UNNEST($1::int8[], $2::uuid[], $3::float4[]) AS h (id, token, progress)
             WHERE j.id = h.id AND j.lease_token = h.token",
            &ids,
            &tokens,
            &fractions
        )
        .execute(&mut connection)
        .await
        .map_err(StoreError::database("heartbeat: progress"))?;
        self.connection = Some(connection);
        Ok(())
    }

    async fn hand_back(&mut self, strays: &[LeaseName]) -> Result<(), StoreError> {
        let mut connection = self.take().await?;
        let (ids, tokens): (Vec<i64>, Vec<Uuid>) = strays.iter().copied().unzip();
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
               UPDATE prover_jobs j SET status = 'queued', queued_at = now(), progress = 0,
                   not_before = now(),
                   worker_id = NULL, lease_token = NULL
               FROM strays s WHERE j.id = s.id
               RETURNING j.stage"#,
            &ids,
            &tokens
        )
        .fetch_all(&mut connection)
        .await
        .map_err(StoreError::database("heartbeat: hand back strays"))?;
        self.connection = Some(connection);
        tracing::warn!(jobs = stages.len(), "leases that nobody knew of were handed back");
        let stages: BTreeSet<Stage> = stages.iter().filter_map(|stage| stage.parse().ok()).collect();
        stages.into_iter().for_each(|stage| self.waker.wake(stage));
        Ok(())
    }
}

impl<P: Pulse> Heart<P> {
    /// Beats until the other end of `ended` is dropped.
    async fn live(mut self, mut ended: mpsc::Receiver<()>) {
        let mut next = Instant::now() + self.interval;
        loop {
            tokio::select! {
                biased;
                // The channel's end is the process's wish to stop.
                _ = ended.recv() => return,
                () = tokio::time::sleep_until(next) => {
                    self.beat_or_warn(Beat::Regular).await;
                    next = Instant::now() + self.interval;
                }
                () = self.announcements.revocation() => self.beat_or_warn(Beat::Extra).await,
            }
        }
    }

    async fn beat_or_warn(&mut self, kind: Beat) {
        let limit = self.duration.saturating_sub(self.interval);
        match tokio::time::timeout(limit, self.beat(kind)).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::warn!("a heartbeat failed, leases run on until they expire: {e}"),
            Err(_) => tracing::warn!("a heartbeat had no answer within {limit:?}"),
        }
        self.lose_expired();
    }

    async fn beat(&mut self, kind: Beat) -> Result<(), StoreError> {
        let snapshot: Vec<(LeaseName, Held)> = {
            let all = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            all.iter().map(|(name, held)| (*name, held.clone())).collect()
        };
        let asked = Instant::now();
        // What is still held after the prolongation is held for a whole duration from `asked` on.
        let Prolonged { leases, drain_asked } = self.pulse.prolong().await?;
        if drain_asked {
            self.drain_asked.cancel();
        }
        let leased: HashSet<LeaseName> = leases.into_iter().collect();
        self.settle(&snapshot, &leased, asked);
        if kind == Beat::Extra {
            // Strays are those of two regular beats: between this one and the next an answer may still be on its way.
            return Ok(());
        }
        self.hand_back_strays(leased).await?;
        self.tell_progress(&snapshot).await
    }

    /// Hands back what is leased to this worker and nobody in it knows of: the answer to its pick was lost, or its end could not be
    /// written. This worker's life would keep it for ever. Only what was unknown one beat ago already: an answer may be on
    /// its way.
    async fn hand_back_strays(&mut self, mut leased: HashSet<LeaseName>) -> Result<(), StoreError> {
        {
            let all = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            leased.retain(|name| !all.contains_key(name));
        }
        let mut strays: Vec<LeaseName> = leased.intersection(&self.strays).copied().collect();
        strays.sort_unstable();
        self.strays = leased;
        if strays.is_empty() { Ok(()) } else { self.pulse.hand_back(&strays).await }
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
    async fn tell_progress(&mut self, snapshot: &[(LeaseName, Held)]) -> Result<(), StoreError> {
        let news: Vec<(LeaseName, f32)> = snapshot
            .iter()
            .map(|(name, held)| (*name, held.lease.progress(), held.told))
            .filter(|(_, progress, told)| progress > told)
            .map(|(name, progress, _)| (name, progress))
            .collect();
        if news.is_empty() {
            return Ok(());
        }
        self.pulse.tell_progress(&news).await?;
        let mut all = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, progress) in news {
            if let Some(held) = all.get_mut(&name) {
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
