//! The job monitor's duties. Each is safe to run anywhere, any number of times.

pub mod archive;
pub mod collect;
pub mod death_watch;
pub mod leadership;
mod learn;
pub mod rescue;
mod retry;
