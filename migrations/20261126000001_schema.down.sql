DROP VIEW prover_jobs, all_prover_jobs, attempts;
DROP TABLE job_attempts, jobs_archive, jobs, duties, signs_of_life, worker_filters, workers, learned_circuits, paused_stages, deleted_batches,
    batches, chains, protocol_versions;
DROP DOMAIN aggregation_round, job_status, stage, checksum, virtual_time, moment, non_negative_int8, non_negative_int4;
