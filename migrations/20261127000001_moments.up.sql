-- Two moments of any rows can be subtracted, and no row says that something ended in another age.
ALTER DOMAIN moment DROP CONSTRAINT moment_check;
ALTER DOMAIN moment ADD CONSTRAINT moment_check
    CHECK (VALUE >= '2000-01-01 00:00:00+00'::timestamptz AND VALUE < '2200-01-01 00:00:00+00'::timestamptz);
