//! Connections, the schema, wake-ups, metrics: what every operation needs and what knows no job.

pub(crate) mod connections;
mod encryption;
pub mod listen;
pub mod metrics;
pub mod notify;
pub mod roles;
pub mod schema;
mod server;
pub(crate) mod session;
pub mod store;
pub(crate) mod text;
pub(crate) mod unreadable;
pub mod url;
