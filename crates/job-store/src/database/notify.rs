//! Waking pickers: NOTIFY after a commit that queued work, coalesced; LISTEN on one connection a process. Pickers in the
//! process that queued the work hear of it without that detour.
//!
//! NOTIFY takes a lock over the whole database until its transaction commits, so it has a transaction of its own, and
//! what becomes queued while one is on its way is announced by the next. A lost announcement (a crash between commit
//! and NOTIFY, a broken listener) costs a poll interval and nothing else.

use crate::database::connections::Connections;
use crate::database::metrics::STORE_METRICS;
use proving_model::Stage;
use sqlx::PgConnection;
use std::sync::Arc;
use tokio::sync::{Notify, mpsc, oneshot, watch};

pub(crate) const CHANNEL: &str = "roundhouse_jobs";

/// Requests that wait for the sender; more of the same would be coalesced anyway.
const REQUESTS_MAX: usize = 64;

/// The announcement that leases were taken from their workers.
pub(crate) const REVOKED: &str = "revoked";

enum Request {
    Wake(Stage),
    Revoke,
    Flush(oneshot::Sender<()>),
}

/// Announces queued work, from a task of its own.
#[derive(Debug, Clone)]
pub(crate) struct Waker {
    requests: mpsc::Sender<Request>,
    /// For the pickers of this process: they hear of this process's own at once, and of the others' from the server.
    announcements: Announcements,
}

/// What the pickers of a process hear. Clones share it.
#[derive(Debug, Clone)]
pub struct Announcements {
    /// How many so far, by stage.
    pub(crate) stages: Arc<[watch::Sender<u64>; Stage::ALL.len()]>,
    /// Leases were taken from their workers, perhaps this process's.
    pub(crate) revoked: Arc<Notify>,
}

impl Default for Announcements {
    fn default() -> Self {
        Self { stages: Arc::new([0; Stage::ALL.len()].map(watch::Sender::new)), revoked: Arc::default() }
    }
}

impl Announcements {
    /// Tells the pickers of a stage that there may be work.
    pub fn announce(&self, stage: Stage) {
        self.stages[stage as usize].send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Tells the heart that leases may be gone.
    pub fn announce_revocation(&self) {
        self.revoked.notify_one();
    }

    /// Returns when leases may be gone. One waits at a time.
    pub(crate) async fn revocation(&self) {
        self.revoked.notified().await;
    }

    /// Tells all pickers.
    pub fn announce_all(&self) {
        Stage::ALL.iter().for_each(|stage| self.announce(*stage));
    }
}

impl Waker {
    pub(crate) fn start(connections: Connections) -> Self {
        let (requests, mut inbox) = mpsc::channel(REQUESTS_MAX);
        tokio::spawn(async move {
            while let Some(request) = inbox.recv().await {
                let mut stages = [false; Stage::ALL.len()];
                let mut revokes = false;
                let mut flushes = Vec::new();
                let mut next = Some(request);
                while let Some(request) = next {
                    match request {
                        Request::Wake(stage) => stages[stage as usize] = true,
                        Request::Revoke => revokes = true,
                        Request::Flush(done) => flushes.push(done),
                    }
                    next = inbox.try_recv().ok();
                }
                let woken = Stage::ALL.iter().filter(|stage| stages[**stage as usize]).map(|s| s.as_str());
                for word in woken.chain(revokes.then_some(REVOKED)) {
                    let sent = connections.statement("notify", async |connection: &mut PgConnection| {
                        sqlx::query("SELECT pg_notify($1, $2)")
                            .bind(CHANNEL)
                            .bind(word)
                            .execute(connection)
                            .await
                    });
                    match sent.await {
                        Ok(_) => drop(STORE_METRICS.wake_ups_sent.inc()),
                        Err(e) => tracing::warn!("a wake-up was not sent, pickers will poll: {e}"),
                    }
                }
                for done in flushes {
                    let _ = done.send(());
                }
            }
        });
        Self { requests, announcements: Announcements::default() }
    }

    /// Asks for an announcement; never waits, and never fails: a full inbox already holds the same.
    pub(crate) fn wake(&self, stage: Stage) {
        self.announcements.announce(stage);
        let _ = self.requests.try_send(Request::Wake(stage));
    }

    /// As [`Waker::wake`], for leases that were taken from their workers.
    pub(crate) fn revoke(&self) {
        self.announcements.announce_revocation();
        let _ = self.requests.try_send(Request::Revoke);
    }

    /// Where this process's own are announced.
    pub(crate) fn announcements(&self) -> Announcements {
        self.announcements.clone()
    }

    /// Returns when everything asked for was announced.
    pub(crate) async fn flush(&self) {
        let (done, sent) = oneshot::channel();
        if self.requests.send(Request::Flush(done)).await.is_ok() {
            let _ = sent.await;
        }
    }
}
