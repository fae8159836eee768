//! Protocol versions.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use thiserror::Error;

/// The protocol that a batch is proven under: `minor.patch`. The store ties it to verification-key hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProtocolVersion {
    /// Changes when the statement or the circuits change.
    pub minor: u16,
    /// Changes when only keys change.
    pub patch: u16,
}

impl fmt::Display for ProtocolVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0.{}.{}", self.minor, self.patch)
    }
}

/// A text that is not a protocol version.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is not a protocol version; write 0.MINOR.PATCH, for example 0.1.0")]
pub struct BadVersion(String);

impl FromStr for ProtocolVersion {
    type Err = BadVersion;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || BadVersion(text.to_owned());
        let mut parts = text.split('.');
        let (Some("0"), Some(minor), Some(patch), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(bad());
        };
        Ok(Self { minor: minor.parse().map_err(|_| bad())?, patch: patch.parse().map_err(|_| bad())? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_read_back_and_bad_ones_are_refused() {
        let version = ProtocolVersion { minor: 31, patch: 2 };
        assert_eq!(version.to_string().parse(), Ok(version));
        for bad in ["", "0.1", "1.0.0", "0.1.x", "0.1.2.3", "0.70000.0"] {
            assert!(bad.parse::<ProtocolVersion>().is_err(), "{bad}");
        }
    }
}
