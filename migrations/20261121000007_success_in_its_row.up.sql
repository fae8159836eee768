-- The attempt that succeeded is its job's row, as the one that runs is: of a thousand attempts 999 succeed, and each wrote a second row,
-- with an index entry, in the transaction that everyone waits for. And the columns stand in the order that costs least: an attribute
-- behind one of variable width, or behind a NULL, is found by walking over all before it, which each write of a row does for each
-- indexed column.

DROP VIEW attempts;
DROP VIEW jobs;
ALTER TABLE prover_jobs RENAME TO prover_jobs_before;
ALTER TABLE prover_jobs_archive RENAME TO prover_jobs_archive_before;
ALTER INDEX prover_jobs_queued RENAME TO prover_jobs_before_queued;
ALTER INDEX prover_jobs_leased RENAME TO prover_jobs_before_leased;
ALTER TABLE prover_jobs_before RENAME CONSTRAINT prover_jobs_pkey TO prover_jobs_before_pkey;
ALTER TABLE prover_jobs_archive_before RENAME CONSTRAINT prover_jobs_archive_pkey TO prover_jobs_archive_before_pkey;

-- Every job of every stage: one row a job, one state machine for all (proving_model::JobStatus).
CREATE TABLE prover_jobs (
    -- Made of its batch's position and its own place within the batch (job-store's model.rs).
    id bigint PRIMARY KEY,
    -- The pick index: which pickers may take it (protocol version, stage and memory class in one number), then whose turn it is. Priority
    -- and deadline are copies of the batch's, so that picking reads one table; without a deadline it is infinity.
    queue bigint NOT NULL,
    deadline timestamptz NOT NULL DEFAULT 'infinity',
    -- Fair share between chains: see chains.
    start_tag bigint NOT NULL,
    -- Among the jobs of a batch: the round nearest to the final proof, then the longest.
    turn bigint NOT NULL,
    -- Not picked before this time: backoff between retries.
    not_before timestamptz NOT NULL DEFAULT now(),
    -- Expected peak in bytes: what was learned of its circuit when it was inserted, or else what the proof system declares; 0 where
    -- nothing is known.
    peak_memory_bytes count8 NOT NULL DEFAULT 0,
    chain_id bigint NOT NULL,
    batch_number bigint NOT NULL,
    expected_cost_ms count8 NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    priority integer NOT NULL,
    protocol_minor integer NOT NULL,
    protocol_patch integer NOT NULL,
    -- Position among the siblings of the same round, circuit and depth.
    sequence_number count4 NOT NULL,
    -- How many jobs with this one as successor are not successful yet. Kept exact by every transaction that changes either side.
    dependencies_left count4 NOT NULL,
    -- Leases given out so far; numbers the attempts.
    attempts count4 NOT NULL DEFAULT 0,
    -- Budgets, counted apart: failures that the job reported, deaths of its worker, timeouts.
    failures count4 NOT NULL DEFAULT 0,
    worker_deaths count4 NOT NULL DEFAULT 0,
    timeouts count4 NOT NULL DEFAULT 0,
    -- How often its output was lost and it had to run again.
    regenerations count4 NOT NULL DEFAULT 0,
    -- How far the attempt at hand says that it is, 0 to 1.
    progress real NOT NULL DEFAULT 0,
    -- 0 basic circuits, 1 leaf, 2 node, 3 recursion tip, 4 scheduler.
    aggregation_round aggregation_round NOT NULL,
    circuit_id smallint NOT NULL,
    -- Level within the node round, 0 elsewhere.
    depth count2 NOT NULL,
    status job_status NOT NULL,
    -- The lease: who holds it, and the token that every later write must show. It ends when the worker's own row says so.
    worker_id uuid,
    lease_token uuid,
    -- The attempt that succeeded: who made it, its token, what it was seen to take of memory (NULL where the worker could not tell).
    completed_by uuid,
    completed_token uuid,
    measured_memory_bytes count8,
    queued_at timestamptz,
    started_at timestamptz,
    finished_at timestamptz,
    -- The job that consumes this one's output; NULL until it is known, and for the last job of a batch.
    successor_id bigint,
    stage stage NOT NULL,
    memory_class memory_class NOT NULL,
    -- Basic circuits only: the circuit that the witness generator wrote. Other jobs read their predecessors' outputs.
    input_size_bytes count8,
    input_checksum checksum,
    input_key text,
    -- The artifact that counts; other attempts' artifacts are litter.
    output_size_bytes count8,
    output_checksum checksum,
    output_key text,
    -- The jobs whose outputs this one consumes, in the order in which it takes them.
    predecessor_ids bigint[] NOT NULL DEFAULT '{}',
    -- The last attempt's error, or why the job was put back.
    error text,
    CONSTRAINT state_is_whole CHECK (CASE status
        WHEN 'in_progress' THEN dependencies_left = 0 AND lease_token IS NOT NULL AND worker_id IS NOT NULL
            AND completed_token IS NULL
        WHEN 'successful' THEN dependencies_left = 0 AND lease_token IS NULL AND worker_id IS NULL
            AND completed_token IS NOT NULL AND completed_by IS NOT NULL
        ELSE lease_token IS NULL AND worker_id IS NULL AND completed_token IS NULL AND output_key IS NULL
            AND (status <> 'queued' OR dependencies_left = 0)
            AND (status <> 'waiting_for_proofs' OR dependencies_left > 0)
        END)
) WITH (
    -- Each job dies twice here, when it is picked and when it is completed. The server's default, a fifth of the table, would leave
    -- millions of dead rows and index entries between pickers and the head of a long queue.
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0,
    autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_analyze_scale_factor = 0.05
);

WITH succeeded AS (
    DELETE FROM job_attempts a USING prover_jobs_before j
    WHERE a.job_id = j.id AND a.attempt = j.attempts AND a.outcome = 'successful' AND j.status = 'successful'
    RETURNING a.*
)
INSERT INTO prover_jobs
SELECT id, queue, deadline, start_tag, turn, not_before, j.peak_memory_bytes, chain_id, batch_number, expected_cost_ms, created_at,
       priority, protocol_minor, protocol_patch, sequence_number, dependencies_left, attempts, failures, worker_deaths, timeouts,
       regenerations, progress, aggregation_round, circuit_id, depth, status, j.worker_id, j.lease_token,
       -- Nobody knows who completed a job whose attempt is not in the books.
       CASE WHEN status = 'successful' THEN coalesce(s.worker_id, '00000000-0000-0000-0000-000000000000') END,
       CASE WHEN status = 'successful' THEN coalesce(s.lease_token, gen_random_uuid()) END,
       s.peak_memory_bytes, queued_at, j.started_at, j.finished_at, successor_id, stage, memory_class,
       input_size_bytes, input_checksum, input_key, output_size_bytes, output_checksum, output_key, predecessor_ids, j.error
FROM prover_jobs_before j LEFT JOIN succeeded s ON s.job_id = j.id;
DROP TABLE prover_jobs_before;

-- What pickers scan: queued rows only, in picking order. Every column has a fixed width and none is NULL, so that a comparison
-- finds its values without walking over the ones before.
CREATE INDEX prover_jobs_queued ON prover_jobs (queue, priority DESC, deadline, start_tag, turn, id)
    WHERE status = 'queued';
-- The leases of a worker.
CREATE INDEX prover_jobs_leased ON prover_jobs (worker_id) WHERE status = 'in_progress';

-- The very same columns, so that a batch moves as it is. No worker reads or writes it.
CREATE TABLE prover_jobs_archive (LIKE prover_jobs, PRIMARY KEY (id));
WITH succeeded AS (
    DELETE FROM job_attempts a USING prover_jobs_archive_before j
    WHERE a.job_id = j.id AND a.attempt = j.attempts AND a.outcome = 'successful' AND j.status = 'successful'
    RETURNING a.*
)
INSERT INTO prover_jobs_archive
SELECT id,
       (protocol_minor::bigint << 24) | (protocol_patch::bigint << 8)
       | CASE stage WHEN 'witness_generation' THEN 0 WHEN 'circuit_proof' THEN 2 ELSE 4 END
       | CASE memory_class WHEN 'light' THEN 0 ELSE 1 END,
       deadline, start_tag,
       ((4 - aggregation_round::bigint) << 32) | (4294967295 - least(expected_cost_ms, 4294967295)),
       not_before, j.peak_memory_bytes, chain_id, batch_number, expected_cost_ms, created_at,
       priority, protocol_minor, protocol_patch, sequence_number, dependencies_left, attempts, failures, worker_deaths, timeouts,
       regenerations, progress, aggregation_round, circuit_id, depth, status, j.worker_id, j.lease_token,
       CASE WHEN status = 'successful' THEN coalesce(s.worker_id, '00000000-0000-0000-0000-000000000000') END,
       CASE WHEN status = 'successful' THEN coalesce(s.lease_token, gen_random_uuid()) END,
       s.peak_memory_bytes, queued_at, j.started_at, j.finished_at, successor_id, stage, memory_class,
       input_size_bytes, input_checksum, input_key, output_size_bytes, output_checksum, output_key, predecessor_ids, j.error
FROM prover_jobs_archive_before j LEFT JOIN succeeded s ON s.job_id = j.id;
DROP TABLE prover_jobs_archive_before;

-- Every job, wherever it is: for reports.
CREATE VIEW jobs AS SELECT * FROM prover_jobs UNION ALL SELECT * FROM prover_jobs_archive;
-- Every attempt: those that ended otherwise, those that run, those that succeeded.
CREATE VIEW attempts AS
SELECT job_id, attempt, worker_id, lease_token, started_at, finished_at, outcome, error, peak_memory_bytes FROM job_attempts
UNION ALL
SELECT id, attempts, worker_id, lease_token, started_at, NULL, NULL, NULL, NULL FROM prover_jobs WHERE status = 'in_progress'
UNION ALL
SELECT id, attempts, completed_by, completed_token, started_at, finished_at, 'successful', NULL, measured_memory_bytes
FROM prover_jobs WHERE status = 'successful'
UNION ALL
SELECT id, attempts, completed_by, completed_token, started_at, finished_at, 'successful', NULL, measured_memory_bytes
FROM prover_jobs_archive WHERE status = 'successful';
