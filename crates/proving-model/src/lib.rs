//! The words of the pipeline as types: ids, rounds, states, versions, memory classes.
//!
//! Everything that crosses a boundary (SQL, artifact keys, metrics, help texts) is spelled here once.
//! The state machine of a job is [`JobStatus`]; `migrations/` repeats it as CHECK constraints, and a test of
//! `job-store` compares the two. Nothing here does I/O.

mod artifact;
mod deadline;
mod job;
mod version;

pub use artifact::{ArtifactKind, ArtifactRef};
pub use deadline::{Deadline, NoDeadline};
pub use job::{BatchId, BatchStatus, CircuitId, HeadOfChain, JobKey, JobStatus, MemoryClass, Stage};
pub use version::ProtocolVersion;

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use thiserror::Error;

/// A word that is not one of those allowed in its place.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{found:?} is no {what}; expected one of: {expected}")]
pub struct UnknownWord {
    /// What was being read, for example "aggregation round".
    pub what: &'static str,
    /// The word that was found.
    pub found: String,
    /// The words that would have been accepted.
    pub expected: &'static str,
}

/// Declares an enum whose variants each have one spelling, used in SQL, JSON, metrics and help texts alike.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $what:literal { $($(#[$vdoc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$vdoc])* $variant,)+ }

        impl $name {
            /// Every value, in declaration order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The one spelling of this value.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::UnknownWord;
            fn from_str(word: &str) -> Result<Self, Self::Err> {
                match word {
                    $($word => Ok(Self::$variant),)+
                    _ => Err($crate::UnknownWord {
                        what: $what,
                        found: word.to_owned(),
                        expected: concat!($($word, " "),+).trim_ascii_end(),
                    }),
                }
            }
        }
    };
}
pub(crate) use words;

/// The five rounds that turn a batch's circuits into one proof.
///
/// The order is the order of work: a higher round is nearer to the final proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AggregationRound {
    /// Round 0: the circuits that the witness input is cut into.
    BasicCircuits,
    /// Round 1: each verifies a group of basic proofs of one circuit.
    LeafAggregation,
    /// Round 2: each verifies a group of leaf or node proofs of one circuit; any depth.
    NodeAggregation,
    /// Round 3: verifies one proof for each basic circuit.
    RecursionTip,
    /// Round 4: ties the circuits together and exposes the statement.
    Scheduler,
}

impl AggregationRound {
    /// Every round, in the order of work.
    pub const ALL: [Self; 5] = [
        Self::BasicCircuits,
        Self::LeafAggregation,
        Self::NodeAggregation,
        Self::RecursionTip,
        Self::Scheduler,
    ];

    /// The round's number, 0 to 4, as stored and as shown.
    #[must_use]
    pub const fn number(self) -> i16 {
        self as i16
    }

    /// The round of this number, if there is one.
    #[must_use]
    pub fn from_number(number: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|round| round.number() == number)
    }

    /// The spelling of flags and labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BasicCircuits => "basic-circuits",
            Self::LeafAggregation => "leaf-aggregation",
            Self::NodeAggregation => "node-aggregation",
            Self::RecursionTip => "recursion-tip",
            Self::Scheduler => "scheduler",
        }
    }
}

impl fmt::Display for AggregationRound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for AggregationRound {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|round| round.as_str() == word).ok_or_else(|| UnknownWord {
            what: "aggregation round",
            found: word.to_owned(),
            expected: "basic-circuits leaf-aggregation node-aggregation recursion-tip scheduler",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_reads_back() {
        for round in AggregationRound::ALL {
            assert_eq!(round.as_str().parse(), Ok(round));
            assert_eq!(AggregationRound::from_number(round.number()), Some(round));
        }
        for status in JobStatus::ALL {
            assert_eq!(status.as_str().parse(), Ok(*status));
        }
        let error = "tip".parse::<AggregationRound>().unwrap_err().to_string();
        assert!(error.contains("\"tip\"") && error.contains("recursion-tip"), "{error}");
    }
}
