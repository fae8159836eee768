//! The words of the store: ids, rows, errors, retry policies. Knows no connection.

pub(crate) mod completion;
pub mod deadline;
pub mod error;
pub mod ids;
pub(crate) mod learned;
pub mod retry_policy;
pub mod rows;
