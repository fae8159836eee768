//! The durable job queue on PostgreSQL, and the only crate with SQL.
//!
//! The state machine is [`proving_model::JobStatus`], the schema is in `migrations/`. What the rest of the system relies on:
//!
//! - **Lease and fence.** [`JobStore::pick`] gives its jobs a fresh random token. Every later write shows it and changes
//!   exactly one row, or fails with [`StoreError::LeaseLost`]: a worker that was given up for dead can change nothing.
//! - **Completion is one transaction**: the job becomes successful, its successor's count of missing proofs goes down, a
//!   successor that misses nothing becomes queued, and the batch moves on. Nothing scans for unlocked work later.
//! - **The count is exact**: `dependencies_left` of a job is the number of its predecessors that are not successful, at
//!   every commit. Jobs whose successor is not known yet are linked by [`JobStore::extend_batch`], which counts under locks.
//! - **Woken, not polling.** Work that becomes queued is announced by NOTIFY after the commit, coalesced; a slow poll
//!   covers a lost announcement. Nothing depends on one.
//! - **Time is the database's.** No clock of a worker is compared with another's.
//!
//! Layers, each of which names only those before it: [`model`], [`database`], [`batches`], [`leases`], and side by side [`runner`],
//! [`duties`], [`operator`], [`reports`].
//!
//! A job runs at least once. Its executor is idempotent, its artifacts have attempt-safe names, its row decides.

pub mod batches;
mod connect;
pub mod database;
pub mod duties;
pub mod leases;
pub mod measure;
pub mod model;
pub mod operator;
pub mod reports;
pub mod runner;

pub use database::store::JobStore;
pub use database::url::DatabaseUrl;
pub use model::error::StoreError;
