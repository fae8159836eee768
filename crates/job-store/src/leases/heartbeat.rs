//! The heartbeat: prolongs leases, writes progress, hands back what the worker does not know.

use crate::database::metrics::STORE_METRICS;
use crate::database::notify::Announcements;
use crate::model::error::StoreError;
use async_trait::async_trait;
use job_runner::Lease;
use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// A job and its token.
pub(crate) type LeaseName = (i64, Uuid);

#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) lease: Lease,
    /// The progress that its row shows.
    pub(crate) told: f32,
    /// When it was picked.
    pub(crate) begun: Instant,
    /// When the lease was last known to hold, by this process's clock; only its own passage of time counts.
    pub(crate) confirmed: Instant,
    pub(crate) suspect_place: Option<Arc<OwnedSemaphorePermit>>,
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
pub(crate) struct Heart<P> {
    pub(crate) pulse: P,
    pub(crate) interval: Duration,
    pub(crate) duration: Duration,
    pub(crate) held: Arc<Mutex<BTreeMap<LeaseName, Held>>>,
    /// Leases of this worker's that nobody in it knew of at the last beat.
    pub(crate) strays: HashSet<LeaseName>,
    pub(crate) announcements: Announcements,
    pub(crate) drain_asked: CancellationToken,
}

impl<P: Pulse> Heart<P> {
    /// Beats until the other end of `ended` is dropped.
    pub(crate) async fn live(mut self, mut ended: mpsc::Receiver<()>) {
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
