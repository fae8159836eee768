UPDATE prover_jobs j SET start_tag = b.position FROM batches b WHERE b.chain_id = j.chain_id AND b.number = j.batch_number;
-- What was held back for the head of its chain.
UPDATE prover_jobs SET status = 'queued', dependencies_left = 0, queued_at = now()
    WHERE status = 'waiting_for_proofs' AND stage = 'witness_generation' AND aggregation_round = 0;
ALTER TABLE prover_jobs RENAME start_tag TO batch_position;
DROP INDEX batches_unfinished;
DROP INDEX batches_started;
ALTER TABLE batches DROP COLUMN start_tag;
DROP TABLE chains;
