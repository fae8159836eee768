ALTER TABLE batches DROP CONSTRAINT deadline_is_a_moment;
