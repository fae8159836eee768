-- A worker's death is seen in the server's own list of its processes, and no longer by an advisory lock, which anybody who connects could
-- take. A worker's row says which process of the server is at the other end of its heartbeat's connection.
ALTER TABLE workers ADD COLUMN backend_pid integer, ADD COLUMN backend_started_at moment;
DROP TABLE signs_of_life;
