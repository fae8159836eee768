//! Connects a store and starts its committer.

use crate::database::connections::{Connections, Durability};
use crate::database::notify::Waker;
use crate::database::store::JobStore;
use crate::database::url::DatabaseUrl;
use crate::leases::complete::start_committer;
use crate::model::error::StoreError;
use crate::model::learned::Knowledge;
use crate::model::retry_policy::RetryPolicy;
use std::{sync::Arc, time::Duration};

/// Connections of a process, opened when needed: few beat many, since each statement is short. Writes that wait for the disk;
/// claims and notifications, which do not; reports.
const HOT_CONNECTIONS_MAX: u32 = 4;

const RELAXED_CONNECTIONS_MAX: u32 = 3;

const REPORT_CONNECTIONS_MAX: u32 = 2;

/// How long to wait for the first connection before the server counts as unreachable.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

impl JobStore {
    /// Connects. A server that is starting up, or has no connection left, is waited for. The schema is not looked at; see
    /// [`JobStore::check_schema`] and [`JobStore::migrate`].
    ///
    /// # Errors
    /// [`StoreError::Database`] when the server cannot be reached; [`StoreError::Invalid`] when something in between hands every
    /// transaction to another session.
    pub async fn connect(url: &DatabaseUrl) -> Result<Self, StoreError> {
        let reports = Connections::for_reports(url, REPORT_CONNECTIONS_MAX);
        reports.open_first(ACQUIRE_TIMEOUT).await?;
        let hot = Connections::new(url, Durability::Durable, HOT_CONNECTIONS_MAX);
        let relaxed = Connections::new(url, Durability::Relaxed, RELAXED_CONNECTIONS_MAX);
        let waker = Waker::start(relaxed.clone());
        let completions = start_committer(hot.clone(), waker.clone());
        Ok(Self {
            url: url.clone(),
            hot,
            relaxed,
            reports,
            policy: RetryPolicy::default(),
            waker,
            completions,
            knowledge: Knowledge::default(),
            batch_ids: Arc::default(),
        })
    }
}
