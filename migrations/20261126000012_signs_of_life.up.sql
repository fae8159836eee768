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
    backend_started_at timestamptz NOT NULL
);
-- Whoever may not write workers sees no rows here, whatever was granted on all tables.
ALTER TABLE signs_of_life ENABLE ROW LEVEL SECURITY;
CREATE POLICY writers_of_workers ON signs_of_life USING (has_table_privilege('workers'::regclass, 'UPDATE'));
-- Small numbers can be guessed.
ALTER TABLE workers DROP COLUMN number;
