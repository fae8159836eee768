-- Roundhouse's roles in this database. Run it as the database's owner, with the right to create roles, once before the first
-- `prover database migrate` and again after each upgrade; what is so already stays so.
--
--   {owner}      owns schema roundhouse and everything in it; migrates
--   {component}  runs the components, inserts batches, and does what operators do
--   {reader}     runs every command that only reads
--
-- None of them logs in. Grant them to the users that do:
--   CREATE ROLE prover1 LOGIN PASSWORD '...' IN ROLE {component};
BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;

DO $$
DECLARE role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['{owner}', '{component}', '{reader}'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role_name) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
        ELSIF EXISTS (SELECT FROM pg_roles WHERE rolname = role_name
                      AND (rolcanlogin OR rolsuper OR rolcreaterole OR rolcreatedb OR rolbypassrls OR rolreplication)) THEN
            -- Whoever made it knows how to become it.
            RAISE EXCEPTION 'role % is there already and may log in or do more than its grants: drop it, or name another prefix', role_name;
        ELSIF NOT EXISTS (SELECT FROM pg_namespace n JOIN pg_roles r ON r.oid = n.nspowner
                          WHERE n.nspname = 'roundhouse' AND r.rolname = '{owner}')
              AND EXISTS (SELECT FROM pg_auth_members
                          WHERE roleid = role_name::regrole AND member <> current_user::regrole OR member = role_name::regrole) THEN
            -- Its members would become it, or it has another role's rights.
            RAISE EXCEPTION 'role % was there before schema roundhouse, with members or in other roles: drop it, or name another prefix',
                role_name;
        END IF;
    END LOOP;
    -- Who makes another role the owner of something must be its member, and who migrates too.
    IF NOT EXISTS (SELECT FROM pg_auth_members WHERE roleid = '{owner}'::regrole AND member = current_user::regrole) THEN
        EXECUTE format('GRANT %I TO %I', '{owner}', current_user);
    END IF;
END $$;

-- A schema of this name that another role made, or something in it that another role made, is not taken over: its functions would run
-- with the rights of all who use the schema.
DO $$
DECLARE found record;
BEGIN
    FOR found IN
        SELECT 'schema' AS kind, nspname::text AS name, nspowner AS owner FROM pg_namespace WHERE nspname = 'roundhouse'
        UNION ALL SELECT 'relation', relname, relowner FROM pg_class WHERE relnamespace = to_regnamespace('roundhouse')
        UNION ALL SELECT 'function', proname, proowner FROM pg_proc WHERE pronamespace = to_regnamespace('roundhouse')
        UNION ALL SELECT 'operator', oprname, oprowner FROM pg_operator WHERE oprnamespace = to_regnamespace('roundhouse')
        UNION ALL SELECT 'type', typname, typowner FROM pg_type WHERE typnamespace = to_regnamespace('roundhouse')
    LOOP
        IF found.owner NOT IN ('{owner}'::regrole, current_user::regrole) THEN
            RAISE EXCEPTION '% % belongs to role %: drop it, or run this as that role where it is yours',
                found.kind, found.name, found.owner::regrole;
        END IF;
    END LOOP;
END $$;

DO $$
DECLARE object record;
BEGIN
    IF to_regnamespace('roundhouse') IS NULL THEN
        CREATE SCHEMA roundhouse;
    END IF;
    IF (SELECT nspowner FROM pg_namespace WHERE nspname = 'roundhouse') <> '{owner}'::regrole THEN
        ALTER SCHEMA roundhouse OWNER TO {owner};
    END IF;
    -- What was migrated before there was an owner.
    FOR object IN
        SELECT CASE relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END AS kind, relname::text AS name FROM pg_class
        WHERE relnamespace = 'roundhouse'::regnamespace AND relkind IN ('r', 'p', 'v') AND relowner <> '{owner}'::regrole
        UNION ALL
        SELECT 'DOMAIN', typname FROM pg_type
        WHERE typnamespace = 'roundhouse'::regnamespace AND typtype = 'd' AND typowner <> '{owner}'::regrole
    LOOP
        EXECUTE format('ALTER %s roundhouse.%I OWNER TO {owner}', object.kind, object.name);
    END LOOP;
END $$;

REVOKE ALL ON SCHEMA roundhouse FROM PUBLIC, {component}, {reader};
GRANT USAGE ON SCHEMA roundhouse TO {component}, {reader};
REVOKE ALL ON ALL TABLES IN SCHEMA roundhouse FROM PUBLIC, {component}, {reader};
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA roundhouse TO {component};
GRANT SELECT ON ALL TABLES IN SCHEMA roundhouse TO {reader};
-- How many positions are used up; taking one needs no grant but that on its table.
GRANT SELECT ON ALL SEQUENCES IN SCHEMA roundhouse TO {component}, {reader};
-- The same for the tables of later versions.
ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA roundhouse GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {component};
ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA roundhouse GRANT SELECT ON TABLES TO {reader};
ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA roundhouse GRANT SELECT ON SEQUENCES TO {component}, {reader};
-- Whoever may put a trigger on a table runs code as all who write it.
DO $$
DECLARE granted record;
BEGIN
    FOR granted IN
        SELECT DISTINCT c.relname, a.grantee
        FROM pg_class c
        CROSS JOIN LATERAL (
            SELECT * FROM aclexplode(c.relacl)
            UNION ALL
            SELECT of_column.* FROM pg_attribute column_, aclexplode(column_.attacl) of_column WHERE column_.attrelid = c.oid
        ) a
        WHERE c.relnamespace = 'roundhouse'::regnamespace AND a.grantee <> c.relowner
          AND a.privilege_type IN ('TRIGGER', 'REFERENCES', 'TRUNCATE')
    LOOP
        -- Of a table's columns too.
        EXECUTE format('REVOKE TRIGGER, REFERENCES, TRUNCATE ON roundhouse.%I FROM %s', granted.relname,
                       CASE granted.grantee WHEN 0 THEN 'PUBLIC' ELSE granted.grantee::regrole::text END);
    END LOOP;
END $$;
DO $$
BEGIN
    -- The books of the migrations are the owner's, and a version, once there, stays as it is.
    IF to_regclass('roundhouse._sqlx_migrations') IS NOT NULL THEN
        REVOKE INSERT, UPDATE, DELETE ON roundhouse._sqlx_migrations FROM {component};
    END IF;
    IF to_regclass('roundhouse.protocol_versions') IS NOT NULL THEN
        REVOKE UPDATE, DELETE ON roundhouse.protocol_versions FROM {component};
    END IF;
    -- Which owner of the schema is the right one: only the database's owner can say so. Every program looks here when it starts.
    EXECUTE format('ALTER DATABASE %I SET roundhouse.owner = {owner}', current_database());
    EXECUTE format('GRANT CONNECT, TEMPORARY ON DATABASE %I TO {owner}', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO {component}, {reader}', current_database());
END $$;

-- {private}
COMMIT;
