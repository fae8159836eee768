DROP VIEW attempts;
ALTER TABLE job_attempts ALTER outcome DROP NOT NULL, ALTER finished_at DROP NOT NULL, ALTER started_at SET DEFAULT now();
-- Leases are not carried back: their workers are those of the newer program.
UPDATE prover_jobs SET status = 'queued', lease_token = NULL, worker_id = NULL WHERE status = 'in_progress';
DROP INDEX prover_jobs_leased;
DROP INDEX prover_jobs_queued;
ALTER TABLE prover_jobs
    DROP COLUMN queue, DROP COLUMN turn, ALTER deadline DROP NOT NULL, ALTER deadline DROP DEFAULT,
    DROP CONSTRAINT lease_while_in_progress,
    ADD lease_expires_at timestamptz,
    ADD CONSTRAINT lease_while_in_progress CHECK (
        (status = 'in_progress') = (lease_token IS NOT NULL)
        AND (lease_token IS NULL) = (lease_expires_at IS NULL)
        AND (lease_token IS NULL) = (worker_id IS NULL)
    ),
    ALTER aggregation_round TYPE smallint, ALTER stage TYPE text COLLATE "default",
    ALTER memory_class TYPE text COLLATE "default", ALTER status TYPE text COLLATE "default",
    ALTER depth TYPE smallint, ALTER sequence_number TYPE integer, ALTER expected_cost_ms TYPE bigint,
    ALTER dependencies_left TYPE integer, ALTER attempts TYPE integer, ALTER failures TYPE integer,
    ALTER worker_deaths TYPE integer, ALTER timeouts TYPE integer, ALTER regenerations TYPE integer,
    ALTER input_checksum TYPE bytea, ALTER input_size_bytes TYPE bigint,
    ALTER output_checksum TYPE bytea, ALTER output_size_bytes TYPE bigint,
    ADD CHECK (aggregation_round BETWEEN 0 AND 4),
    ADD CHECK (stage IN ('witness_generation', 'circuit_proof', 'compression')),
    ADD CHECK (depth >= 0), ADD CHECK (sequence_number >= 0), ADD CHECK (memory_class IN ('light', 'heavy')),
    ADD CHECK (expected_cost_ms >= 0),
    ADD CHECK (status IN ('waiting_for_proofs', 'queued', 'in_progress', 'successful', 'failed', 'cancelled')),
    ADD CHECK (dependencies_left >= 0), ADD CHECK (attempts >= 0), ADD CHECK (failures >= 0),
    ADD CHECK (worker_deaths >= 0), ADD CHECK (timeouts >= 0), ADD CHECK (regenerations >= 0),
    ADD CHECK (octet_length(input_checksum) = 32), ADD CHECK (input_size_bytes >= 0),
    ADD CHECK (octet_length(output_checksum) = 32), ADD CHECK (output_size_bytes >= 0),
    ADD CONSTRAINT prover_jobs_chain_id_batch_number_aggregation_round_stage_c_key
        UNIQUE (chain_id, batch_number, aggregation_round, stage, circuit_id, depth, sequence_number),
    DROP COLUMN predecessor_ids,
    ALTER id ADD GENERATED ALWAYS AS IDENTITY;
SELECT setval(pg_get_serial_sequence('prover_jobs', 'id'), coalesce(max(id), 1)) FROM prover_jobs;
CREATE INDEX prover_jobs_leased ON prover_jobs (lease_expires_at) WHERE status = 'in_progress';
UPDATE prover_jobs SET deadline = NULL WHERE deadline = 'infinity';
CREATE INDEX prover_jobs_queued ON prover_jobs (
    stage, protocol_minor, protocol_patch, memory_class,
    priority DESC, deadline ASC NULLS LAST, batch_position, aggregation_round DESC, expected_cost_ms DESC, id
) WHERE status = 'queued';
CREATE INDEX prover_jobs_successor ON prover_jobs (successor_id) WHERE successor_id IS NOT NULL;
DROP DOMAIN aggregation_round, stage, memory_class, job_status, count2, count4, count8, checksum;
DROP INDEX workers_expiry;
ALTER TABLE workers DROP COLUMN number, DROP COLUMN expires_at;
ALTER TABLE prover_jobs
    ADD CONSTRAINT prover_jobs_chain_id_batch_number_fkey
        FOREIGN KEY (chain_id, batch_number) REFERENCES batches (chain_id, number) ON DELETE CASCADE,
    ADD CONSTRAINT prover_jobs_successor_id_fkey FOREIGN KEY (successor_id) REFERENCES prover_jobs (id),
    ADD CONSTRAINT prover_jobs_worker_id_fkey FOREIGN KEY (worker_id) REFERENCES workers (id);
ALTER TABLE job_attempts
    ADD CONSTRAINT job_attempts_job_id_fkey FOREIGN KEY (job_id) REFERENCES prover_jobs (id) ON DELETE CASCADE,
    ADD CONSTRAINT job_attempts_worker_id_fkey FOREIGN KEY (worker_id) REFERENCES workers (id);
