-- Fewer writes a job: the table that every pick and every completion rewrites carries two indexes of its queue and its
-- primary key, and no foreign keys (each costs a look-up and a row lock a write; the transactions of job-store keep both
-- sides right, and its tests say so).

-- A job's id is made of its batch's position and its own place within the batch (job-store's model.rs), so it is known before
-- the row is there, inserting twice meets the primary key, and linking needs no look-ups.
ALTER TABLE job_attempts DROP CONSTRAINT job_attempts_job_id_fkey, DROP CONSTRAINT job_attempts_worker_id_fkey;
ALTER TABLE prover_jobs
    DROP CONSTRAINT prover_jobs_successor_id_fkey,
    DROP CONSTRAINT prover_jobs_worker_id_fkey,
    DROP CONSTRAINT prover_jobs_chain_id_batch_number_fkey,
    DROP CONSTRAINT lease_while_in_progress,
    ALTER id DROP IDENTITY,
    -- The jobs whose outputs this one consumes, in the order in which it takes them.
    ADD predecessor_ids bigint[] NOT NULL DEFAULT '{}';
UPDATE prover_jobs parent SET predecessor_ids = children.ids
FROM (SELECT successor_id, array_agg(id ORDER BY circuit_id, aggregation_round DESC, depth DESC, sequence_number) AS ids
      FROM prover_jobs WHERE successor_id IS NOT NULL GROUP BY successor_id) children
WHERE parent.id = children.successor_id;
DROP INDEX prover_jobs_successor;
CREATE TEMPORARY TABLE renamed ON COMMIT DROP AS
SELECT j.id AS old_id,
       -- Each shift in parentheses: | and << bind alike.
       (b.position << 37)
       | ((CASE j.stage WHEN 'witness_generation' THEN 0 WHEN 'circuit_proof' THEN 5 ELSE 10 END
           + CASE WHEN j.stage = 'compression' THEN 0 ELSE j.aggregation_round END)::bigint << 33)
       | (j.circuit_id::bigint << 25) | (j.depth::bigint << 20) | j.sequence_number::bigint AS new_id
FROM prover_jobs j JOIN batches b ON b.chain_id = j.chain_id AND b.number = j.batch_number;
UPDATE prover_jobs j SET
    id = r.new_id,
    successor_id = (SELECT s.new_id FROM renamed s WHERE s.old_id = j.successor_id),
    predecessor_ids = ARRAY(SELECT p.new_id FROM UNNEST(j.predecessor_ids) WITH ORDINALITY AS u (id, place)
                            JOIN renamed p ON p.old_id = u.id ORDER BY u.place)
FROM renamed r WHERE r.old_id = j.id;
UPDATE job_attempts a SET job_id = r.new_id FROM renamed r WHERE r.old_id = a.job_id;
ALTER TABLE prover_jobs
    DROP CONSTRAINT prover_jobs_chain_id_batch_number_aggregation_round_stage_c_key;

CREATE DOMAIN aggregation_round AS smallint CHECK (VALUE BETWEEN 0 AND 4);
-- Bytewise comparison: words need no language's order.
CREATE DOMAIN stage AS text COLLATE "C" CHECK (VALUE IN ('witness_generation', 'circuit_proof', 'compression'));
CREATE DOMAIN memory_class AS text COLLATE "C" CHECK (VALUE IN ('light', 'heavy'));
CREATE DOMAIN job_status AS text COLLATE "C" CHECK (VALUE IN (
    'waiting_for_proofs', 'queued', 'in_progress', 'successful', 'failed', 'cancelled'));
CREATE DOMAIN count2 AS smallint CHECK (VALUE >= 0);
CREATE DOMAIN count4 AS integer CHECK (VALUE >= 0);
CREATE DOMAIN count8 AS bigint CHECK (VALUE >= 0);
-- BLAKE3.
CREATE DOMAIN checksum AS bytea CHECK (octet_length(VALUE) = 32);

-- A lease holds as long as its worker's own row says: one heartbeat writes one row, however many leases there are.
ALTER TABLE workers
    -- Names the advisory lock that the worker's process holds while it lives.
    ADD number integer GENERATED ALWAYS AS IDENTITY UNIQUE,
    -- Past this time its leases may be given to others; each heartbeat moves it on.
    ADD expires_at timestamptz NOT NULL DEFAULT now();
ALTER TABLE workers ALTER expires_at DROP DEFAULT;
CREATE INDEX workers_expiry ON workers (expires_at) WHERE stopped_at IS NULL;
DROP INDEX prover_jobs_leased;
ALTER TABLE prover_jobs
    DROP COLUMN lease_expires_at,
    ADD CONSTRAINT lease_while_in_progress CHECK (
        (status = 'in_progress') = (lease_token IS NOT NULL) AND (lease_token IS NULL) = (worker_id IS NULL)
    ),
    -- Words and bounds of single columns become domains: those are checked where a value is written, and not at every
    -- update of the row. What holds between columns stays a CHECK.
    DROP CONSTRAINT prover_jobs_aggregation_round_check, DROP CONSTRAINT prover_jobs_stage_check,
    DROP CONSTRAINT prover_jobs_depth_check, DROP CONSTRAINT prover_jobs_sequence_number_check,
    DROP CONSTRAINT prover_jobs_memory_class_check, DROP CONSTRAINT prover_jobs_expected_cost_ms_check,
    DROP CONSTRAINT prover_jobs_status_check, DROP CONSTRAINT prover_jobs_dependencies_left_check,
    DROP CONSTRAINT prover_jobs_attempts_check, DROP CONSTRAINT prover_jobs_failures_check,
    DROP CONSTRAINT prover_jobs_worker_deaths_check, DROP CONSTRAINT prover_jobs_timeouts_check,
    DROP CONSTRAINT prover_jobs_regenerations_check, DROP CONSTRAINT prover_jobs_input_checksum_check,
    DROP CONSTRAINT prover_jobs_input_size_bytes_check, DROP CONSTRAINT prover_jobs_output_checksum_check,
    DROP CONSTRAINT prover_jobs_output_size_bytes_check,
    ALTER aggregation_round TYPE aggregation_round, ALTER stage TYPE stage, ALTER memory_class TYPE memory_class,
    ALTER status TYPE job_status, ALTER depth TYPE count2, ALTER sequence_number TYPE count4,
    ALTER expected_cost_ms TYPE count8, ALTER dependencies_left TYPE count4, ALTER attempts TYPE count4,
    ALTER failures TYPE count4, ALTER worker_deaths TYPE count4, ALTER timeouts TYPE count4,
    ALTER regenerations TYPE count4, ALTER input_checksum TYPE checksum, ALTER input_size_bytes TYPE count8,
    ALTER output_checksum TYPE checksum, ALTER output_size_bytes TYPE count8;
-- What pickers scan: queued rows only, in picking order. Every column has a fixed width and none is NULL, so that a comparison
-- finds its values without walking over the ones before.
DROP INDEX prover_jobs_queued;
UPDATE prover_jobs SET deadline = 'infinity' WHERE deadline IS NULL;
ALTER TABLE prover_jobs
    ALTER deadline SET NOT NULL, ALTER deadline SET DEFAULT 'infinity',
    -- Which pickers may take it: protocol version, stage and memory class in one number.
    ADD queue bigint NOT NULL GENERATED ALWAYS AS (
        (protocol_minor::bigint << 24) | (protocol_patch::bigint << 8)
        | CASE stage WHEN 'witness_generation' THEN 0 WHEN 'circuit_proof' THEN 2 ELSE 4 END
        | CASE memory_class WHEN 'light' THEN 0 ELSE 1 END) STORED,
    -- Its turn among the jobs of its batch: the round nearest to the final proof, then the longest.
    ADD turn bigint NOT NULL GENERATED ALWAYS AS (
        ((4 - aggregation_round::bigint) << 32) | (4294967295 - least(expected_cost_ms, 4294967295))) STORED;
CREATE INDEX prover_jobs_queued ON prover_jobs (queue, priority DESC, deadline, batch_position, turn, id)
    WHERE status = 'queued';
-- The leases of a worker.
CREATE INDEX prover_jobs_leased ON prover_jobs (worker_id) WHERE status = 'in_progress';

-- An attempt is written once, when it ends. One that runs is its job's row.
DELETE FROM job_attempts WHERE outcome IS NULL;
ALTER TABLE job_attempts ALTER outcome SET NOT NULL, ALTER finished_at SET NOT NULL, ALTER started_at DROP DEFAULT;
CREATE VIEW attempts AS
SELECT job_id, attempt, worker_id, lease_token, started_at, finished_at, outcome, error FROM job_attempts
UNION ALL
SELECT id, attempts, worker_id, lease_token, started_at, NULL, NULL, NULL FROM prover_jobs WHERE status = 'in_progress';
