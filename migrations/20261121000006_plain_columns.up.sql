-- Every statement that writes a row reads the expressions of its table's generated columns and CHECKs from their text again, which a
-- statement about a single job feels. The two columns of the pick index are written by job-store, from the expressions that they had.
ALTER TABLE prover_jobs ALTER queue DROP EXPRESSION, ALTER turn DROP EXPRESSION;
