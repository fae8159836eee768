-- A deadline is a moment that can be subtracted, as all moments are. One that is none was taken before, and says nothing.
UPDATE batches SET deadline = NULL
WHERE deadline < '2000-01-01 00:00:00+00'::timestamptz OR deadline >= '2200-01-01 00:00:00+00'::timestamptz;
ALTER TABLE batches ADD CONSTRAINT deadline_is_a_moment
    CHECK (deadline >= '2000-01-01 00:00:00+00'::timestamptz AND deadline < '2200-01-01 00:00:00+00'::timestamptz);
