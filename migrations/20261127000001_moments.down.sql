ALTER DOMAIN moment DROP CONSTRAINT moment_check;
ALTER DOMAIN moment ADD CONSTRAINT moment_check CHECK (isfinite(VALUE));
