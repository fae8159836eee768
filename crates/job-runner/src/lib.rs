//! A framework for components that do heavy, long, failure-prone work out of a shared queue.
//!
//! ```text
//!  JobPicker ──(prefetch)──▶ worker pool: Executor ──(results)──▶ JobSaver
//!      ▲ pick(want), wait                │                            │
//!      └────────── the queue ◀───────────┴── release, save ───────────┘
//! ```
//!
//! You write three things. An [`Executor`] turns an input into an output and blocks while it computes. A [`JobPicker`]
//! takes jobs out of your queue, with their inputs loaded. A [`JobSaver`] puts results back. The [`JobRunner`] does the
//! rest: it keeps every worker busy, fetching the next input and saving the last result meanwhile; it survives panics,
//! a queue that is away and a store that fails; it stops cleanly.
//!
//! What it promises:
//!
//! - **Bounded.** A job is picked only when a worker or a prefetch slot is free for it, and every channel has a
//!   capacity, so memory is bounded and no lease idles in a buffer.
//! - **Chained.** A saver may feed the next runner ([`chain`]), with back-pressure; the lease travels along.
//! - **Unkillable by a job.** A panic is that job's failure, and so is an attempt that passes its deadline. Errors of
//!   picker and saver are retried with backoff.
//! - **Fenced.** A job's [`Lease`] may be lost while it runs; then its [`JobContext`] is cancelled and its result is
//!   dropped.
//! - **At least once.** A job may run again after a crash, anywhere. Executors are idempotent, savers fence.
//!
//! What it does not know: where jobs come from, what they are, or how they are stored. `examples/in_memory.rs` is a whole
//! component in forty lines; start there. The same on a durable queue is `examples/on_postgresql.rs` of `job-store`.

mod chain;
mod job;
mod memory;
mod metrics;
mod pool;
mod queue;
mod runner;
mod shared;
mod shutdown;

pub use chain::{ChainPicker, ChainSender, Closed, chain};
pub use job::{
    ExecuteError, Executor, JobContext, JobMetadata, JobPicker, JobSaver, Lease, Outcome, PickError, Picked,
    SaveError,
};
pub use memory::{Allowance, MemoryBudget, Reservation};
pub use metrics::{JobOutcome, RUNNER_METRICS, RunnerLabels, RunnerMetrics};
pub use runner::{JobRunner, JobRunnerBuilder, RunnerReport};
pub use shutdown::Shutdown;
