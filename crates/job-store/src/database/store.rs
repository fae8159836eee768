//! The store itself: connections and what they share.

use crate::database::connections::Connections;
use crate::database::notify::Waker;
use crate::database::session::{is_read_only, read_only};
use crate::database::url::DatabaseUrl;
use crate::model::completion::Completion;
use crate::model::error::StoreError;
use crate::model::learned::Knowledge;
use crate::model::retry_policy::RetryPolicy;
use crate::model::rows::BatchIds;
use sqlx::PgConnection;
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;

/// The job store. Clones share one pool.
#[derive(Debug, Clone)]
pub struct JobStore {
    pub(crate) url: DatabaseUrl,
    /// Short statements along indexes, durable.
    pub(crate) hot: Connections,
    /// The same, for what a crash of the server may forget.
    pub(crate) relaxed: Connections,
    /// Everything else, planned as the server sees fit.
    pub(crate) reports: Connections,
    /// To the task that commits completions, many to a transaction.
    pub(crate) completions: mpsc::Sender<Completion>,
    pub(crate) knowledge: Knowledge,
    pub(crate) batch_ids: Arc<Mutex<BatchIds>>,
    pub(crate) policy: RetryPolicy,
    pub(crate) waker: Waker,
}

impl JobStore {
    /// The same store with other retry budgets.
    #[must_use]
    pub fn with_retry_policy(mut self, policy: RetryPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Asks the database whether it is there and takes writes.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.reports
            .statement(
                "ping",
                async |connection: &mut PgConnection| {
                    if is_read_only(connection).await? { Err(read_only()) } else { Ok(()) }
                },
            )
            .await
    }

    /// Closes all connections.
    pub async fn close(&self) {
        self.waker.flush().await;
        self.hot.close().await;
        self.relaxed.close().await;
        self.reports.close().await;
    }
}
