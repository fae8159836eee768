//! The proving pipeline as a library: its components in one process, on any [`proof_system::ProofSystem`].
//!
//! [`run::run_plan`] runs a [`plan::Plan`]'s components on [`run::Backends`] (database, object store, proof system) until it is told
//! to drain. [`local::LocalStack`] brings the backends along: a private PostgreSQL, whose programs are those of
//! [`postgres::PostgresArgs`], and a folder. [`endpoints`] and [`http`] serve
//! what a process shows of itself, [`progress`] follows a batch on a terminal. The program `prover` is these with a command line.

pub mod endpoints;
pub mod http;
pub mod local;
pub mod plan;
pub mod postgres;
pub mod progress;
pub mod run;
