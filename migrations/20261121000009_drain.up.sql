-- An operator's wish that a worker finish what it runs, take nothing more, and stop. It is given no lease from here on, and hears of the
-- wish with its next heartbeat.
ALTER TABLE workers ADD drain_asked_at timestamptz;
