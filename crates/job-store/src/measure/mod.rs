//! What benchmarks measure on and against.

pub mod ballast;
pub mod baseline;
