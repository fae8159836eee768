//! NVIDIA devices, through the package `cust`.
//!
//! `driver` finds CUDA's driver when it is first asked for: the same program runs on machines with and without one, and builds on
//! machines without CUDA. `device` is a device in use, with the kernels of `kernels/`.
//!
//! The kernels compile as C++17 too, into a driver for machines without a device (`kernels/emulator.cpp`), so that the host's code and the
//! kernels are tested anywhere.

pub mod device;
pub mod driver;
