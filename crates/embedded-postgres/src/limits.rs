//! How much is fetched at most, and what is told of it meanwhile.

use std::{path::Path, time::Duration};

/// How much is fetched, and for how long.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of an archive.
    pub archive_bytes: u64,
    /// Bytes of what is in it.
    pub unpacked_bytes: u64,
    /// How long a server may send nothing.
    pub silence: Duration,
    /// How long a download may take.
    pub total: Duration,
}

impl Default for Limits {
    /// Several times what a release has; and time for it on a line of 1 Mbit/s.
    fn default() -> Self {
        Self {
            archive_bytes: 256 << 20,
            unpacked_bytes: 1 << 30,
            silence: Duration::from_secs(30),
            total: Duration::from_secs(1800),
        }
    }
}

/// What is being done.
#[derive(Debug, Clone, Copy)]
pub enum Step<'a> {
    /// Another process fetches the same, and is waited for.
    Waiting,
    /// The archive comes in.
    Downloading {
        /// From where.
        url: &'a str,
        /// Bytes so far.
        received: u64,
        /// Bytes in all, where the server says.
        total: Option<u64>,
    },
    /// The archive has its checksum, and is being unpacked.
    Unpacking,
    /// It is there.
    Done {
        /// In which folder.
        folder: &'a Path,
    },
}
