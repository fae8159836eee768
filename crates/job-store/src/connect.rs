//! Connects a store and starts its committer.

use crate::database::connections::{Connections, Durability, LIVELINESS};
use crate::database::notify::Waker;
use crate::database::store::JobStore;
use crate::database::url::{DatabaseUrl, SEARCH_PATH};
use crate::leases::complete::start_committer;
use crate::model::error::StoreError;
use crate::model::learned::Knowledge;
use crate::model::retry_policy::RetryPolicy;
use sqlx::{ConnectOptions, Connection};
use std::{sync::Arc, time::Duration};

/// Connections of a process, opened when needed: few beat many, since each statement is short. Writes that wait for the disk;
/// claims and notifications, which do not; reports.
const HOT_CONNECTIONS_MAX: u32 = 4;

const RELAXED_CONNECTIONS_MAX: u32 = 3;

const REPORT_CONNECTIONS_MAX: u32 = 2;

/// How long to wait for a connection before an operation counts as failed.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

impl JobStore {
    /// Connects. The schema is not looked at; see [`JobStore::check_schema`] and [`JobStore::migrate`].
    ///
    /// # Errors
    /// [`StoreError::Database`] when the server cannot be reached.
    pub async fn connect(url: &DatabaseUrl) -> Result<Self, StoreError> {
        let options = url.options()?.options(LIVELINESS);
        // The pool would try until its timeout and then say no more than that; one connection says why at once.
        let first = tokio::time::timeout(ACQUIRE_TIMEOUT, options.connect()).await;
        let first = first.unwrap_or_else(|_| Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())));
        let mut first = first.map_err(StoreError::database("connect"))?;
        let found: String = sqlx::query_scalar("SELECT current_setting('search_path')")
            .fetch_one(&mut first)
            .await
            .map_err(StoreError::database("connect"))?;
        first.close().await.map_err(StoreError::database("connect"))?;
        if found != SEARCH_PATH {
            // A pooler between that ignores what a connection asks for: names would be looked up where other roles may create things.
            return Err(StoreError::Invalid(format!(
                "the search path of the connection is {found:?} and not {SEARCH_PATH:?}: let the pooler before the server pass the \
                 startup parameter `options`, or connect to the server itself"
            )));
        }
        let reports = Connections::for_reports(url, REPORT_CONNECTIONS_MAX)?;
        let hot = Connections::new(url, Durability::Durable, HOT_CONNECTIONS_MAX)?;
        let relaxed = Connections::new(url, Durability::Relaxed, RELAXED_CONNECTIONS_MAX)?;
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
