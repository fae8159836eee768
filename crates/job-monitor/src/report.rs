//! Report: what the whole system looks like, as metrics. Every monitor reports, since any may be the one that is asked.

use crate::metrics::{BatchState, KindLabels, MONITOR_METRICS, StateLabels, TableLabels, WorkerLabels};
use crate::queue_report::JobCounts;
use crate::{DutyError, LOOK_SHARE};
use artifact_store::ArtifactStore;
use job_store::JobStore;
use job_store::reports::backlog::Demand;
use job_store::reports::gauges::Vitals;
use proving_model::AggregationRound;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

/// How many jobs of a kind are in a state.
type Count = fn(&JobCounts) -> i64;
/// The states that are reported, in their words.
const STATES: [(&str, Count); 5] = [
    ("queued", |kind| kind.queued),
    ("in_progress", |kind| kind.in_progress),
    ("waiting_for_proofs", |kind| kind.waiting),
    ("failed", |kind| kind.failed),
    ("paused", |kind| kind.paused),
];

/// What was reported before and is not any more goes to zero: a gauge that is left alone keeps its last value.
#[derive(Debug, Default)]
pub struct Reporter {
    kinds: BTreeSet<(String, String, String)>,
    workers: BTreeSet<(String, String)>,
    rests_until: Option<Instant>,
}

impl Reporter {
    /// Reports, unless the last report took so long that it is too early for the next.
    ///
    /// # Errors
    /// The store's.
    pub async fn run_once(&mut self, store: &JobStore, artifacts: &ArtifactStore) -> Result<(), DutyError> {
        if self.rests_until.is_some_and(|until| Instant::now() < until) {
            return Ok(());
        }
        let begun = Instant::now();
        let reported = self.report(store, artifacts).await;
        self.rests_until = Some(Instant::now() + begun.elapsed() * LOOK_SHARE);
        reported
    }

    async fn report(&mut self, store: &JobStore, artifacts: &ArtifactStore) -> Result<(), DutyError> {
        let (demand, vitals, workers) =
            (store.demand().await?, store.vitals().await?, store.workers(false).await?);
        self.report_demand(&demand);
        let mut counts: BTreeMap<(String, String), i64> =
            self.workers.iter().map(|known| (known.clone(), 0)).collect();
        let mut places = 0;
        for worker in workers {
            if worker.state == "live" {
                places += i64::from(worker.capacity);
            }
            *counts.entry((worker.component, worker.state)).or_default() += 1;
        }
        MONITOR_METRICS.places.set(places);
        for ((component, state), count) in counts {
            self.workers.insert((component.clone(), state.clone()));
            MONITOR_METRICS.workers[&WorkerLabels { component, state }].set(count);
        }
        let paused = store.paused().await?;
        MONITOR_METRICS.paused.set((paused.chains.len() + paused.stages.len()) as u64);
        if let Some(free) = artifacts.free_bytes() {
            MONITOR_METRICS.artifacts_free.set(free);
        }
        report_vitals(&vitals);
        Ok(())
    }

    fn report_demand(&mut self, demand: &[Demand]) {
        let mut kinds: BTreeMap<_, JobCounts> = BTreeMap::new();
        for kind in demand {
            let round = AggregationRound::from_number(kind.round).map_or("unknown", AggregationRound::as_str);
            let key = (kind.stage.clone(), round.to_owned(), kind.memory_class.clone());
            // Of all versions and chains: a label that grows with them has no bound.
            kinds.entry(key).or_default().add(JobCounts::of(kind));
        }
        self.kinds.extend(kinds.keys().cloned());
        for key in &self.kinds {
            let (stage, round, memory_class) = key.clone();
            let kind = kinds.get(key).copied().unwrap_or_default();
            for (status, count) in STATES {
                let (stage, round, memory_class) = key.clone();
                let labels = StateLabels { stage, round, memory_class, status };
                MONITOR_METRICS.jobs[&labels].set(count(&kind));
            }
            let labels = KindLabels { stage, round, memory_class };
            MONITOR_METRICS.backlog[&labels].set(kind.backlog_seconds);
            MONITOR_METRICS.oldest_queued[&labels].set(kind.oldest_seconds);
        }
    }
}

fn report_vitals(vitals: &Vitals) {
    MONITOR_METRICS.batches[&BatchState::Queued].set(vitals.batches_queued);
    MONITOR_METRICS.batches[&BatchState::InProgress].set(vitals.batches_in_progress);
    MONITOR_METRICS.batches[&BatchState::Failed].set(vitals.batches_failed);
    MONITOR_METRICS.oldest_batch.set(vitals.oldest_batch_seconds.unwrap_or(0.0));
    MONITOR_METRICS.late_batches.set(vitals.late_batches);
    MONITOR_METRICS.positions_used.set(vitals.positions_used);
    MONITOR_METRICS.time_left.set(vitals.time_left_seconds.unwrap_or(0.0));
    MONITOR_METRICS.proofs_last_hour.set(vitals.proofs_last_hour);
    MONITOR_METRICS.batches_last_hour.set(vitals.batches_last_hour);
    MONITOR_METRICS.database_size.set(vitals.database_bytes);
    for table in &vitals.tables {
        let labels = TableLabels { table: table.name.clone() };
        MONITOR_METRICS.table_size[&labels].set(table.bytes);
        MONITOR_METRICS.dead_rows[&labels].set(table.dead_rows);
    }
}
