-- Admission by memory: what a job is expected to take, and what its attempts took.

-- Expected peak in bytes: what was learned of its circuit when it was inserted, or else what the proof system declares; 0 where nothing is known.
ALTER TABLE prover_jobs ADD peak_memory_bytes count8 NOT NULL DEFAULT 0;
ALTER TABLE prover_jobs_archive ADD peak_memory_bytes count8 NOT NULL DEFAULT 0;
-- Measured; NULL where the worker could not tell.
ALTER TABLE job_attempts ADD peak_memory_bytes count8;
-- What a worker lets its jobs take at the same time; NULL is no limit.
ALTER TABLE workers ADD memory_budget_bytes count8;

-- What is known of a circuit from its attempts.
CREATE TABLE learned_circuits (
    protocol_minor integer NOT NULL,
    protocol_patch integer NOT NULL,
    aggregation_round aggregation_round NOT NULL,
    circuit_id smallint NOT NULL,
    peak_memory_bytes count8 NOT NULL,
    learned_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (protocol_minor, protocol_patch, aggregation_round, circuit_id)
);
-- A finished batch is learned from once.
ALTER TABLE batches ADD learned_at timestamptz;
CREATE INDEX batches_to_learn ON batches (finished_at) WHERE learned_at IS NULL AND status = 'successful';

CREATE OR REPLACE VIEW jobs AS
SELECT
    id, chain_id, batch_number, aggregation_round, stage, circuit_id, depth, sequence_number, memory_class, priority,
    deadline, start_tag, protocol_minor, protocol_patch, expected_cost_ms, status, successor_id, predecessor_ids,
    dependencies_left, not_before, attempts, failures, worker_deaths, timeouts, regenerations, worker_id, lease_token,
    progress, input_key, input_checksum, input_size_bytes, output_key, output_checksum, output_size_bytes, error,
    created_at, queued_at, started_at, finished_at, peak_memory_bytes
FROM prover_jobs
UNION ALL
SELECT
    id, chain_id, batch_number, aggregation_round, stage, circuit_id, depth, sequence_number, memory_class, priority,
    deadline, start_tag, protocol_minor, protocol_patch, expected_cost_ms, status, successor_id, predecessor_ids,
    dependencies_left, not_before, attempts, failures, worker_deaths, timeouts, regenerations, worker_id, lease_token,
    progress, input_key, input_checksum, input_size_bytes, output_key, output_checksum, output_size_bytes, error,
    created_at, queued_at, started_at, finished_at, peak_memory_bytes
FROM prover_jobs_archive;
CREATE OR REPLACE VIEW attempts AS
SELECT job_id, attempt, worker_id, lease_token, started_at, finished_at, outcome, error, peak_memory_bytes FROM job_attempts
UNION ALL
SELECT id, attempts, worker_id, lease_token, started_at, NULL, NULL, NULL, NULL FROM prover_jobs WHERE status = 'in_progress';
