//! The schema: where it lies, whose it is, and how it comes up to date.
//!
//! Everything of ours lies in a schema of its own, and every connection looks for names there and nowhere else. With PostgreSQL's own
//! search path a function or operator that another role left in `public` runs as us, with our rights.

use crate::database::roles::RoleNames;
use crate::database::store::JobStore;
use crate::model::error::StoreError;
use sqlx::PgConnection;
use std::time::Duration;

/// The migrations, embedded from `migrations/` at the repository's root.
pub static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("../../migrations");

/// Writing the migrations' books is the owner's business alone, whatever was granted on all tables.
const PROTECT_BOOKS: &str = "DO $$
DECLARE grantee text;
BEGIN
    FOR grantee IN
        SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END
        FROM pg_class c, aclexplode(c.relacl) a
        WHERE c.oid = 'roundhouse._sqlx_migrations'::regclass AND a.grantee <> c.relowner AND a.privilege_type <> 'SELECT'
    LOOP
        EXECUTE format('REVOKE INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER ON roundhouse._sqlx_migrations FROM %s',
                       grantee);
    END LOOP;
    -- A version, once there, stays as it is.
    FOR grantee IN
        SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END
        FROM pg_class c, aclexplode(c.relacl) a
        WHERE c.oid = 'roundhouse.protocol_versions'::regclass AND a.grantee <> c.relowner
          AND a.privilege_type NOT IN ('SELECT', 'INSERT')
    LOOP
        EXECUTE format('REVOKE UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER ON roundhouse.protocol_versions FROM %s', grantee);
    END LOOP;
END $$";

/// How long a migration waits for a table, during which everybody else waits behind it; and how long it lets them pass.
const LOCK_WAIT: &str = "1s";
const LOCK_PAUSE: Duration = Duration::from_secs(1);
/// PostgreSQL's code for a lock that was not had in time.
const LOCK_TIMEOUT: &str = "55P03";

/// What the database says of our schema and of us.
struct Found {
    /// The schema's owner, where there is the schema; as SQL names it.
    owner: Option<String>,
    /// Whether we are that, or were made a member of it; a superuser's right to be anybody does not count.
    is_ours: bool,
    /// Whether the owner is somebody whom we trust anyway: ourselves, the database's owner, a superuser, or the role that the database's owner
    /// named by applying the roles. Anybody may make another a member of a role of theirs, so that says nothing.
    is_trusted: bool,
    /// Whether we may use it.
    is_usable: bool,
    /// Something in it that belongs to another role.
    foreign: Option<String>,
    /// A role beside its owner that may create things in it.
    creator: Option<String>,
    /// Who we are.
    us: String,
}

impl JobStore {
    /// Brings the schema up to date, and creates it where it is not yet. Several processes may do so at once. What is created belongs
    /// to the schema's owner.
    ///
    /// # Errors
    /// [`StoreError::Schema`] when the database holds a newer or another schema, or one that other roles have their hands in.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        self.reports
            .run("migrate", async |connection: &mut PgConnection| {
                let mut found = look(connection).await?;
                if found.owner.is_none() {
                    // Whatever is made at the same time by another fails this, and is looked at: a process of ours, or a stranger.
                    let created = sqlx::raw_sql("CREATE SCHEMA roundhouse").execute(&mut *connection).await;
                    found = look(connection).await?;
                    if let (Err(e), None) = (created, &found.owner) {
                        return Err(StoreError::Schema(format!(
                            "{} cannot create schema roundhouse: {e}; let the database's owner run `prover database roles --apply`",
                            found.us
                        )));
                    }
                }
                found.check_hands()?;
                match &found.owner {
                    None => return Err(StoreError::Schema("schema roundhouse was dropped just now: try again".to_owned())),
                    Some(owner) if !found.is_ours => {
                        return Err(StoreError::Schema(format!(
                            "schema roundhouse belongs to {owner}, of which {} is no member: migrate as one of its members, \
                             or, where that role is yours, `GRANT {owner} TO {}`",
                            found.us, found.us
                        )));
                    }
                    Some(owner) => {
                        // Quoted by the server.
                        let statement = sqlx::AssertSqlSafe(format!("SET ROLE {owner}"));
                        sqlx::raw_sql(statement).execute(&mut *connection).await?;
                    }
                }
                let migrated = run_migrations(connection)
                    .await
                    .map_err(|e| StoreError::Schema(format!("the database cannot be migrated: {e}")));
                if migrated.is_ok() {
                    sqlx::raw_sql(PROTECT_BOOKS).execute(&mut *connection).await?;
                }
                sqlx::raw_sql("RESET ROLE").execute(&mut *connection).await?;
                migrated
            })
            .await
    }

    /// Checks that the schema is exactly this program's, and that no other role than its owner has its hands in it.
    ///
    /// # Errors
    /// [`StoreError::Schema`] says what is wrong, and what to do.
    pub async fn check_schema(&self) -> Result<(), StoreError> {
        let (found, state) = self
            .reports
            .run("check_schema", async |connection: &mut PgConnection| {
                let state = look(connection).await?;
                if state.owner.is_some() && !state.is_usable {
                    return Ok((None, state));
                }
                let found: Result<Option<i64>, sqlx::Error> =
                    sqlx::query_scalar("SELECT max(version) FROM roundhouse._sqlx_migrations WHERE success")
                        .fetch_one(connection)
                        .await;
                match found {
                    Ok(found) => Ok((found, state)),
                    // 42P01, 3F000: the table or the schema does not exist.
                    Err(sqlx::Error::Database(e))
                        if matches!(e.code().as_deref(), Some("42P01" | "3F000")) =>
                    {
                        Ok((None, state))
                    }
                    Err(e) => Err(StoreError::database("check_schema")(e)),
                }
            })
            .await?;
        if state.owner.is_some() && !state.is_usable {
            return Err(StoreError::Schema(format!(
                "{} may not use schema roundhouse: grant it the role of a component or of a reader (`prover database roles`)",
                state.us
            )));
        }
        state.check_hands()?;
        let ours = MIGRATOR.iter().map(|migration| migration.version).max();
        match (found, ours) {
            (found, ours) if found == ours => Ok(()),
            (None, _) => Err(StoreError::Schema(
                "the database has no schema yet: run `prover database migrate`".to_owned(),
            )),
            (Some(found), Some(ours)) if found > ours => Err(StoreError::Schema(format!(
                "the database's schema ({found}) is newer than this program's ({ours}): update the program"
            ))),
            (Some(found), _) => Err(StoreError::Schema(format!(
                "the database's schema ({found}) is older than this program's: run `prover database migrate`"
            ))),
        }
    }

    /// Creates the roles and the schema where they are not yet, and gives each role what it needs and no more. Once more changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Schema`] with the server's words: our role may not do this, or other roles have their hands in the schema.
    pub async fn apply_roles(&self, names: &RoleNames) -> Result<(), StoreError> {
        self.reports
            .run("apply roles", async |connection: &mut PgConnection| {
                // The names are plain words, by their type.
                let sql = sqlx::AssertSqlSafe(names.sql());
                let applied = sqlx::raw_sql(sql).execute(&mut *connection).await.map(drop);
                if applied.is_err() {
                    // The transaction that the statements began.
                    sqlx::raw_sql("ROLLBACK").execute(connection).await?;
                }
                applied.map_err(|e| {
                    StoreError::Schema(format!(
                        "the roles cannot be applied: {e}; run this as the database's owner, with the right to create roles"
                    ))
                })
            })
            .await
    }
}

/// Runs what is missing of the migrations. Whoever wants a table of its own waits for all who use it, and all who come later wait behind it:
/// so it waits for a short while only, lets them pass, and asks again.
async fn run_migrations(connection: &mut PgConnection) -> Result<(), sqlx::migrate::MigrateError> {
    loop {
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("SET lock_timeout = '{LOCK_WAIT}'")))
            .execute(&mut *connection)
            .await?;
        let migrated = MIGRATOR.run(&mut *connection).await;
        sqlx::raw_sql("SET lock_timeout = 0").execute(&mut *connection).await?;
        match migrated {
            Err(e) if is_lock_timeout(&e) => {
                tracing::info!(
                    "a migration waits for a table that is in use; it asks again in {LOCK_PAUSE:?}"
                );
                tokio::time::sleep(LOCK_PAUSE).await;
            }
            migrated => return migrated,
        }
    }
}

fn is_lock_timeout(error: &sqlx::migrate::MigrateError) -> bool {
    use sqlx::migrate::MigrateError::{Execute, ExecuteMigration};
    let (Execute(cause) | ExecuteMigration(cause, _)) = error else { return false };
    cause.as_database_error().and_then(sqlx::error::DatabaseError::code).as_deref() == Some(LOCK_TIMEOUT)
}

impl Found {
    /// Whoever owns the schema or a function in it, or may create one, runs code with the rights of all who use it.
    fn check_hands(&self) -> Result<(), StoreError> {
        if let (Some(owner), false) = (&self.owner, self.is_trusted) {
            return Err(StoreError::Schema(format!(
                "schema roundhouse belongs to {owner}, which is neither {}, nor the database's owner, nor the role that \
                 `prover database roles --apply` named: its owner could run code as us. Where the role is yours, let the database's owner \
                 apply the roles; else find out who made the schema, and drop it",
                self.us
            )));
        }
        let whose = match (&self.foreign, &self.creator) {
            (Some(foreign), _) => {
                format!("{foreign} in schema roundhouse does not belong to the schema's owner")
            }
            (None, Some(creator)) => format!("{creator} may create things in schema roundhouse"),
            (None, None) => return Ok(()),
        };
        Err(StoreError::Schema(format!(
            "{whose}: another role could run code as us; find out who did this, then drop it or revoke that, \
             and run `prover database roles --apply`"
        )))
    }
}

async fn look(connection: &mut PgConnection) -> Result<Found, StoreError> {
    sqlx::query_as!(
        Found,
        r#"WITH RECURSIVE ours AS (
               SELECT oid FROM pg_roles WHERE rolname = current_user
               UNION
               SELECT m.roleid FROM pg_auth_members m JOIN ours o ON m.member = o.oid
           ), n AS (SELECT * FROM pg_namespace WHERE nspname = 'roundhouse')
           SELECT (SELECT nspowner::regrole::text FROM n) AS owner,
                  coalesce((SELECT nspowner IN (SELECT oid FROM ours) FROM n), false) AS "is_ours!",
                  coalesce((SELECT r.rolname = current_user OR r.rolsuper
                                OR r.oid = (SELECT datdba FROM pg_database WHERE datname = current_database())
                                OR r.rolname IN (
                                    SELECT substr(setting, length('roundhouse.owner=') + 1)
                                    FROM pg_db_role_setting s, unnest(s.setconfig) setting
                                    WHERE s.setrole = 0 AND starts_with(setting, 'roundhouse.owner=')
                                      AND s.setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database()))
                            FROM n JOIN pg_roles r ON r.oid = n.nspowner), false) AS "is_trusted!",
                  coalesce((SELECT has_schema_privilege(n.oid, 'USAGE') FROM n), false) AS "is_usable!",
                  (SELECT format('%s %s%s', t.kind, t.name, CASE WHEN t.owner <> 0 THEN format(' of role %s', t.owner::regrole) END)
                   FROM n, LATERAL (
                       SELECT 'the table or index' AS kind, relname::text AS name, relowner AS owner
                       FROM pg_class WHERE relnamespace = n.oid
                       UNION ALL SELECT 'the function', proname::text, proowner FROM pg_proc WHERE pronamespace = n.oid
                       UNION ALL SELECT 'the operator', oprname::text, oprowner FROM pg_operator WHERE oprnamespace = n.oid
                       UNION ALL SELECT 'the type', typname::text, typowner FROM pg_type WHERE typnamespace = n.oid
                       -- Ours has neither: they run for whoever writes the table, and say nothing of who made them.
                       UNION ALL SELECT 'the trigger', tgname::text, 0::oid FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid
                       WHERE c.relnamespace = n.oid AND NOT g.tgisinternal
                       -- A foreign key that points here has its table's triggers run for whoever writes ours.
                       UNION ALL SELECT 'the foreign key', format('%s of %s', conname, conrelid::regclass), 0::oid
                       FROM pg_constraint k JOIN pg_class c ON c.oid = k.confrelid JOIN pg_class f ON f.oid = k.conrelid
                       WHERE k.contype = 'f' AND c.relnamespace = n.oid AND f.relnamespace <> n.oid
                       UNION ALL SELECT 'the rule', rulename::text, 0::oid FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class
                       WHERE c.relnamespace = n.oid AND rulename <> '_RETURN'
                   ) t WHERE t.owner <> n.nspowner LIMIT 1) AS "foreign",
                  (SELECT CASE a.grantee WHEN 0 THEN 'everybody' ELSE 'role ' || a.grantee::regrole::text END
                   FROM n, aclexplode(n.nspacl) a
                   WHERE a.privilege_type = 'CREATE' AND a.grantee <> n.nspowner LIMIT 1) AS creator,
                  quote_ident(current_user) AS "us!""#
    )
    .fetch_one(connection)
    .await
    .map_err(StoreError::database("look at the schema"))
}
