DROP VIEW attempts;
DROP VIEW jobs;
DROP TABLE learned_circuits;
ALTER TABLE batches DROP COLUMN learned_at;
ALTER TABLE workers DROP COLUMN memory_budget_bytes;
ALTER TABLE job_attempts DROP COLUMN peak_memory_bytes;
ALTER TABLE prover_jobs DROP COLUMN peak_memory_bytes;
ALTER TABLE prover_jobs_archive DROP COLUMN peak_memory_bytes;
CREATE VIEW attempts AS
SELECT job_id, attempt, worker_id, lease_token, started_at, finished_at, outcome, error FROM job_attempts
UNION ALL
SELECT id, attempts, worker_id, lease_token, started_at, NULL, NULL, NULL FROM prover_jobs WHERE status = 'in_progress';
CREATE VIEW jobs AS
SELECT
    id, chain_id, batch_number, aggregation_round, stage, circuit_id, depth, sequence_number, memory_class, priority,
    deadline, start_tag, protocol_minor, protocol_patch, expected_cost_ms, status, successor_id, predecessor_ids,
    dependencies_left, not_before, attempts, failures, worker_deaths, timeouts, regenerations, worker_id, lease_token,
    progress, input_key, input_checksum, input_size_bytes, output_key, output_checksum, output_size_bytes, error,
    created_at, queued_at, started_at, finished_at
FROM prover_jobs
UNION ALL
SELECT
    id, chain_id, batch_number, aggregation_round, stage, circuit_id, depth, sequence_number, memory_class, priority,
    deadline, start_tag, protocol_minor, protocol_patch, expected_cost_ms, status, successor_id, predecessor_ids,
    dependencies_left, not_before, attempts, failures, worker_deaths, timeouts, regenerations, worker_id, lease_token,
    progress, input_key, input_checksum, input_size_bytes, output_key, output_checksum, output_size_bytes, error,
    created_at, queued_at, started_at, finished_at
FROM prover_jobs_archive;
