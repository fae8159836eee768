//! The listening side of wake-ups: LISTEN on one connection a process.

use crate::database::connections::{Durability, session};
use crate::database::metrics::STORE_METRICS;
use crate::database::notify::CHANNEL;
use crate::database::notify::{Announcements, REVOKED};
use crate::database::store::JobStore;
use crate::model::error::StoreError;
use proving_model::Stage;
use sqlx::postgres::PgListener;
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Pause before a broken listener is set up again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

/// The listening side, one a process, on a connection of its own: hands each announcement to the pickers of its stage.
/// Listens until the last clone is dropped.
#[derive(Debug, Clone)]
pub struct WakeListener {
    announcements: Announcements,
    _alive: Option<Arc<DropGuard>>,
}

impl From<Announcements> for WakeListener {
    /// One that hears of nothing but these.
    fn from(announcements: Announcements) -> Self {
        Self { announcements, _alive: None }
    }
}

impl WakeListener {
    /// Starts listening. A broken connection is replaced; meanwhile pickers poll.
    ///
    /// # Errors
    /// [`StoreError::Database`] when the first connection cannot be made.
    pub async fn start(store: &JobStore) -> Result<Self, StoreError> {
        let announcements = store.waker.announcements();
        let ended = CancellationToken::new();
        let mut connection = Self::connect(store).await?;
        let listening = {
            let (announcements, store) = (announcements.clone(), store.clone());
            async move {
                loop {
                    match connection.try_recv().await {
                        Ok(Some(message)) => {
                            STORE_METRICS.wake_ups_received.inc();
                            if message.payload() == REVOKED {
                                announcements.announce_revocation();
                            } else if let Ok(stage) = message.payload().parse::<Stage>() {
                                announcements.announce(stage);
                            }
                            continue;
                        }
                        Ok(None) => tracing::warn!("the wake-up connection broke, pickers poll meanwhile"),
                        Err(e) => tracing::warn!("the wake-up connection broke, pickers poll meanwhile: {e}"),
                    }
                    connection = loop {
                        match Self::connect(&store).await {
                            Ok(fresh) => break fresh,
                            Err(_) => tokio::time::sleep(RECONNECT_PAUSE).await,
                        }
                    };
                    // What was announced meanwhile is unknown.
                    announcements.announce_all();
                }
            }
        };
        let end = ended.clone();
        tokio::spawn(async move { end.run_until_cancelled_owned(listening).await });
        Ok(Self { announcements, _alive: Some(Arc::new(ended.drop_guard())) })
    }

    async fn connect(store: &JobStore) -> Result<PgListener, StoreError> {
        let session = session(&store.url, "wake-ups", Durability::Relaxed);
        session.listen(CHANNEL).await.map_err(StoreError::database("listen"))
    }

    /// The announcements of a stage, for one picker.
    pub(crate) fn announcements(&self, stage: Stage) -> watch::Receiver<u64> {
        self.announcements.stages[stage as usize].subscribe()
    }
}
