//! NVIDIA devices, through the package `cust`; built with the feature `gpu` only.
//!
//! [`driver`] finds CUDA's driver when it is first asked for: the same program runs on machines with and without one, and builds on
//! machines without CUDA.

#[cfg(feature = "gpu")]
pub mod driver;
