//! NVIDIA devices, through the package `cust`.
//!
//! `driver` finds CUDA's driver when it is first asked for: the same program runs on machines with and without one, and builds on
//! machines without CUDA. `device` is a device in use, with the kernels of `kernels/` and an arena for all that is kept there; `commitment`
//! has polynomials on it, `circuit` whole proofs, by `plonk-prover`'s transcript; `pool` has all devices of a process prove, each by a
//! thread (`service`), with the next witness on its way meanwhile (`upload`), and the CPU what they cannot.
//!
//! The kernels compile as C++17 too, into a driver for machines without a device (`kernels/emulator.cpp`), so that the host's code and the
//! kernels are tested anywhere.

mod arena;
pub mod circuit;
pub mod commitment;
pub mod device;
pub mod driver;
mod error;
mod gates;
mod metrics;
mod nvml;
pub mod pool;
mod service;
mod settings;
mod upload;

pub use error::DeviceError;
use plonky2::field::extension::quadratic::QuadraticExtension;
use plonky2::field::goldilocks_field::GoldilocksField;
use plonky2::hash::poseidon::PoseidonHash;

type F = GoldilocksField;
type Extension = QuadraticExtension<F>;
type H = PoseidonHash;
const D: usize = 2;
