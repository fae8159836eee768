//! Batches, chains and protocol versions: what is inserted, in which order it is proven, how far it is.

pub mod add_jobs;
pub mod chains;
pub mod find;
pub mod insert;
mod learned;
pub(crate) mod lock;
pub(crate) mod progress;
pub(crate) mod remove;
mod versions;
