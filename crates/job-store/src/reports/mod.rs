//! What operators see. Nothing here writes.

pub mod attempts;
pub mod backlog;
pub mod batch;
pub mod counts;
pub mod dashboard;
pub mod gauges;
pub mod history;
pub mod paused;
pub mod time_left;
pub mod versions;
pub mod why;
pub mod workers;
