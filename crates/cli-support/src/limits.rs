//! Bounds of the numbers that flags take.
//!
//! Times are added to the clock, handed to timers and to the database, and multiplied; somewhere on the way a time near 2^64 stops
//! the thread that has it, while the process looks healthy. Numbers of threads and jobs are memory. So every such flag has
//! bounds, beyond which no value makes sense.

use clap::builder::RangedU64ValueParser;
use std::ops::RangeInclusive;

/// The longest time between two looks, heartbeats or the like: a day, in milliseconds.
const MILLISECONDS_MAX: u64 = 24 * 3_600 * 1_000;
/// The longest time of a job, a drain, or a rest before the archive: a year, in seconds.
const SECONDS_MAX: u64 = 365 * 24 * 3_600;
/// The longest time that something is kept: a hundred years, in days.
const DAYS_MAX: u64 = 100 * 365;
/// Most threads or jobs at the same time in one process.
const PLACES_MAX: u64 = 4_096;

fn from(range: RangeInclusive<u64>) -> RangedU64ValueParser {
    RangedU64ValueParser::new().range(range)
}

/// Milliseconds, from `least` to a day.
#[must_use]
pub fn milliseconds(least: u64) -> RangedU64ValueParser {
    from(least..=MILLISECONDS_MAX)
}

/// Seconds, from `least` to a year.
#[must_use]
pub fn seconds(least: u64) -> RangedU64ValueParser {
    from(least..=SECONDS_MAX)
}

/// Hours, from `least` to a hundred years.
#[must_use]
pub fn hours(least: u64) -> RangedU64ValueParser {
    from(least..=DAYS_MAX * 24)
}

/// Days, from `least` to a hundred years.
#[must_use]
pub fn days(least: u64) -> RangedU64ValueParser {
    from(least..=DAYS_MAX)
}

/// Threads or jobs at the same time, from `least` to 4,096.
#[must_use]
pub fn places(least: u64) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(least..=PLACES_MAX)
}
