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
//! A job runs at least once. Its executor is idempotent, its artifacts have attempt-safe names, its row decides.

mod archive;
mod ballast;
mod batches;
mod chains;
mod collect;
mod commit;
mod connections;
mod demand;
mod error;
mod estimate;
mod explain;
mod extend;
mod finish;
mod floor;
mod keeper;
mod leadership;
mod learn;
mod maintenance;
mod metrics;
mod model;
mod operate;
mod overview;
mod pause;
mod pick;
mod queue;
mod reports;
mod restart;
mod roles;
mod schema;
mod statistics;
mod store;
mod text;
mod unreadable;
mod vitals;
mod wake;
mod watch;
mod worker_store;
mod workers;

pub use archive::Moved;
pub use ballast::Ballast;
pub use batches::{Batch, InsertedBatch, NewBatch};
pub use chains::ChainSettings;
pub use collect::Collectable;
pub use demand::Demand;
pub use error::StoreError;
pub use estimate::{CircuitProgress, estimate_seconds};
pub use explain::{Explanation, Missing, Takers, Why};
pub use extend::{Extension, NewJob};
pub use finish::{AttemptFailure, FailureKind};
pub use floor::Floor;
pub use keeper::{LeaseKeeper, Prolonged, Pulse};
pub use leadership::Leader;
pub use maintenance::Rescued;
pub use metrics::{STORE_METRICS, StoreMetrics};
pub use model::{LeasedJob, Predecessor, RetryPolicy, job_id_as_text};
pub use operate::{Cancelled, Deleted, Drained, JobChange, Mode, Requeued};
pub use overview::{
    BatchOverview, Overview, ROUND_NAMES, RunningJob, StageOverview, StateCounts, Throughput, Trouble,
    WorkerOverview,
};
pub use pause::{Pausable, PauseChange, Paused};
pub use pick::{PickFilter, Room};
pub use queue::{FinishError, LoadError, Loader, QueuePicker, WorkerContext};
pub use reports::{AttemptReport, BatchReport, JobCount, StuckJob, VersionReport};
pub use restart::Restarted;
pub use roles::RoleNames;
pub use schema::MIGRATOR;
pub use statistics::{CircuitStatistics, Period, PeriodStatistics, Statistics};
pub use store::{DatabaseUrl, JobStore};
pub use vitals::{TableSize, Vitals};
pub use wake::{Announcements, WakeListener};
pub use watch::DeathWatch;
pub use worker_store::WorkerStore;
pub use workers::{NewWorker, WorkerReport};
