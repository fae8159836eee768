-- The order of batches: fair between chains, and within a chain by number.

-- Settings of a chain, and its place in the fair share. A chain that was never named has the defaults.
CREATE TABLE chains (
    chain_id bigint PRIMARY KEY CHECK (chain_id >= 0),
    -- preferred: earlier batches first, as far as none waits for another. strict: a batch waits until all earlier ones that
    -- are known are proven.
    head_of_chain text NOT NULL DEFAULT 'preferred' CHECK (head_of_chain IN ('preferred', 'strict')),
    -- Of the fleet, against the other chains' shares.
    share integer NOT NULL DEFAULT 1 CHECK (share BETWEEN 1 AND 1000),
    -- Start-time fair queueing: where the chain's next batch may start at the earliest, in virtual time.
    finish_tag bigint NOT NULL DEFAULT 0
);

-- A batch's start in virtual time: batches are worked on in this order, over all chains.
ALTER TABLE batches ADD start_tag bigint;
UPDATE batches SET start_tag = position << 20;
ALTER TABLE batches ALTER start_tag SET NOT NULL;
INSERT INTO chains (chain_id, finish_tag)
    SELECT chain_id, max(start_tag) + (1 << 20) FROM batches GROUP BY chain_id;
-- Virtual time is the latest start.
CREATE INDEX batches_started ON batches (start_tag) WHERE started_at IS NOT NULL;
-- What a chain has not proven yet.
CREATE INDEX batches_unfinished ON batches (chain_id, number) WHERE status IN ('queued', 'in_progress', 'failed');

ALTER TABLE prover_jobs RENAME batch_position TO start_tag;
UPDATE prover_jobs SET start_tag = start_tag << 20;
