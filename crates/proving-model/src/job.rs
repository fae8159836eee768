//! Batches, jobs, and the states that they pass through.

use crate::{AggregationRound, words};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A batch: the unit that a user asks to have proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BatchId {
    /// The chain that the batch belongs to; 0 for a single chain.
    pub chain_id: u32,
    /// The batch's number within its chain.
    pub number: u32,
}

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "batch {} of chain {}", self.number, self.chain_id)
    }
}

/// Which circuit of its round. A leaf or node carries the id of the basic circuit that it aggregates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CircuitId(pub i16);

impl fmt::Display for CircuitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

words! {
    /// What kind of work a job is.
    Stage, "stage" {
        /// Turns the input, or proofs, into the circuits of a round.
        WitnessGeneration = "witness_generation",
        /// Synthesises one circuit's witness vector and proves it.
        CircuitProof = "circuit_proof",
        /// Wraps the scheduler's proof into the small final proof.
        Compression = "compression",
    }
}

words! {
    /// How much memory a circuit's synthesis takes, by class; decides which runners may take it.
    MemoryClass, "memory class" {
        /// Any runner may take it.
        Light = "light",
        /// Only heavy runners take it, before all else.
        Heavy = "heavy",
    }
}

words! {
    /// The state of a job.
    ///
    /// ```text
    /// waiting_for_proofs ──▶ queued ──▶ in_progress ──▶ successful ──▶ queued (its artifact was lost)
    ///          ▲              ▲  ▲          │ │ ├──────▶ failed      (fatal, or its retry budget is spent)
    ///          │              │  └──────────┘ │ └──────▶ cancelled   (also from waiting and queued)
    ///          │              │   released, retried, or lease lost
    ///          └──────────────┼───────────────┘ an input artifact is missing or corrupt
    ///                         └─ requeue (operator), from failed and cancelled
    /// ```
    JobStatus, "job status" {
        /// Some proofs that it consumes are not there yet.
        WaitingForProofs = "waiting_for_proofs",
        /// May be picked, once its backoff is over.
        Queued = "queued",
        /// A worker holds its lease.
        InProgress = "in_progress",
        /// Done; its row names the artifact that counts.
        Successful = "successful",
        /// Will not be tried again by itself; the row says why.
        Failed = "failed",
        /// Taken out by an operator.
        Cancelled = "cancelled",
    }
}

impl JobStatus {
    /// Whether the state machine has an edge from this state to `next`.
    #[must_use]
    pub fn may_become(self, next: Self) -> bool {
        use JobStatus as S;
        matches!(
            (self, next),
            (S::WaitingForProofs, S::Queued | S::Cancelled)
                | (S::Queued, S::InProgress | S::Cancelled)
                | (S::InProgress, S::Queued | S::Successful | S::Failed | S::Cancelled | S::WaitingForProofs)
                | (S::Successful | S::Failed | S::Cancelled, S::Queued)
        )
    }
}

words! {
    /// The state of a batch.
    BatchStatus, "batch status" {
        /// No job of it was picked yet.
        Queued = "queued",
        /// Jobs of it are being worked on.
        InProgress = "in_progress",
        /// Its final proof is there.
        Successful = "successful",
        /// A job of it failed for good; requeue it to go on.
        Failed = "failed",
        /// Taken out by an operator.
        Cancelled = "cancelled",
    }
}

words! {
    /// How the batches of a chain wait for each other.
    HeadOfChain, "chain order" {
        /// Earlier batches first, as far as none waits for another.
        Preferred = "preferred",
        /// A batch waits until all earlier ones that are known are proven.
        Strict = "strict",
    }
}

/// A job's place within its batch; unique, and the same whichever attempt computes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct JobKey {
    /// The round whose circuit this job makes, proves, or compresses.
    pub round: AggregationRound,
    /// The kind of work.
    pub stage: Stage,
    /// Which circuit of the round.
    pub circuit_id: CircuitId,
    /// Level within the node round, 0 for the nodes right above the leaves; 0 elsewhere.
    pub depth: i16,
    /// Position among its siblings, from 0.
    pub sequence: i32,
}

impl fmt::Display for JobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} (circuit {}, depth {}, number {})",
            self.round, self.stage, self.circuit_id, self.depth, self.sequence
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finished_jobs_only_go_back_to_the_queue() {
        for done in [JobStatus::Successful, JobStatus::Failed, JobStatus::Cancelled] {
            for next in JobStatus::ALL {
                assert_eq!(done.may_become(*next), *next == JobStatus::Queued, "{done} -> {next}");
            }
        }
        assert!(!JobStatus::WaitingForProofs.may_become(JobStatus::InProgress));
        assert!(!JobStatus::Queued.may_become(JobStatus::Successful));
    }
}
