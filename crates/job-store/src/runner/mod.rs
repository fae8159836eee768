//! The bridge to `job-runner`: pickers over the store, and the ends of a job for savers.

pub mod context;
pub mod picker;
pub mod worker_store;
