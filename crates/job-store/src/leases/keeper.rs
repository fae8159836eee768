//! Keeping leases alive: one thread a process, with a runtime and a connection of its own, so that no load on the
//! workers' runtime starves it.
//!
//! The connection is also the process's sign of life. The worker's row names the server's process at its other end, from before the
//! first pick on. When the worker's process dies, however it does, the server's ends at once, and `duties::death_watch` sees that. A process
//! that hangs or is cut off keeps its connection, and loses its leases by their expiry.

use crate::database::connections::RELAXED;
use crate::database::metrics::STORE_METRICS;
use crate::database::notify::Announcements;
use crate::database::session::Session;
use crate::database::store::JobStore;
use crate::leases::heartbeat::{Heart, Held, LeaseName, Pulse};
use crate::leases::pg_heartbeat::Connected;
use crate::leases::workers::NewWorker;
use crate::model::error::StoreError;
use crate::model::rows::LeasedJob;
use job_runner::Lease;
use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

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
    registrations: Arc<AtomicU64>,
}

impl LeaseKeeper {
    /// Registers this process as a worker, says which connection shows its life, and starts the thread, which prolongs its leases by
    /// `duration` at every `interval`.
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
        let session = Session::new(&store.url, "heartbeat", &[RELAXED]);
        let held: Arc<Mutex<BTreeMap<LeaseName, Held>>> = Arc::default();
        let (alive, ended) = mpsc::channel::<()>(1);
        let (ready, started) = oneshot::channel();
        let (theirs, worker, waker) = (held.clone(), worker.clone(), store.waker.clone());
        let announcements = waker.announcements();
        let drain_asked = CancellationToken::new();
        let asked = drain_asked.clone();
        let registrations: Arc<AtomicU64> = Arc::default();
        let counted = registrations.clone();
        let live = async move {
            let pulse = match Connected::start(session, &worker, counted, duration, waker).await {
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
        Ok(Self { registrations, ..Self::of(held, alive, worker, store.waker.announcements(), drain_asked) })
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
        let registrations = Arc::default();
        Self {
            held,
            _alive: Arc::new(alive),
            worker,
            suspect_place,
            announcements,
            drain_asked,
            registrations,
        }
    }

    /// How often the worker was registered anew, with a server that did not know it.
    pub(crate) fn registrations(&self) -> u64 {
        self.registrations.load(Ordering::Relaxed)
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
