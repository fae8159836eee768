//! What operators do to batches, jobs and workers. Each is one transaction that says exactly what it changed, or would change.

pub mod cancel;
pub mod delete;
pub mod drain;
pub mod mode;
pub mod pause;
pub mod quarantine;
pub mod requeue;
pub mod restart;
pub mod set_batch;
