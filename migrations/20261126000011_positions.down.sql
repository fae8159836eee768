ALTER TABLE batches
    DROP CONSTRAINT position_fits_a_jobs_id,
    ALTER position SET NO MAXVALUE;
