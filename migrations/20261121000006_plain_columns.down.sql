DROP INDEX prover_jobs_queued;
ALTER TABLE prover_jobs
    DROP COLUMN queue, DROP COLUMN turn,
    ADD queue bigint NOT NULL GENERATED ALWAYS AS (
        (protocol_minor::bigint << 24) | (protocol_patch::bigint << 8)
        | CASE stage WHEN 'witness_generation' THEN 0 WHEN 'circuit_proof' THEN 2 ELSE 4 END
        | CASE memory_class WHEN 'light' THEN 0 ELSE 1 END) STORED,
    ADD turn bigint NOT NULL GENERATED ALWAYS AS (
        ((4 - aggregation_round::bigint) << 32) | (4294967295 - least(expected_cost_ms, 4294967295))) STORED;
CREATE INDEX prover_jobs_queued ON prover_jobs (queue, priority DESC, deadline, start_tag, turn, id)
    WHERE status = 'queued';
