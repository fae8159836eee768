//! How a batch stands to its deadline.

use proving_model::BatchStatus;
use schemars::JsonSchema;
use serde::Serialize;

/// How a batch stands to its deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeadlineStanding {
    /// It was proven in time.
    Met,
    /// It was proven too late.
    Missed,
    /// It is not proven, and the time is over.
    Passed,
    /// It is not proven, and by the estimate it will not be in time.
    AtRisk,
    /// It is not proven, and nothing says that it will not be in time.
    OnTime,
}

impl DeadlineStanding {
    /// From the seconds between the batch's end, or now, and the deadline, and an estimate of the seconds that the batch will take yet;
    /// `None` for one that was cancelled.
    #[must_use]
    pub fn of(status: BatchStatus, margin_seconds: f64, time_left_seconds: Option<f64>) -> Option<Self> {
        Some(match (status, margin_seconds < 0.0) {
            (BatchStatus::Cancelled, _) => return None,
            (BatchStatus::Successful, false) => Self::Met,
            (BatchStatus::Successful, true) => Self::Missed,
            (_, true) => Self::Passed,
            (_, false) if time_left_seconds.is_some_and(|left| left > margin_seconds) => Self::AtRisk,
            (_, false) => Self::OnTime,
        })
    }

    /// In words.
    #[must_use]
    pub const fn in_words(self) -> &'static str {
        match self {
            Self::Met => "met",
            Self::Missed => "missed",
            Self::Passed => "passed",
            Self::AtRisk => "at risk",
            Self::OnTime => "on time",
        }
    }
}
