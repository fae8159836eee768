-- The store's schema. From here on migrations are append-only: a change is a new file.
--
-- Time is always the database's: now() within statements, defaults elsewhere. Words in CHECK constraints are those of the Rust enums in
-- crates/proving-model; a test compares the two.

-- Values that a statement over many rows cannot stumble over: one row that another hand wrote must not stop all others. So counters stay
-- where they can be added to, and moments where they can be subtracted.
CREATE DOMAIN non_negative_int4 AS integer CHECK (VALUE BETWEEN 0 AND 1000000000);
CREATE DOMAIN non_negative_int8 AS bigint CHECK (VALUE >= 0);
CREATE DOMAIN moment AS timestamptz CHECK (isfinite(VALUE));
-- Virtual time of the fair share.
CREATE DOMAIN virtual_time AS bigint CHECK (VALUE BETWEEN 0 AND 4611686018427387904);
-- BLAKE3.
CREATE DOMAIN checksum AS bytea CHECK (octet_length(VALUE) = 32);
-- Bytewise comparison: words need no language's order.
CREATE DOMAIN stage AS text COLLATE "C" CHECK (VALUE IN ('witness_generation', 'circuit_proof', 'compression'));
CREATE DOMAIN job_status AS text COLLATE "C"
    CHECK (VALUE IN ('waiting_for_proofs', 'queued', 'in_progress', 'successful', 'failed', 'cancelled'));
-- 0 basic circuits, 1 leaf, 2 node, 3 recursion tip, 4 scheduler.
CREATE DOMAIN aggregation_round AS smallint CHECK (VALUE BETWEEN 0 AND 4);

-- A protocol version and the verification keys that it stands for. Workers take only jobs of their own.
CREATE TABLE protocol_versions (
    minor integer NOT NULL CHECK (minor BETWEEN 0 AND 65535),
    patch integer NOT NULL CHECK (patch BETWEEN 0 AND 65535),
    -- Name of the proof system that proves this version.
    proof_system text NOT NULL,
    -- Digest of all verification keys; a worker whose keys differ refuses to start.
    verification_keys_digest text NOT NULL,
    created_at moment NOT NULL DEFAULT now(),
    PRIMARY KEY (minor, patch)
);

-- Settings of a chain, and its place in the fair share. A chain that was never named has the defaults.
CREATE TABLE chains (
    chain_id bigint PRIMARY KEY CHECK (chain_id >= 0),
    -- preferred: earlier batches first, as far as none waits for another. strict: a batch waits until all earlier ones that are known
    -- are proven.
    head_of_chain text NOT NULL DEFAULT 'preferred' CHECK (head_of_chain IN ('preferred', 'strict')),
    -- Of the fleet, against the other chains' shares.
    share integer NOT NULL DEFAULT 1 CHECK (share BETWEEN 1 AND 1000),
    -- Start-time fair queueing: where the chain's next batch may start at the earliest, in virtual time.
    finish_tag virtual_time NOT NULL DEFAULT 0,
    -- Nothing of a paused chain is leased; what runs goes on.
    paused_at moment
);

-- A batch: the unit that a user asks to have proven.
CREATE TABLE batches (
    -- The programs have 32 bits for each.
    chain_id bigint NOT NULL,
    number bigint NOT NULL,
    -- Order of arrival over all chains. A job's id begins with it and has 26 bits for it: from the sequence's end on ids would be negative,
    -- and then those of other batches' jobs.
    position bigint GENERATED ALWAYS AS IDENTITY (MAXVALUE 67108863) UNIQUE,
    status text NOT NULL DEFAULT 'queued'
        CHECK (status IN ('queued', 'in_progress', 'successful', 'failed', 'cancelled')),
    protocol_minor integer NOT NULL,
    protocol_patch integer NOT NULL,
    -- Higher is sooner; every job of the batch inherits it.
    priority integer NOT NULL DEFAULT 0,
    -- When the final proof should be there.
    deadline timestamptz,
    -- Start-time fair queueing: batches are worked on in this order, over all chains. Virtual time is the latest start.
    start_tag virtual_time NOT NULL,
    -- The witness input: key, BLAKE3 and size of the artifact.
    input_key text NOT NULL,
    input_checksum bytea NOT NULL CHECK (octet_length(input_checksum) = 32),
    input_size_bytes bigint NOT NULL CHECK (input_size_bytes >= 0),
    -- The final proof, once it is there.
    final_proof_key text,
    final_proof_checksum bytea CHECK (octet_length(final_proof_checksum) = 32),
    final_proof_size_bytes bigint CHECK (final_proof_size_bytes >= 0),
    -- Why the batch failed.
    error text,
    created_at moment NOT NULL DEFAULT now(),
    started_at moment,
    finished_at moment,
    -- When its measurements were learned from.
    learned_at moment,
    -- When its artifacts, but for its input and its final proof, left the object store.
    collected_at moment,
    -- When its jobs went into the archive, and when they and their attempts left it for good.
    archived_at moment,
    jobs_deleted_at moment,
    PRIMARY KEY (chain_id, number),
    FOREIGN KEY (protocol_minor, protocol_patch) REFERENCES protocol_versions (minor, patch),
    CONSTRAINT chain_and_number_have_32_bits
        CHECK (chain_id BETWEEN 0 AND 4294967295 AND number BETWEEN 0 AND 4294967295),
    CONSTRAINT position_fits_a_jobs_id CHECK (position BETWEEN 1 AND 67108863),
    CHECK ((status = 'successful') = (final_proof_key IS NOT NULL))
);
-- What a chain has not proven yet; the virtual time.
CREATE INDEX batches_unfinished ON batches (chain_id, number) WHERE status IN ('queued', 'in_progress', 'failed');
CREATE INDEX batches_started ON batches (start_tag) WHERE started_at IS NOT NULL;
-- What the job monitor's duties look for. A failed batch stays where an operator can requeue it.
CREATE INDEX batches_to_learn ON batches (finished_at) WHERE learned_at IS NULL AND status = 'successful';
CREATE INDEX batches_to_collect ON batches (finished_at)
    WHERE collected_at IS NULL AND status IN ('successful', 'cancelled');
CREATE INDEX batches_to_archive ON batches (finished_at)
    WHERE archived_at IS NULL AND status IN ('successful', 'cancelled');
CREATE INDEX batches_to_delete ON batches (archived_at) WHERE archived_at IS NOT NULL AND jobs_deleted_at IS NULL;
-- For reports on everything: batches that are open, and those that ended lately.
CREATE INDEX batches_open ON batches (status, position) WHERE status IN ('queued', 'in_progress', 'failed');
CREATE INDEX batches_ended ON batches (finished_at) WHERE finished_at IS NOT NULL;

-- Batches that were deleted, until all of their artifacts are gone.
CREATE TABLE deleted_batches (
    chain_id bigint NOT NULL,
    number bigint NOT NULL,
    deleted_at moment NOT NULL DEFAULT now(),
    PRIMARY KEY (chain_id, number),
    CHECK (chain_id BETWEEN 0 AND 4294967295 AND number BETWEEN 0 AND 4294967295)
);

-- Stages of which nothing is leased. Few rows, read once for each pick.
CREATE TABLE paused_stages (
    stage stage PRIMARY KEY,
    paused_at moment NOT NULL DEFAULT now()
);

-- The memory that a circuit is expected to take, from its attempts.
CREATE TABLE learned_circuits (
    protocol_minor integer NOT NULL,
    protocol_patch integer NOT NULL,
    aggregation_round aggregation_round NOT NULL,
    circuit_id smallint NOT NULL,
    peak_memory_bytes non_negative_int8 NOT NULL,
    learned_at moment NOT NULL DEFAULT now(),
    PRIMARY KEY (protocol_minor, protocol_patch, aggregation_round, circuit_id)
);

-- A process that leases jobs. Its row is also the lease of all its jobs: they end when it expires.
CREATE TABLE workers (
    id uuid PRIMARY KEY,
    -- Component name, for example circuit-prover.
    component text NOT NULL,
    host text NOT NULL,
    pid integer NOT NULL,
    -- Jobs that it works on at the same time; a job monitor works on none.
    capacity integer NOT NULL CHECK (capacity >= 0),
    protocol_minor integer NOT NULL,
    protocol_patch integer NOT NULL,
    -- What it lets its jobs take of memory at the same time; NULL is no limit.
    memory_budget_bytes non_negative_int8,
    started_at moment NOT NULL DEFAULT now(),
    heartbeat_at moment NOT NULL DEFAULT now(),
    expires_at moment NOT NULL,
    -- An operator's wish that it finish what it runs, take nothing more, and stop. It gets no lease from here on, and learns of the wish
    -- with its next heartbeat.
    drain_asked_at moment,
    -- Set by an orderly stop.
    stopped_at moment
);
CREATE INDEX workers_expiry ON workers (expires_at) WHERE stopped_at IS NULL;

-- What each worker takes: for whoever asks why a job does not run.
CREATE TABLE worker_filters (
    worker_id uuid NOT NULL REFERENCES workers (id) ON DELETE CASCADE,
    -- As jobs.queue: protocol version, stage and memory class.
    queue bigint NOT NULL,
    rounds smallint[] NOT NULL,
    PRIMARY KEY (worker_id, queue)
);

-- What tells a worker's death: the lock that its process holds, and the server's process behind the connection that holds it. In a table of
-- their own: who reads the other tables has no business with the keys, and may not learn them.
CREATE TABLE signs_of_life (
    worker_id uuid PRIMARY KEY REFERENCES workers (id) ON DELETE CASCADE,
    -- Names the advisory lock that the worker's connection holds while it lives: 64 random bits, anew for each connection.
    lock_key bigint NOT NULL UNIQUE,
    -- Names the lock of the watch that watches this worker; random too.
    watch_key bigint NOT NULL UNIQUE,
    -- The lock's holder, as pg_stat_activity knows it: while it is there, the worker is not dead, whoever says so.
    backend_pid integer NOT NULL,
    backend_started_at moment NOT NULL
);
-- Whoever may not write workers sees no rows here, whatever was granted on all tables.
ALTER TABLE signs_of_life ENABLE ROW LEVEL SECURITY;
CREATE POLICY writers_of_workers ON signs_of_life USING (has_table_privilege('workers'::regclass, 'UPDATE'));

-- Who leads the job monitors' duties: one at a time, as long as it says so often enough.
CREATE TABLE duties (
    name text PRIMARY KEY,
    leader uuid NOT NULL,
    host text NOT NULL,
    pid integer NOT NULL,
    expires_at moment NOT NULL
);

-- Every job of every stage: one row a job, one state machine for all (proving_model::JobStatus).
--
-- Every pick and every completion rewrites a row and pays for its width. So it says nothing twice: what a job is of its batch is in its id
-- and its queue, and prover_jobs below shows it. The columns of fixed width that are never NULL come first: PostgreSQL finds an attribute
-- behind one of variable width, or behind a NULL, by walking over all before it. There are no foreign keys, each of which costs a look-up
-- and a row lock a write: the store's transactions keep both sides right, and its tests say so.
CREATE TABLE jobs (
    -- From the highest bits: the batch's position, then 4 bits of stage and round, 8 of circuit, 5 of depth, 20 of sequence number
    -- (job-store's model/ids.rs). So it is known before the row is there, and a batch's jobs are a range.
    id bigint PRIMARY KEY,
    -- The pick index: which pickers may take it (protocol version, stage and memory class in one number; -1 - that number while its chain is
    -- paused), then whose turn it is. Priority and deadline are copies of the batch's, so that picking reads one table; without a deadline
    -- it is infinity.
    queue bigint NOT NULL,
    deadline timestamptz NOT NULL DEFAULT 'infinity',
    -- Fair share between chains: see batches.
    start_tag virtual_time NOT NULL,
    -- Among the jobs of a batch: the round nearest to the final proof, then the longest. The lower 32 bits are 2^32 - 1 less the expected
    -- cost in milliseconds.
    rank_in_batch bigint NOT NULL,
    -- Not picked before this time: backoff between retries.
    not_before moment NOT NULL DEFAULT now(),
    -- Expected peak in bytes: what was learned of its circuit when it was inserted, or else what the proof system declares; 0 where
    -- nothing is known.
    peak_memory_bytes non_negative_int8 NOT NULL DEFAULT 0,
    priority integer NOT NULL,
    -- How many jobs with this one as successor are not successful yet. Kept exact by every transaction that changes either side.
    dependencies_left non_negative_int4 NOT NULL,
    -- Leases given out so far; numbers the attempts.
    attempts non_negative_int4 NOT NULL DEFAULT 0,
    -- Budgets, counted apart: failures that the job reported, deaths of its worker, timeouts.
    failures non_negative_int4 NOT NULL DEFAULT 0,
    worker_deaths non_negative_int4 NOT NULL DEFAULT 0,
    timeouts non_negative_int4 NOT NULL DEFAULT 0,
    -- How often its output was lost and it had to run again.
    regenerations non_negative_int4 NOT NULL DEFAULT 0,
    -- How far the running attempt says that it is, 0 to 1.
    progress real NOT NULL DEFAULT 0,
    status job_status NOT NULL,
    -- The lease: who holds it, and the token that every later write must show. It ends when the worker's own row says so.
    worker_id uuid,
    lease_token uuid,
    -- The attempt that succeeded: who made it, its token, what it was seen to take of memory (NULL where the worker could not tell). It is
    -- here and not in job_attempts: of a thousand attempts 999 succeed.
    completed_by uuid,
    completed_token uuid,
    measured_memory_bytes non_negative_int8,
    queued_at moment,
    started_at moment,
    finished_at moment,
    -- The job that consumes this one's output; NULL until it is known, and for the last job of a batch.
    successor_id bigint,
    -- Basic circuits only: the circuit that the witness generator wrote. Other jobs read their predecessors' outputs.
    input_size_bytes non_negative_int8,
    input_checksum checksum,
    input_key text,
    -- The artifact that counts; other attempts' artifacts are litter.
    output_size_bytes non_negative_int8,
    output_checksum checksum,
    output_key text,
    -- The jobs whose outputs this one consumes, in the order in which it takes them.
    predecessor_ids bigint[] NOT NULL DEFAULT '{}',
    -- The last attempt's error, or why the job was put back.
    error text,
    CONSTRAINT state_is_whole CHECK (CASE status
        WHEN 'in_progress' THEN dependencies_left = 0 AND lease_token IS NOT NULL AND worker_id IS NOT NULL
            AND started_at IS NOT NULL AND completed_token IS NULL
        WHEN 'successful' THEN dependencies_left = 0 AND lease_token IS NULL AND worker_id IS NULL
            AND started_at IS NOT NULL AND finished_at IS NOT NULL
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
-- What pickers scan: queued rows only, in picking order. Every column has a fixed width and none is NULL.
CREATE INDEX jobs_queued ON jobs (queue, priority DESC, deadline, start_tag, rank_in_batch, id) WHERE status = 'queued';
-- The leases of a worker.
CREATE INDEX jobs_leased ON jobs (worker_id) WHERE status = 'in_progress';

-- Jobs of proven batches. The very same columns, so that a batch moves as it is. No worker reads or writes it.
CREATE TABLE jobs_archive (LIKE jobs, PRIMARY KEY (id));
-- It is filled a batch at a time as batches end, so a range of time is a range of its pages.
CREATE INDEX jobs_archive_finished ON jobs_archive USING brin (finished_at) WITH (pages_per_range = 32);

-- Attempts that did not succeed: who ran what, when, and how it ended.
CREATE TABLE job_attempts (
    job_id bigint NOT NULL,
    -- 1, 2, 3 …: jobs.attempts at the time.
    attempt integer NOT NULL,
    worker_id uuid NOT NULL,
    lease_token uuid NOT NULL,
    started_at moment NOT NULL,
    finished_at moment NOT NULL,
    -- Only failed, timed_out and worker_died are charged to a budget. A successful one is here when its job ran again since.
    outcome text NOT NULL CHECK (outcome IN (
        'successful', 'failed', 'timed_out', 'worker_died', 'released', 'input_lost', 'cancelled'
    )),
    error text,
    peak_memory_bytes non_negative_int8,
    PRIMARY KEY (job_id, attempt)
);
CREATE INDEX job_attempts_troubled ON job_attempts (finished_at)
    WHERE outcome IN ('failed', 'timed_out', 'worker_died', 'input_lost');

-- Every attempt: those that ended otherwise, those that run, those that succeeded.
CREATE VIEW attempts AS
SELECT job_id, attempt, worker_id, lease_token, started_at, finished_at, outcome, error, peak_memory_bytes FROM job_attempts
UNION ALL
SELECT id, attempts, worker_id, lease_token, started_at, NULL, NULL, NULL, NULL FROM jobs WHERE status = 'in_progress'
UNION ALL
SELECT id, attempts, completed_by, completed_token, started_at, finished_at, 'successful', NULL, measured_memory_bytes
FROM jobs WHERE status = 'successful'
UNION ALL
SELECT id, attempts, completed_by, completed_token, started_at, finished_at, 'successful', NULL, measured_memory_bytes
FROM jobs_archive WHERE status = 'successful';

-- Jobs as people speak of them, wherever they are: with their batch, round, stage, circuit, version. For reports; nothing is written through
-- it.
CREATE VIEW all_prover_jobs AS
SELECT b.chain_id, b.number AS batch_number, b.protocol_minor, b.protocol_patch,
       (CASE WHEN (j.id >> 33) & 15 < 5 THEN (j.id >> 33) & 15 WHEN (j.id >> 33) & 15 < 10 THEN ((j.id >> 33) & 15) - 5 ELSE 4 END)::smallint
           AS aggregation_round,
       CASE WHEN (j.id >> 33) & 15 < 5 THEN 'witness_generation' WHEN (j.id >> 33) & 15 < 10 THEN 'circuit_proof' ELSE 'compression' END
           AS stage,
       ((j.id >> 25) & 255)::smallint AS circuit_id, ((j.id >> 20) & 31)::smallint AS depth, (j.id & 1048575)::integer AS sequence_number,
       -- The lowest bit, which -1 - queue turns over.
       CASE WHEN (j.queue & 1 = 0) = (j.queue >= 0) THEN 'light' ELSE 'heavy' END AS memory_class,
       4294967295 - (j.rank_in_batch & 4294967295) AS expected_cost_ms,
       j.*
FROM (SELECT FALSE AS is_archived, * FROM jobs UNION ALL SELECT TRUE, * FROM jobs_archive) j
LEFT JOIN batches b ON b.position = j.id >> 37;
-- Those that pickers scan. The planner leaves the archive out.
CREATE VIEW prover_jobs AS SELECT * FROM all_prover_jobs WHERE NOT is_archived;
