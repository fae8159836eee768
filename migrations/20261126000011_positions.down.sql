ALTER TABLE batches
    DROP CONSTRAINT chain_and_number_have_32_bits,
    DROP CONSTRAINT position_fits_a_jobs_id,
    ALTER position SET NO MAXVALUE;
