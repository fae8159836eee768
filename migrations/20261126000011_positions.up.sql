-- A job's id has 26 bits for its batch's position. The sequence ends where they end: from there on ids would be negative, and then those of
-- other batches' jobs.
ALTER TABLE batches
    ALTER position SET MAXVALUE 67108863,
    ADD CONSTRAINT position_fits_a_jobs_id CHECK (position BETWEEN 1 AND 67108863);
