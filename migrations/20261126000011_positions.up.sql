-- A job's id has 26 bits for its batch's position. The sequence ends where they end: from there on ids would be negative, and then those of
-- other batches' jobs.
ALTER TABLE batches
    ALTER position SET MAXVALUE 67108863,
    ADD CONSTRAINT position_fits_a_jobs_id CHECK (position BETWEEN 1 AND 67108863),
    -- The programs have 32 bits for each.
    ADD CONSTRAINT chain_and_number_have_32_bits CHECK (chain_id <= 4294967295 AND number <= 4294967295);
