-- Finished work leaves the table that pickers scan: batch by batch into the archive, and from there, when it is old enough, for good.

-- The columns of prover_jobs, without those that only picking needs; a test compares them. No worker reads or writes it.
CREATE TABLE prover_jobs_archive (LIKE prover_jobs, PRIMARY KEY (id));
ALTER TABLE prover_jobs_archive DROP COLUMN queue, DROP COLUMN turn;
ALTER TABLE batches
    -- When its jobs left prover_jobs; NULL while they are there.
    ADD archived_at timestamptz,
    -- When its jobs and their attempts left the archive for good.
    ADD jobs_deleted_at timestamptz;
-- What the archive duty looks for. A failed batch stays where an operator can requeue it.
CREATE INDEX batches_to_archive ON batches (finished_at)
    WHERE archived_at IS NULL AND status IN ('successful', 'cancelled');
CREATE INDEX batches_to_delete ON batches (archived_at) WHERE archived_at IS NOT NULL AND jobs_deleted_at IS NULL;

-- Every job, wherever it is: for reports.
CREATE VIEW jobs AS
SELECT
    id, chain_id, batch_number, aggregation_round, stage, circuit_id, depth, sequence_number, memory_class,
    priority, deadline, start_tag, protocol_minor, protocol_patch, expected_cost_ms, status, successor_id,
    predecessor_ids, dependencies_left, not_before, attempts, failures, worker_deaths, timeouts, regenerations,
    worker_id, lease_token, progress, input_key, input_checksum, input_size_bytes, output_key, output_checksum,
    output_size_bytes, error, created_at, queued_at, started_at, finished_at
FROM prover_jobs
UNION ALL
SELECT
    id, chain_id, batch_number, aggregation_round, stage, circuit_id, depth, sequence_number, memory_class,
    priority, deadline, start_tag, protocol_minor, protocol_patch, expected_cost_ms, status, successor_id,
    predecessor_ids, dependencies_left, not_before, attempts, failures, worker_deaths, timeouts, regenerations,
    worker_id, lease_token, progress, input_key, input_checksum, input_size_bytes, output_key, output_checksum,
    output_size_bytes, error, created_at, queued_at, started_at, finished_at
FROM prover_jobs_archive;

-- Each job dies twice here, when it is picked and when it is completed. The server's default, a fifth of the table, would leave millions
-- of dead rows and index entries between pickers and the head of a long queue.
ALTER TABLE prover_jobs SET (
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0,
    autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_analyze_scale_factor = 0.05);
