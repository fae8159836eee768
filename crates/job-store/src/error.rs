//! Errors by what the caller can do about them.

use proving_model::BatchId;
use std::sync::Arc;
use thiserror::Error;

/// Why the store did not do what it was asked to.
#[derive(Debug, Clone, Error)]
pub enum StoreError {
    /// The lease is no longer the caller's: drop the result. Never retried.
    #[error("the lease of job {job_id} was lost: another worker may have it")]
    LeaseLost {
        /// The job.
        job_id: i64,
    },
    /// There is no such batch.
    #[error("there is no {0}")]
    NoSuchBatch(BatchId),
    /// There is no such job.
    #[error("there is no job {0}")]
    NoSuchJob(i64),
    /// What was to be inserted is there, and is different.
    #[error("{0}")]
    Conflict(String),
    /// The request makes no sense; trying again gives the same.
    #[error("{0}")]
    Invalid(String),
    /// The database's schema is not this program's.
    #[error("{0}")]
    Schema(String),
    /// The database cannot be reached or failed: try again later.
    #[error("the database failed at {action}: {cause}")]
    Database {
        /// The statement's name.
        action: &'static str,
        /// What the database or the connection said. It is in the message, so it is not a `source` that reports would
        /// print once more.
        cause: Arc<sqlx::Error>,
    },
}

impl StoreError {
    pub(crate) fn database(action: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |cause| Self::Database { action, cause: Arc::new(cause) }
    }

    /// Whether trying again later may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Database { .. })
    }
}
