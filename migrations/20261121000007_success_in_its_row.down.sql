DROP VIEW attempts;
DROP VIEW jobs;
INSERT INTO job_attempts
    (job_id, attempt, worker_id, lease_token, started_at, finished_at, outcome, peak_memory_bytes)
SELECT id, attempts, completed_by, completed_token, coalesce(started_at, finished_at, now()), coalesce(finished_at, now()),
       'successful', measured_memory_bytes
FROM (SELECT * FROM prover_jobs UNION ALL SELECT * FROM prover_jobs_archive) AS jobs
WHERE status = 'successful'
ON CONFLICT DO NOTHING;
ALTER TABLE prover_jobs
    DROP CONSTRAINT state_is_whole,
    DROP COLUMN completed_by, DROP COLUMN completed_token, DROP COLUMN measured_memory_bytes,
    ADD CONSTRAINT lease_while_in_progress CHECK (
        (status = 'in_progress') = (lease_token IS NOT NULL) AND (lease_token IS NULL) = (worker_id IS NULL)
    ),
    ADD CONSTRAINT dependencies_match_status CHECK (
        (status <> 'waiting_for_proofs' OR dependencies_left > 0)
        AND (status NOT IN ('queued', 'in_progress', 'successful') OR dependencies_left = 0)
    ),
    ADD CONSTRAINT output_only_when_successful CHECK (output_key IS NULL OR status = 'successful');
ALTER TABLE prover_jobs_archive
    DROP COLUMN completed_by, DROP COLUMN completed_token, DROP COLUMN measured_memory_bytes,
    DROP COLUMN queue, DROP COLUMN turn;
CREATE VIEW jobs AS
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
CREATE VIEW attempts AS
SELECT job_id, attempt, worker_id, lease_token, started_at, finished_at, outcome, error, peak_memory_bytes FROM job_attempts
UNION ALL
SELECT id, attempts, worker_id, lease_token, started_at, NULL, NULL, NULL, NULL FROM prover_jobs WHERE status = 'in_progress';
