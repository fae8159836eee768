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
    /// The database's role may not do this; an administrator may change that at any time.
    #[error("the database's role may not do this ({cause}): {action} needs one that may write")]
    Forbidden {
        /// The statement's name.
        action: &'static str,
        /// What the database said.
        cause: Arc<sqlx::Error>,
    },
}

/// Classes of PostgreSQL's codes: a value out of its bounds, a broken constraint.
const OF_DATA: [&str; 2] = ["22", "23"];
/// PostgreSQL's code for what a role may not do.
const FORBIDDEN: &str = "42501";

/// The action of an error that no operation has named yet.
const UNNAMED: &str = "an operation";

/// `?` makes a fault of the driver's error; the connections name the operation.
impl From<sqlx::Error> for StoreError {
    fn from(cause: sqlx::Error) -> Self {
        Self::database(UNNAMED)(cause)
    }
}

impl StoreError {
    /// The error of this operation, if it is no other's already.
    pub(crate) fn of(self, operation: &'static str) -> Self {
        match self {
            Self::Database { action: UNNAMED, cause } => Self::Database { action: operation, cause },
            Self::Forbidden { action: UNNAMED, cause } => Self::Forbidden { action: operation, cause },
            named => named,
        }
    }

    pub(crate) fn database(action: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |cause| {
            let code = cause.as_database_error().and_then(sqlx::error::DatabaseError::code);
            let is_forbidden = code.is_some_and(|code| code == FORBIDDEN);
            let cause = Arc::new(cause);
            if is_forbidden { Self::Forbidden { action, cause } } else { Self::Database { action, cause } }
        }
    }

    /// Whether trying again later may help. What the server says of the data (a value out of its bounds, a broken constraint) it says again.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Database { cause, .. } => {
                let code = cause.as_database_error().and_then(sqlx::error::DatabaseError::code);
                !code.is_some_and(|code| OF_DATA.iter().any(|class| code.starts_with(class)))
            }
            Self::Forbidden { .. } => true,
            _ => false,
        }
    }
}
