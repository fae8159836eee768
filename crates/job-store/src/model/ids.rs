//! The ids of jobs, and the numbers that a job's row is sorted and picked by.

use crate::model::error::StoreError;
use proving_model::{AggregationRound, CircuitId, JobKey, MemoryClass, ProtocolVersion, Stage};

/// Bits of a job's id, from the lowest: sequence number, depth, circuit, lane (stage and round), and above them the batch's
/// position. The sign bit stays free.
const SEQUENCE_BITS: u32 = 20;

const DEPTH_BITS: u32 = 5;

const CIRCUIT_BITS: u32 = 8;

const LANE_BITS: u32 = 4;

/// Lanes: the witness generation of each round, then the proofs of each round, then the batch's compression.
const PROOF_LANES: i16 = 5;

const COMPRESSION_LANE: i16 = 10;

/// Bits of the place within the batch; the position takes the rest.
pub(crate) const PLACE_BITS: u32 = SEQUENCE_BITS + DEPTH_BITS + CIRCUIT_BITS + LANE_BITS;

/// The last position that a batch can have; the schema's sequence ends there.
pub(crate) const POSITION_MAX: i64 = (1 << (i64::BITS - 1 - PLACE_BITS)) - 1;

/// Stage and round in one number, as a job's id has them.
pub(crate) fn lane(stage: Stage, round: AggregationRound) -> i16 {
    match stage {
        Stage::WitnessGeneration => round.number(),
        Stage::CircuitProof => PROOF_LANES + round.number(),
        Stage::Compression => COMPRESSION_LANE,
    }
}

/// The id of the job at a place of the batch at a position. Two jobs never share one, and it can be told before the row is
/// there.
///
/// # Errors
/// [`StoreError::Invalid`] for a place beyond what an id holds: circuit 255, depth 31, sequence number 1,048,575.
pub(crate) fn job_id(position: i64, key: &JobKey) -> Result<i64, StoreError> {
    let parts = [
        (i64::from(lane(key.stage, key.round)), LANE_BITS),
        (i64::from(key.circuit_id.0), CIRCUIT_BITS),
        (i64::from(key.depth), DEPTH_BITS),
        (i64::from(key.sequence), SEQUENCE_BITS),
    ];
    let mut id = position;
    for (part, bits) in parts {
        if !(0..1 << bits).contains(&part) {
            return Err(StoreError::Invalid(format!(
                "{key} cannot be stored: a batch holds circuits up to {}, depths up to {}, {} jobs of a kind",
                (1 << CIRCUIT_BITS) - 1,
                (1 << DEPTH_BITS) - 1,
                1 << SEQUENCE_BITS
            )));
        }
        id = id << bits | part;
    }
    Ok(id)
}

/// The column `queue`: which pickers may take a job, by protocol version, stage and memory class in one number.
pub(crate) fn queue(version: ProtocolVersion, stage: Stage, class: MemoryClass) -> i64 {
    let stage = match stage {
        Stage::WitnessGeneration => 0,
        Stage::CircuitProof => 2,
        Stage::Compression => 4,
    };
    let class = match class {
        MemoryClass::Light => 0,
        MemoryClass::Heavy => 1,
    };
    i64::from(version.minor) << 24 | i64::from(version.patch) << 8 | stage | class
}

/// The memory class that a `queue` tells.
pub(crate) fn memory_class(queue: i64) -> MemoryClass {
    if queue & 1 == 0 { MemoryClass::Light } else { MemoryClass::Heavy }
}

/// The column `rank_in_batch`: a job's turn among those of its batch, the round nearest to the final proof first, then the longest.
pub(crate) fn rank_in_batch(round: AggregationRound, expected_cost_ms: i64) -> i64 {
    let last = AggregationRound::Scheduler.number() - round.number();
    i64::from(last) << 32 | (i64::from(u32::MAX) - expected_cost_ms.clamp(0, u32::MAX.into()))
}

/// The position of a job's batch.
pub(crate) const fn position_of(job_id: i64) -> i64 {
    job_id >> PLACE_BITS
}

/// Writes a job's id as JSON has it: as a text. From the 65,536th batch on it has more bits than a double, which is what jq and
/// browsers read a number as, and would round it to the id of another job.
///
/// # Errors
/// The serializer's own.
pub fn job_id_as_text<S: serde::Serializer>(job_id: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(job_id)
}

/// The ids of a batch's jobs: from the first, up to and without the second.
pub(crate) fn ids_of_batch(position: i64) -> (i64, i64) {
    (position << PLACE_BITS, (position + 1) << PLACE_BITS)
}

/// The ids of a batch's basic circuits: from the first, up to and without the second.
pub(crate) fn ids_of_basic_circuits(position: i64) -> Result<(i64, i64), StoreError> {
    let of_round = |round| {
        let key =
            JobKey { round, stage: Stage::CircuitProof, circuit_id: CircuitId(0), depth: 0, sequence: 0 };
        job_id(position, &key)
    };
    Ok((of_round(AggregationRound::BasicCircuits)?, of_round(AggregationRound::LeafAggregation)?))
}

/// The id of the job that cuts the batch's input into circuits.
pub(crate) fn generator_id(position: i64) -> Result<i64, StoreError> {
    job_id(position, &GENERATOR)
}

/// The place of the job that cuts a batch's input into circuits.
pub(crate) const GENERATOR: JobKey = JobKey {
    round: AggregationRound::BasicCircuits,
    stage: Stage::WitnessGeneration,
    circuit_id: CircuitId(0),
    depth: 0,
    sequence: 0,
};

/// The place within its batch that a job's id tells.
///
/// # Errors
/// [`StoreError::Schema`] for an id that [`job_id`] does not make.
pub(crate) fn job_key(id: i64) -> Result<JobKey, StoreError> {
    let bad = || StoreError::Schema(format!("a row has the id {id}, which is no job's"));
    let mut rest = id;
    let mut part = |bits: u32| {
        let part = rest & ((1 << bits) - 1);
        rest >>= bits;
        i32::try_from(part).map_err(|_| bad())
    };
    let sequence = part(SEQUENCE_BITS)?;
    let (depth, circuit, lane) = (part(DEPTH_BITS)?, part(CIRCUIT_BITS)?, part(LANE_BITS)?);
    let narrow = |part: i32| i16::try_from(part).map_err(|_| bad());
    let (stage, round) = match narrow(lane)? {
        COMPRESSION_LANE => (Stage::Compression, AggregationRound::Scheduler.number()),
        lane if lane >= PROOF_LANES => (Stage::CircuitProof, lane - PROOF_LANES),
        lane => (Stage::WitnessGeneration, lane),
    };
    let round = AggregationRound::from_number(round).ok_or_else(bad)?;
    Ok(JobKey { round, stage, circuit_id: CircuitId(narrow(circuit)?), depth: narrow(depth)?, sequence })
}

/// The queue in which a paused chain's jobs stand instead of their own, and the other way round.
pub(crate) fn held_queue(queue: i64) -> i64 {
    -1 - queue
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_within_and_between_batches_and_tell_their_batch() {
        let mut ids = std::collections::BTreeSet::new();
        for position in [1, 2, 77] {
            let (first, end) = ids_of_batch(position);
            for stage in Stage::ALL {
                for round in AggregationRound::ALL {
                    // All compressions are one lane: a batch has one.
                    if *stage == Stage::Compression && round != AggregationRound::Scheduler {
                        continue;
                    }
                    for (circuit, depth, sequence) in
                        [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (255, 31, 1_048_575)]
                    {
                        let key =
                            JobKey { round, stage: *stage, circuit_id: CircuitId(circuit), depth, sequence };
                        let id = job_id(position, &key).expect("within the limits");
                        assert!(ids.insert(id), "{key}");
                        assert!((first..end).contains(&id) && position_of(id) == position, "{key}");
                        assert_eq!(job_key(id).expect("made above"), key);
                    }
                }
            }
        }
    }

    #[test]
    fn ids_of_no_job_are_refused() {
        for lane in 11..16 {
            let id = 1 << PLACE_BITS | lane << (SEQUENCE_BITS + DEPTH_BITS + CIRCUIT_BITS);
            assert!(matches!(job_key(id), Err(StoreError::Schema(_))), "lane {lane}");
        }
    }

    #[test]
    fn a_queue_tells_its_memory_class() {
        for class in MemoryClass::ALL {
            let queue = queue(ProtocolVersion { minor: 29, patch: 1 }, Stage::CircuitProof, *class);
            assert_eq!(memory_class(queue), *class);
        }
    }

    #[test]
    fn places_beyond_an_id_are_refused() {
        for (circuit, depth, sequence) in [(256, 0, 0), (0, 32, 0), (0, 0, 1_048_576), (-1, 0, 0), (0, 0, -1)]
        {
            let key = JobKey { circuit_id: CircuitId(circuit), depth, sequence, ..GENERATOR };
            assert!(matches!(job_id(1, &key), Err(StoreError::Invalid(_))), "{key}");
        }
    }
}
