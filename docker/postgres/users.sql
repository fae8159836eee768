-- The user of all components and of prover_cli, when the cluster is made. `prover database roles --apply --member=prover` gives it its rights.
\set password `cat /run/secrets/database_password`
CREATE ROLE prover LOGIN PASSWORD :'password';
