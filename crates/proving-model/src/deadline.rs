//! When a batch's final proof should be there.

use chrono::{DateTime, Datelike, SecondsFormat, SubsecRound, Utc};
use std::{fmt, str::FromStr};
use thiserror::Error;

/// Years that a moment in the database may have.
const YEARS: std::ops::Range<i32> = 2000..2200;

/// A moment, to the second, in the form of RFC 3339.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(DateTime<Utc>);

/// A text that is no deadline.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{0:?} is no deadline: it must be a moment as RFC 3339 has it, with its distance to UTC, from 2000 to 2199, such as \
     2026-11-21T18:00:00Z or 2026-11-21T19:00:00+01:00"
)]
pub struct NoDeadline(String);

impl FromStr for Deadline {
    type Err = NoDeadline;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let moment = DateTime::parse_from_rfc3339(text).ok().map(|moment| moment.to_utc().trunc_subsecs(0));
        moment
            .filter(|moment| YEARS.contains(&moment.year()))
            .map(Self)
            .ok_or_else(|| NoDeadline(text.to_owned()))
    }
}

impl fmt::Display for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.to_rfc3339_opts(SecondsFormat::Secs, true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_a_moment_of_rfc_3339_and_nothing_else() {
        for (text, same) in [
            ("2026-11-21T18:00:00Z", "2026-11-21T18:00:00Z"),
            ("2026-11-21T18:00:00.75+01:00", "2026-11-21T17:00:00Z"),
            ("2199-12-31T23:59:59-00:00", "2199-12-31T23:59:59Z"),
        ] {
            assert_eq!(text.parse::<Deadline>().map(|deadline| deadline.to_string()), Ok(same.to_owned()));
        }
        for text in [
            "tomorrow",
            "infinity",
            "now",
            "",
            "2026-11-21",
            "2026-11-21T18:00:00",
            "18:00",
            "2026-13-01T00:00:00Z",
            "1999-12-31T23:59:59Z",
            "2200-01-01T00:00:00Z",
            "1795802400",
            "20260-99-99T00:00:00Z",
        ] {
            assert!(text.parse::<Deadline>().is_err(), "{text:?}");
        }
    }
}
