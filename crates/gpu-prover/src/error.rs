//! What can go wrong with a device.

use crate::driver::DriverError;
use plonk_prover::ProveError;
use thiserror::Error;

/// Why a device made no proof.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DeviceError {
    /// The device, or its driver.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// The proof.
    #[error(transparent)]
    Prove(#[from] ProveError),
    /// The circuit has a gate that no kernel evaluates.
    #[error("there is no kernel for the gate {0}: such circuits are proven on the CPU")]
    UnknownGate(String),
    /// The CPU proves it differently.
    #[error("device {device} proves wrongly: {what}")]
    WrongProof {
        /// Which device.
        device: u32,
        /// What is wrong.
        what: String,
    },
    /// A device does not answer.
    #[error("device {device} has not answered for {seconds} s")]
    Silent {
        /// Which device.
        device: u32,
        /// How long it was waited for.
        seconds: u64,
    },
    /// A device went out of service while a circuit waited for it.
    #[error("device {device} is out of service")]
    Gone {
        /// Which device.
        device: u32,
    },
    /// A device's thread cannot be started.
    #[error("the thread of device {device} cannot be started: {reason}")]
    Thread {
        /// Which device.
        device: u32,
        /// What the system said.
        reason: String,
    },
}

impl DeviceError {
    /// Whether the device is to blame, and not the circuit or its witness.
    #[must_use]
    pub fn is_the_devices(&self) -> bool {
        match self {
            // Of a circuit of any size there is a number that does.
            Self::Prove(ProveError::NoProofOfWork) => true,
            Self::Driver(DriverError::ArenaFull { .. }) | Self::Prove(_) | Self::UnknownGate(_) => false,
            Self::Driver(_)
            | Self::WrongProof { .. }
            | Self::Silent { .. }
            | Self::Gone { .. }
            | Self::Thread { .. } => true,
        }
    }
}
