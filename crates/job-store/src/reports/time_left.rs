//! How far a batch is, by circuit, and how long it will take yet.

use crate::batches::find::Batch;
use crate::database::metrics::QueryTimer;
use crate::model::error::StoreError;
use crate::model::ids::ids_of_batch;
use crate::reports::counts::StateCounts;
use proving_model::{AggregationRound, Stage};
use schemars::JsonSchema;
use serde::Serialize;
use sqlx::PgConnection;
use std::collections::BTreeMap;

/// The jobs of one stage, round and circuit of a batch.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct CircuitProgress {
    /// Round number, 0 to 4.
    pub round: i16,
    /// The stage.
    pub stage: String,
    /// The circuit.
    pub circuit_id: i16,
    /// Their states.
    pub jobs: StateCounts,
    /// Half of the batch's successful attempts took at most so long.
    pub p50_seconds: Option<f64>,
    /// All but a twentieth of them did.
    pub p95_seconds: Option<f64>,
    /// What one is expected to take: the mean of this batch's, or else of the last proven batch's of this protocol version, or else what
    /// the proof system declares.
    pub expected_seconds: f64,
    /// For how long those that run have run, together.
    pub running_seconds: f64,
}

/// The time to a batch's final proof, in seconds, from what its jobs are expected to take: the work that is left over as many jobs at a
/// time as run now, and not less than the longest job of each step that is left, one step after the other.
///
/// `None` where that cannot be told: the input is not cut yet, so that nobody knows how much there is; nothing of the batch runs; or a
/// job has failed for good.
#[must_use]
pub fn estimate_seconds(circuits: &[CircuitProgress]) -> Option<f64> {
    let is_generator = |circuit: &&CircuitProgress| {
        circuit.round == AggregationRound::BasicCircuits.number()
            && circuit.stage == Stage::WitnessGeneration.as_str()
    };
    let is_cut = circuits.iter().find(is_generator)?.jobs.successful > 0;
    let running: i64 = circuits.iter().map(|circuit| circuit.jobs.in_progress).sum();
    if !is_cut || running == 0 || circuits.iter().any(|circuit| circuit.jobs.failed > 0) {
        return None;
    }
    let mut work = 0.0;
    // Steps follow each other: rounds, and within a round the generation of circuits and their proofs.
    let mut steps: BTreeMap<(bool, i16, bool), f64> = BTreeMap::new();
    for circuit in circuits {
        let StateCounts { waiting, queued, in_progress, .. } = circuit.jobs;
        let left = waiting + queued + in_progress;
        if left == 0 {
            continue;
        }
        #[allow(clippy::cast_precision_loss, reason = "an estimate")]
        let seconds = left as f64 * circuit.expected_seconds - circuit.running_seconds;
        work += seconds.max(0.0);
        let is_compression = circuit.stage == Stage::Compression.as_str();
        let is_proof = circuit.stage == Stage::CircuitProof.as_str();
        let longest = steps.entry((is_compression, circuit.round, is_proof)).or_default();
        let one = if waiting + queued > 0 { circuit.expected_seconds } else { seconds.max(0.0) };
        *longest = longest.max(one);
    }
    #[allow(clippy::cast_precision_loss, reason = "an estimate")]
    let spread = work / running as f64;
    Some(spread.max(steps.values().sum()))
}

struct Row {
    round: i16,
    stage: String,
    circuit_id: i16,
    waiting: i64,
    queued: i64,
    in_progress: i64,
    successful: i64,
    failed: i64,
    p50: Option<f64>,
    p95: Option<f64>,
    expected: f64,
    running: f64,
}

/// The jobs of a batch, by circuit.
pub(crate) async fn circuit_progress(
    connection: &mut PgConnection,
    batch: &Batch,
) -> Result<Vec<CircuitProgress>, StoreError> {
    let _timer = QueryTimer::start("circuit_progress");
    let (first, past) = ids_of_batch(batch.position);
    let rows = sqlx::query_as!(
        Row,
        r#"WITH before AS (
               SELECT position AS id FROM batches
               WHERE finished_at IS NOT NULL AND status = 'successful' AND position <> $3
                 AND protocol_minor = $4 AND protocol_patch = $5
               ORDER BY finished_at DESC LIMIT 1
           ), known AS (
               SELECT aggregation_round AS round, stage, circuit_id,
                      avg(date_part('epoch', finished_at - started_at)) AS seconds
               FROM all_prover_jobs
               WHERE id >= (SELECT id FROM before) << 37
                 AND id < ((SELECT id FROM before) + 1) << 37
                 AND status = 'successful'
               GROUP BY 1, 2, 3
           ), own AS (
               SELECT aggregation_round AS round, stage, circuit_id, status, expected_cost_ms,
                      date_part('epoch', finished_at - started_at) AS took,
                      date_part('epoch', now() - started_at) AS takes
               FROM all_prover_jobs WHERE id >= $1 AND id < $2
           ), counted AS (
               SELECT round, stage, circuit_id,
                      count(*) FILTER (WHERE status = 'waiting_for_proofs') AS waiting,
                      count(*) FILTER (WHERE status = 'queued') AS queued,
                      count(*) FILTER (WHERE status = 'in_progress') AS in_progress,
                      count(*) FILTER (WHERE status = 'successful') AS successful,
                      count(*) FILTER (WHERE status = 'failed') AS failed,
                      percentile_cont(0.5) WITHIN GROUP (ORDER BY took)
                          FILTER (WHERE status = 'successful') AS p50,
                      percentile_cont(0.95) WITHIN GROUP (ORDER BY took)
                          FILTER (WHERE status = 'successful') AS p95,
                      avg(took) FILTER (WHERE status = 'successful') AS mean,
                      (avg(expected_cost_ms) / 1000)::float8 AS declared,
                      sum(takes) FILTER (WHERE status = 'in_progress') AS running
               FROM own GROUP BY 1, 2, 3)
           SELECT round AS "round!", stage AS "stage!", circuit_id AS "circuit_id!",
                  waiting AS "waiting!", queued AS "queued!", in_progress AS "in_progress!",
                  successful AS "successful!", failed AS "failed!", p50, p95,
                  coalesce(mean, seconds, declared, 0) AS "expected!",
                  coalesce(running, 0) AS "running!"
           FROM counted LEFT JOIN known USING (round, stage, circuit_id)
           ORDER BY round, stage DESC, circuit_id"#,
        first,
        past,
        batch.position,
        i32::from(batch.version.minor),
        i32::from(batch.version.patch)
    )
    .fetch_all(connection)
    .await?;
    let circuit = |row: Row| CircuitProgress {
        round: row.round,
        stage: row.stage,
        circuit_id: row.circuit_id,
        jobs: StateCounts {
            waiting: row.waiting,
            queued: row.queued,
            in_progress: row.in_progress,
            successful: row.successful,
            failed: row.failed,
        },
        p50_seconds: row.p50,
        p95_seconds: row.p95,
        expected_seconds: row.expected,
        running_seconds: row.running,
    };
    Ok(rows.into_iter().map(circuit).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::float_cmp, reason = "sums of small whole numbers")]

    use super::*;

    fn circuit(round: i16, stage: Stage, jobs: StateCounts, expected_seconds: f64) -> CircuitProgress {
        CircuitProgress {
            round,
            stage: stage.as_str().to_owned(),
            circuit_id: 1,
            jobs,
            p50_seconds: None,
            p95_seconds: None,
            expected_seconds,
            running_seconds: 0.0,
        }
    }

    #[test]
    fn what_is_left_is_spread_over_what_runs_and_no_step_is_skipped() {
        let none = StateCounts::default();
        let generator = circuit(0, Stage::WitnessGeneration, StateCounts { successful: 1, ..none }, 9.0);
        let running = StateCounts { queued: 18, in_progress: 2, successful: 7, ..none };
        let waiting = StateCounts { waiting: 1, ..none };
        let mut basics = circuit(0, Stage::CircuitProof, running, 10.0);
        basics.running_seconds = 4.0;
        let leaf = circuit(1, Stage::CircuitProof, waiting, 20.0);
        // 20 × 10 − 4 + 20 seconds of work, two at a time.
        assert_eq!(estimate_seconds(&[generator.clone(), basics.clone(), leaf.clone()]), Some(108.0));
        // With a hundred at a time the steps remain: one circuit, one leaf.
        basics.jobs = StateCounts { queued: 1, in_progress: 100, ..none };
        basics.running_seconds = 1_000.0;
        assert_eq!(estimate_seconds(&[generator.clone(), basics.clone(), leaf.clone()]), Some(30.0));
        let idle = circuit(0, Stage::CircuitProof, StateCounts { queued: 3, ..none }, 10.0);
        assert_eq!(estimate_seconds(&[generator.clone(), idle]), None, "nothing runs");
        let failed = circuit(0, Stage::CircuitProof, StateCounts { in_progress: 1, failed: 1, ..none }, 10.0);
        assert_eq!(estimate_seconds(&[generator, failed]), None, "it will not end");
        let cutting = circuit(0, Stage::WitnessGeneration, StateCounts { in_progress: 1, ..none }, 9.0);
        assert_eq!(estimate_seconds(&[cutting, basics]), None, "nobody knows how much there is");
    }
}
