-- What operators need: pauses, and looks at everything that do not read everything.

-- Nothing of a paused chain or stage is leased; what runs goes on.

-- A paused chain's jobs stand in queues that no picker looks at, -1 - their own: a picker that skipped them one by one would
-- walk over all of them at each pick.
ALTER TABLE chains ADD paused_at timestamptz;
-- Few rows, read once a pick.
CREATE TABLE paused_stages (
    stage stage PRIMARY KEY,
    paused_at timestamptz NOT NULL DEFAULT now()
);

-- The archive is filled a batch at a time as batches end, so a range of time is a range of its pages.
CREATE INDEX prover_jobs_archive_finished ON prover_jobs_archive USING brin (finished_at) WITH (pages_per_range = 32);
-- For looks at everything: batches that are open, those that ended lately, and what went wrong lately.
CREATE INDEX batches_open ON batches (status, position) WHERE status IN ('queued', 'in_progress', 'failed');
CREATE INDEX batches_ended ON batches (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX job_attempts_troubled ON job_attempts (finished_at)
    WHERE outcome IN ('failed', 'timed_out', 'worker_died', 'input_lost');

-- What was made for a batch, but for its input and its final proof, goes from the object store when the batch has been over for a while.
ALTER TABLE batches ADD collected_at timestamptz;
CREATE INDEX batches_to_collect ON batches (finished_at)
    WHERE collected_at IS NULL AND status IN ('successful', 'cancelled');
-- Batches that were deleted, until all of theirs is gone.
CREATE TABLE deleted_batches (
    chain_id bigint NOT NULL,
    number bigint NOT NULL,
    deleted_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (chain_id, number)
);

-- Who leads the job monitors' duties: one at a time, as long as it says so often enough.
CREATE TABLE duties (
    name text PRIMARY KEY,
    leader uuid NOT NULL,
    host text NOT NULL,
    pid integer NOT NULL,
    expires_at timestamptz NOT NULL
);

-- A job monitor works on no jobs.
ALTER TABLE workers DROP CONSTRAINT workers_capacity_check, ADD CONSTRAINT workers_capacity_check CHECK (capacity >= 0);
