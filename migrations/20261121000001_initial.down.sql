DROP TABLE job_attempts;
DROP TABLE prover_jobs;
DROP TABLE workers;
DROP TABLE batches;
DROP TABLE protocol_versions;
