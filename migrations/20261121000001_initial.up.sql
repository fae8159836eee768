-- The job store's schema. Time is always the database's: now() within statements, defaults elsewhere.
-- Words in CHECK constraints are those of the Rust enums in crates/proving-model; a test compares the two.

-- A protocol version and the verification keys that it stands for. Workers take only jobs of their own.
CREATE TABLE protocol_versions (
    minor integer NOT NULL CHECK (minor BETWEEN 0 AND 65535),
    patch integer NOT NULL CHECK (patch BETWEEN 0 AND 65535),
    -- Name of the proof system that proves this version.
    proof_system text NOT NULL,
    -- Digest of all verification keys; a worker whose keys differ refuses to start.
    verification_keys_digest text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (minor, patch)
);

-- A batch: the unit that a user asks to have proven.
CREATE TABLE batches (
    chain_id bigint NOT NULL CHECK (chain_id >= 0),
    number bigint NOT NULL CHECK (number >= 0),
    -- Order of arrival over all chains; jobs of earlier batches come first, other things being equal.
    position bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    status text NOT NULL DEFAULT 'queued'
        CHECK (status IN ('queued', 'in_progress', 'successful', 'failed', 'cancelled')),
    protocol_minor integer NOT NULL,
    protocol_patch integer NOT NULL,
    -- Higher is sooner; every job of the batch inherits it.
    priority integer NOT NULL DEFAULT 0,
    -- When the final proof should be there.
    deadline timestamptz,
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
    created_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    finished_at timestamptz,
    PRIMARY KEY (chain_id, number),
    FOREIGN KEY (protocol_minor, protocol_patch) REFERENCES protocol_versions (minor, patch),
    CHECK ((status = 'successful') = (final_proof_key IS NOT NULL))
);

-- A process that leases jobs.
CREATE TABLE workers (
    id uuid PRIMARY KEY,
    -- Component name, for example circuit-prover.
    component text NOT NULL,
    host text NOT NULL,
    pid integer NOT NULL,
    -- Jobs that it works on at the same time.
    capacity integer NOT NULL CHECK (capacity > 0),
    protocol_minor integer NOT NULL,
    protocol_patch integer NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    heartbeat_at timestamptz NOT NULL DEFAULT now(),
    -- Set by an orderly stop.
    stopped_at timestamptz
);

-- Every job of every stage: one row a job, one state machine for all (proving_model::JobStatus).
CREATE TABLE prover_jobs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    chain_id bigint NOT NULL,
    batch_number bigint NOT NULL,
    -- 0 basic circuits, 1 leaf, 2 node, 3 recursion tip, 4 scheduler.
    aggregation_round smallint NOT NULL CHECK (aggregation_round BETWEEN 0 AND 4),
    stage text NOT NULL CHECK (stage IN ('witness_generation', 'circuit_proof', 'compression')),
    circuit_id smallint NOT NULL,
    -- Level within the node round, 0 elsewhere.
    depth smallint NOT NULL CHECK (depth >= 0),
    -- Position among the siblings of the same round, circuit and depth.
    sequence_number integer NOT NULL CHECK (sequence_number >= 0),
    memory_class text NOT NULL CHECK (memory_class IN ('light', 'heavy')),
    -- Copies of the batch's, so that picking reads one table.
    priority integer NOT NULL,
    deadline timestamptz,
    batch_position bigint NOT NULL,
    protocol_minor integer NOT NULL,
    protocol_patch integer NOT NULL,
    -- Expected work; longer jobs come first, so that none is left over at the end of a round.
    expected_cost_ms bigint NOT NULL CHECK (expected_cost_ms >= 0),
    status text NOT NULL
        CHECK (status IN ('waiting_for_proofs', 'queued', 'in_progress', 'successful', 'failed', 'cancelled')),
    -- The job that consumes this one's output; NULL until it is known, and for the last job of a batch.
    successor_id bigint REFERENCES prover_jobs (id),
    -- How many jobs with this one as successor are not successful yet. Kept exact by every transaction that
    -- changes either side.
    dependencies_left integer NOT NULL CHECK (dependencies_left >= 0),
    -- Not picked before this time: backoff between retries.
    not_before timestamptz NOT NULL DEFAULT now(),
    -- Leases given out so far; numbers the attempts.
    attempts integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    -- Budgets, counted apart: failures that the job reported, deaths of its worker, timeouts.
    failures integer NOT NULL DEFAULT 0 CHECK (failures >= 0),
    worker_deaths integer NOT NULL DEFAULT 0 CHECK (worker_deaths >= 0),
    timeouts integer NOT NULL DEFAULT 0 CHECK (timeouts >= 0),
    -- How often its output was lost and it had to run again.
    regenerations integer NOT NULL DEFAULT 0 CHECK (regenerations >= 0),
    -- The lease: who holds it, the token that every later write must show, and until when.
    worker_id uuid REFERENCES workers (id),
    lease_token uuid,
    lease_expires_at timestamptz,
    -- How far the attempt at hand says that it is, 0 to 1.
    progress real NOT NULL DEFAULT 0,
    -- Basic circuits only: the circuit that the witness generator wrote. Other jobs read their predecessors' outputs.
    input_key text,
    input_checksum bytea CHECK (octet_length(input_checksum) = 32),
    input_size_bytes bigint CHECK (input_size_bytes >= 0),
    -- The artifact that counts; other attempts' artifacts are litter.
    output_key text,
    output_checksum bytea CHECK (octet_length(output_checksum) = 32),
    output_size_bytes bigint CHECK (output_size_bytes >= 0),
    -- The last attempt's error, or why the job was put back.
    error text,
    created_at timestamptz NOT NULL DEFAULT now(),
    queued_at timestamptz,
    started_at timestamptz,
    finished_at timestamptz,
    FOREIGN KEY (chain_id, batch_number) REFERENCES batches (chain_id, number) ON DELETE CASCADE,
    UNIQUE (chain_id, batch_number, aggregation_round, stage, circuit_id, depth, sequence_number),
    CONSTRAINT lease_while_in_progress CHECK (
        (status = 'in_progress') = (lease_token IS NOT NULL)
        AND (lease_token IS NULL) = (lease_expires_at IS NULL)
        AND (lease_token IS NULL) = (worker_id IS NULL)
    ),
    CONSTRAINT dependencies_match_status CHECK (
        (status <> 'waiting_for_proofs' OR dependencies_left > 0)
        AND (status NOT IN ('queued', 'in_progress', 'successful') OR dependencies_left = 0)
    ),
    CONSTRAINT output_only_when_successful CHECK (output_key IS NULL OR status = 'successful')
);

-- What pickers scan: queued rows only, in picking order.
CREATE INDEX prover_jobs_queued ON prover_jobs (
    stage, protocol_minor, protocol_patch, memory_class,
    priority DESC, deadline ASC NULLS LAST, batch_position, aggregation_round DESC, expected_cost_ms DESC, id
) WHERE status = 'queued';
-- What the rescue duty scans.
CREATE INDEX prover_jobs_leased ON prover_jobs (lease_expires_at) WHERE status = 'in_progress';
-- A job's predecessors.
CREATE INDEX prover_jobs_successor ON prover_jobs (successor_id) WHERE successor_id IS NOT NULL;

-- Who ran what, when, and how it ended.
CREATE TABLE job_attempts (
    job_id bigint NOT NULL REFERENCES prover_jobs (id) ON DELETE CASCADE,
    -- 1, 2, 3 …: prover_jobs.attempts at the time.
    attempt integer NOT NULL,
    worker_id uuid NOT NULL REFERENCES workers (id),
    lease_token uuid NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    -- NULL while it runs. Only failed, timed_out and worker_died are charged to a budget.
    outcome text CHECK (outcome IN (
        'successful', 'failed', 'timed_out', 'worker_died', 'released', 'input_lost', 'cancelled'
    )),
    error text,
    PRIMARY KEY (job_id, attempt)
);
