//! `GET /queue_report`: demand, for whatever starts and stops machines by it.
//!
//! One entry a protocol version, with the fields that autoscalers of this field read (`version`, and under `report` seven kinds of job with
//! `queued` and `in_progress`); beside them the rest of each kind's numbers, and under `demand` the same by stage, round, memory class
//! and chain. A version that has nothing to do is there with zeros: machines of it may stop.

use job_store::reports::backlog::Demand;
use job_store::{JobStore, StoreError};
use proving_model::{AggregationRound, Stage};
use serde::Serialize;
use std::collections::BTreeMap;

/// The jobs of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct JobCounts {
    /// They may be picked.
    pub queued: i64,
    /// Workers have them.
    pub in_progress: i64,
    /// They wait for others' outputs.
    pub waiting: i64,
    /// Their budgets are spent.
    pub failed: i64,
    /// They could be picked, and are held back by an operator.
    pub paused: i64,
    /// Seconds for which the oldest queued one has been so.
    pub oldest_seconds: f64,
    /// What those that are queued or in progress will take, in seconds of one worker.
    pub backlog_seconds: f64,
}

/// The kinds of job that autoscalers know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Report {
    /// Cutting inputs into circuits.
    pub basic_witness_jobs: JobCounts,
    /// Aggregating basic proofs.
    pub leaf_witness_jobs: JobCounts,
    /// Aggregating leaves and nodes.
    pub node_witness_jobs: JobCounts,
    /// Aggregating the last nodes.
    pub recursion_tip_witness_jobs: JobCounts,
    /// Making the scheduler's circuit.
    pub scheduler_witness_jobs: JobCounts,
    /// Proving circuits, of all rounds.
    pub prover_jobs: JobCounts,
    /// Making small final proofs.
    pub proof_compressor_jobs: JobCounts,
}

/// The jobs of one kind, further apart.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DemandOfKind {
    /// Chain.
    pub chain_id: i64,
    /// The stage.
    pub stage: String,
    /// The round.
    pub round: &'static str,
    /// Memory class.
    pub memory_class: String,
    /// Its jobs.
    #[serde(flatten)]
    pub jobs: JobCounts,
}

/// What there is to do for one protocol version.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct VersionReport {
    /// The version, as 0.MINOR.PATCH.
    pub version: String,
    /// By the kinds that autoscalers know.
    pub report: Report,
    /// By stage, round, memory class and chain.
    pub demand: Vec<DemandOfKind>,
}

impl JobCounts {
    pub(crate) fn of(demand: &Demand) -> Self {
        Self {
            queued: demand.queued,
            in_progress: demand.in_progress,
            waiting: demand.waiting,
            failed: demand.failed,
            paused: demand.paused,
            oldest_seconds: demand.oldest_seconds.unwrap_or(0.0),
            backlog_seconds: demand.backlog_seconds,
        }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.queued += other.queued;
        self.in_progress += other.in_progress;
        self.waiting += other.waiting;
        self.failed += other.failed;
        self.paused += other.paused;
        self.oldest_seconds = self.oldest_seconds.max(other.oldest_seconds);
        self.backlog_seconds += other.backlog_seconds;
    }
}

impl Report {
    fn kind(&mut self, stage: Stage, round: AggregationRound) -> &mut JobCounts {
        match (stage, round) {
            (Stage::CircuitProof, _) => &mut self.prover_jobs,
            (Stage::Compression, _) => &mut self.proof_compressor_jobs,
            (Stage::WitnessGeneration, AggregationRound::BasicCircuits) => &mut self.basic_witness_jobs,
            (Stage::WitnessGeneration, AggregationRound::LeafAggregation) => &mut self.leaf_witness_jobs,
            (Stage::WitnessGeneration, AggregationRound::NodeAggregation) => &mut self.node_witness_jobs,
            (Stage::WitnessGeneration, AggregationRound::RecursionTip) => {
                &mut self.recursion_tip_witness_jobs
            }
            (Stage::WitnessGeneration, AggregationRound::Scheduler) => &mut self.scheduler_witness_jobs,
        }
    }
}

/// What there is to do, by protocol version.
///
/// # Errors
/// The store's.
pub async fn queue_report(store: &JobStore) -> Result<Vec<VersionReport>, StoreError> {
    let (versions, demand) = tokio::try_join!(store.versions(), store.demand())?;
    let mut reports: BTreeMap<(i32, i32), VersionReport> =
        versions.iter().map(|known| ((known.minor, known.patch), VersionReport::default())).collect();
    for kind in demand {
        let stage = kind.stage.parse().map_err(|e| StoreError::Schema(format!("{e}")))?;
        let round = AggregationRound::from_number(kind.round)
            .ok_or_else(|| StoreError::Schema(format!("a row has the round {}", kind.round)))?;
        let report = reports.entry((kind.protocol_minor, kind.protocol_patch)).or_default();
        let jobs = JobCounts::of(&kind);
        report.report.kind(stage, round).add(jobs);
        report.demand.push(DemandOfKind {
            chain_id: kind.chain_id,
            stage: kind.stage,
            round: round.as_str(),
            memory_class: kind.memory_class,
            jobs,
        });
    }
    Ok(reports
        .into_iter()
        .map(|((minor, patch), report)| VersionReport { version: format!("0.{minor}.{patch}"), ..report })
        .collect())
}
