ALTER TABLE prover_jobs RESET (
    autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold, autovacuum_vacuum_cost_delay,
    autovacuum_vacuum_insert_scale_factor, autovacuum_analyze_scale_factor);
DROP VIEW jobs;
INSERT INTO prover_jobs (
    id, chain_id, batch_number, aggregation_round, stage, circuit_id, depth, sequence_number, memory_class,
    priority, deadline, start_tag, protocol_minor, protocol_patch, expected_cost_ms, status, successor_id,
    predecessor_ids, dependencies_left, not_before, attempts, failures, worker_deaths, timeouts, regenerations,
    worker_id, lease_token, progress, input_key, input_checksum, input_size_bytes, output_key, output_checksum,
    output_size_bytes, error, created_at, queued_at, started_at, finished_at)
SELECT
    id, chain_id, batch_number, aggregation_round, stage, circuit_id, depth, sequence_number, memory_class,
    priority, deadline, start_tag, protocol_minor, protocol_patch, expected_cost_ms, status, successor_id,
    predecessor_ids, dependencies_left, not_before, attempts, failures, worker_deaths, timeouts, regenerations,
    worker_id, lease_token, progress, input_key, input_checksum, input_size_bytes, output_key, output_checksum,
    output_size_bytes, error, created_at, queued_at, started_at, finished_at
FROM prover_jobs_archive;
DROP TABLE prover_jobs_archive;
ALTER TABLE batches DROP COLUMN archived_at, DROP COLUMN jobs_deleted_at;
