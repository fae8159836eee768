CREATE TABLE signs_of_life (
    worker_id uuid PRIMARY KEY REFERENCES workers (id) ON DELETE CASCADE,
    lock_key bigint NOT NULL UNIQUE,
    watch_key bigint NOT NULL UNIQUE,
    backend_pid integer NOT NULL,
    backend_started_at moment NOT NULL
);
ALTER TABLE signs_of_life ENABLE ROW LEVEL SECURITY;
CREATE POLICY writers_of_workers ON signs_of_life USING (has_table_privilege('workers'::regclass, 'UPDATE'));
ALTER TABLE workers DROP COLUMN backend_pid, DROP COLUMN backend_started_at;
