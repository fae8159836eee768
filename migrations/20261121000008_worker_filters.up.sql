-- What each worker takes: so that whoever asks why a job does not run can be told that nobody takes it.

CREATE TABLE worker_filters (
    worker_id uuid NOT NULL REFERENCES workers (id) ON DELETE CASCADE,
    -- As prover_jobs.queue: protocol version, stage and memory class.
    queue bigint NOT NULL,
    rounds smallint[] NOT NULL,
    PRIMARY KEY (worker_id, queue)
);
