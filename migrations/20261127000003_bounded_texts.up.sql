-- Who reads a row reads all of its texts. So none is longer than what the programs write: 64 KiB of an error, 1 KiB of an artifact's key, 255
-- bytes of a name. A job has at most 65,536 predecessors.
ALTER TABLE protocol_versions ADD CONSTRAINT texts_are_bounded
    CHECK (octet_length(proof_system) <= 255 AND octet_length(verification_keys_digest) <= 255);
ALTER TABLE batches ADD CONSTRAINT texts_are_bounded
    CHECK (octet_length(input_key) <= 1024 AND octet_length(final_proof_key) <= 1024 AND octet_length(error) <= 65536);
ALTER TABLE workers ADD CONSTRAINT texts_are_bounded CHECK (octet_length(component) <= 255 AND octet_length(host) <= 255);
ALTER TABLE worker_filters ADD CONSTRAINT rounds_are_bounded CHECK (cardinality(rounds) <= 16);
ALTER TABLE duties ADD CONSTRAINT texts_are_bounded CHECK (octet_length(name) <= 255 AND octet_length(host) <= 255);
ALTER TABLE jobs ADD CONSTRAINT texts_are_bounded
    CHECK (octet_length(input_key) <= 1024 AND octet_length(output_key) <= 1024 AND octet_length(error) <= 65536
           AND cardinality(predecessor_ids) <= 65536);
ALTER TABLE jobs_archive ADD CONSTRAINT texts_are_bounded
    CHECK (octet_length(input_key) <= 1024 AND octet_length(output_key) <= 1024 AND octet_length(error) <= 65536
           AND cardinality(predecessor_ids) <= 65536);
ALTER TABLE job_attempts ADD CONSTRAINT texts_are_bounded CHECK (octet_length(error) <= 65536);
