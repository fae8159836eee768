//! Leases: who works on a job, and every way in which an attempt begins and ends.

mod announce_filter;
pub(crate) mod attempts;
pub(crate) mod complete;
pub mod fail;
mod heal;
pub mod heartbeat;
pub mod keeper;
mod pg_heartbeat;
pub mod pick;
pub(crate) mod picking_order;
pub(crate) mod put_back;
mod release;
pub mod workers;
