ALTER TABLE job_attempts DROP CONSTRAINT texts_are_bounded;
ALTER TABLE jobs_archive DROP CONSTRAINT texts_are_bounded;
ALTER TABLE jobs DROP CONSTRAINT texts_are_bounded;
ALTER TABLE duties DROP CONSTRAINT texts_are_bounded;
ALTER TABLE worker_filters DROP CONSTRAINT rounds_are_bounded;
ALTER TABLE workers DROP CONSTRAINT texts_are_bounded;
ALTER TABLE batches DROP CONSTRAINT texts_are_bounded;
ALTER TABLE protocol_versions DROP CONSTRAINT texts_are_bounded;
