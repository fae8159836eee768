//! What others who may connect to the database can do to its owner's work: nothing; and what each role may do.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use job_store::batches::insert::NewBatch;
use job_store::database::roles::RoleNames;
use job_store::duties::death_watch::DeathWatch;
use job_store::duties::leadership::Leader;
use job_store::leases::keeper::LeaseKeeper;
use job_store::leases::pick::PickFilter;
use job_store::{DatabaseUrl, JobStore, StoreError};
use proving_model::{AggregationRound, BatchId, MemoryClass, Stage};
use sqlx::{Connection, PgConnection};
use std::time::Duration;
use test_support::{VERSION, artifact, empty_database, new_worker};
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

/// More than two looks of the watch.
const WATCHED: Duration = Duration::from_millis(1_500);

async fn run(connection: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(connection).await.unwrap();
}

/// What the server says to a statement that it must refuse.
async fn refusal(connection: &mut PgConnection, sql: &str) -> String {
    match sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(connection).await {
        Ok(_) => panic!("the server did {sql}"),
        Err(e) => e.to_string(),
    }
}

/// The database for a new user who may log in and has no privilege of his own. Users are the whole server's: one name a test.
async fn user(url: &DatabaseUrl, name: &str) -> DatabaseUrl {
    run(&mut url.connect().await.unwrap(), &format!("CREATE ROLE {name} LOGIN")).await;
    url.with_user(name).unwrap()
}

/// As [`user`], one who may create schemas.
async fn user_who_creates(url: &DatabaseUrl, name: &str) -> DatabaseUrl {
    let theirs = user(url, name).await;
    let mut admin = url.connect().await.unwrap();
    let database: String =
        sqlx::query_scalar("SELECT current_database()").fetch_one(&mut admin).await.unwrap();
    run(&mut admin, &format!("GRANT CREATE ON DATABASE {database} TO {name}")).await;
    theirs
}

/// A database with roles of this prefix, migrated by a member of the owner; and the store of such a member.
async fn with_roles(prefix: &str, is_shared: bool) -> (DatabaseUrl, JobStore) {
    let url = empty_database().await;
    let admin = JobStore::connect(&url).await.unwrap();
    let names = RoleNames::new(prefix, is_shared).unwrap();
    admin.apply_roles(&names).await.unwrap();
    let owner = member(&url, prefix, "owner").await;
    let store = JobStore::connect(&owner).await.unwrap();
    store.migrate().await.unwrap();
    store.check_schema().await.unwrap();
    // Once more changes nothing.
    admin.apply_roles(&names).await.unwrap();
    store.migrate().await.unwrap();
    (url, store)
}

/// The database for a new user of one of the three roles.
async fn member(url: &DatabaseUrl, prefix: &str, role: &str) -> DatabaseUrl {
    let theirs = user(url, &format!("{prefix}_user_of_{role}")).await;
    run(&mut url.connect().await.unwrap(), &format!("GRANT {prefix}_{role} TO {prefix}_user_of_{role}"))
        .await;
    theirs
}

fn watch(store: &JobStore) -> DropGuard {
    let (watch, end) = (DeathWatch::new(store), CancellationToken::new());
    let shutdown = end.clone();
    tokio::spawn(async move { watch.run(|_| {}, &shutdown).await });
    end.drop_guard()
}

fn filter() -> PickFilter {
    PickFilter {
        stage: Stage::WitnessGeneration,
        version: VERSION,
        rounds: AggregationRound::ALL.to_vec(),
        memory_classes: vec![MemoryClass::Light],
    }
}

async fn state(store: &JobStore) -> String {
    store.workers(true).await.unwrap()[0].state.clone()
}

/// Whoever may connect may take any advisory lock, connect as often as he likes, and send any notification.
#[tokio::test]
async fn nothing_that_a_stranger_may_do_declares_a_live_worker_dead() {
    let url = empty_database().await;
    let store = JobStore::connect(&url).await.unwrap();
    store.migrate().await.unwrap();
    let theirs = user(&url, "stranger_of_life").await;
    let mut stranger = theirs.connect().await.unwrap();
    let locks = "SELECT count(pg_try_advisory_lock(number)) FROM generate_series(1, 1000) number";
    run(&mut stranger, locks).await;
    let (interval, lease) = (Duration::from_secs(1_000), Duration::from_secs(3_000));
    let keeper = LeaseKeeper::start(&store, &new_worker(), interval, lease).await.unwrap();
    let _watching = watch(&store);
    tokio::time::sleep(WATCHED).await;
    run(&mut stranger, "SELECT pg_advisory_unlock_all(); NOTIFY roundhouse, 'revoked'").await;
    let words = refusal(
        &mut stranger,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename <> current_user",
    )
    .await;
    assert!(words.contains("permission denied") || words.contains("must be"), "{words}");
    for _ in 0..20 {
        theirs.connect().await.unwrap().close().await.unwrap();
    }
    stranger.close().await.unwrap();
    tokio::time::sleep(WATCHED).await;
    assert_eq!(state(&store).await, "live", "a live worker was declared dead");
    drop(keeper);
    tokio::time::sleep(WATCHED).await;
    assert_eq!(state(&store).await, "expired", "and a dead one was not");
}

/// A row whose lease is beyond any that is given would keep all monitors from their duties.
#[tokio::test]
async fn a_duty_whose_leader_claims_it_for_ever_is_taken_over() {
    let url = empty_database().await;
    let store = JobStore::connect(&url).await.unwrap();
    store.migrate().await.unwrap();
    run(
        &mut url.connect().await.unwrap(),
        "INSERT INTO duties (name, leader, host, pid, expires_at) VALUES ('rescue', gen_random_uuid(), 'h', 1, '2199-12-31')",
    )
    .await;
    let leader = |id| Leader { id, host: "here".to_owned(), pid: 1 };
    let (one, other) = (leader(Uuid::new_v4()), leader(Uuid::new_v4()));
    let lease = Duration::from_secs(60);
    assert_eq!(store.lead(&one, &["rescue"], lease).await.unwrap(), ["rescue"]);
    assert!(store.lead(&other, &["rescue"], lease).await.unwrap().is_empty(), "a real lease is respected");
}

/// Row triggers of a table that refers to ours run for whoever deletes our rows, and a deferred one as the one who commits.
#[tokio::test]
async fn a_foreign_key_of_another_role_is_found_and_the_right_to_make_one_is_taken() {
    let (url, store) = with_roles("referring", true).await;
    let mut admin = url.connect().await.unwrap();
    let mut stranger = user(&url, "stranger_of_keys").await.connect().await.unwrap();
    run(
        &mut admin,
        "GRANT USAGE ON SCHEMA roundhouse TO stranger_of_keys; GRANT REFERENCES (name) ON roundhouse.duties TO stranger_of_keys;
         GRANT CREATE ON SCHEMA public TO stranger_of_keys",
    )
    .await;
    let key =
        "CREATE TABLE public.referring (name text REFERENCES roundhouse.duties (name) ON DELETE CASCADE)";
    run(&mut stranger, key).await;
    for refused in [store.check_schema().await, store.migrate().await] {
        let words = refused.unwrap_err().to_string();
        assert!(words.contains("the foreign key") && words.contains("of public.referring"), "{words}");
    }
    run(&mut stranger, "DROP TABLE public.referring").await;
    store.check_schema().await.unwrap();
    let admin_store = JobStore::connect(&url).await.unwrap();
    admin_store.apply_roles(&RoleNames::new("referring", true).unwrap()).await.unwrap();
    let words = refusal(&mut stranger, key).await;
    assert!(words.contains("permission denied"), "{words}");
}

/// The reader may name our types; PostgreSQL 14 lets everybody create things in `public`.
#[tokio::test]
async fn an_operator_that_another_role_planted_in_public_is_not_called() {
    let (url, owner) = with_roles("planted", true).await;
    owner.insert_protocol_version(VERSION, "mock", "digest").await.unwrap();
    let mut admin = url.connect().await.unwrap();
    run(&mut admin, "GRANT CREATE ON SCHEMA public TO planted_reader").await;
    let mut planter = member(&url, "planted", "reader").await.connect().await.unwrap();
    run(
        &mut planter,
        "CREATE TABLE public.caught (who text); GRANT ALL ON public.caught TO PUBLIC;
         CREATE TABLE public.prover_jobs (); CREATE TABLE public.workers ();
         CREATE FUNCTION public.now() RETURNS timestamptz LANGUAGE sql AS $$ INSERT INTO public.caught VALUES (current_user) RETURNING NULL::timestamptz $$;
         CREATE FUNCTION public.planted(roundhouse.job_status, roundhouse.job_status) RETURNS boolean LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO public.caught VALUES (current_user); RETURN $1::text = $2::text; END $$;
         CREATE OPERATOR public.= (
             leftarg = roundhouse.job_status, rightarg = roundhouse.job_status, function = public.planted)",
    )
    .await;
    let store = JobStore::connect(&member(&url, "planted", "component").await).await.unwrap();
    for store in [&store, &owner, &JobStore::connect(&url).await.unwrap()] {
        let number = store.workers(true).await.unwrap().len();
        let id = BatchId { chain_id: 0, number: u32::try_from(number).unwrap() };
        store.insert_batch(&NewBatch::new(id, VERSION, artifact("input"))).await.unwrap();
        let by = store.register_worker(&new_worker(), Duration::from_secs(60)).await.unwrap();
        assert_eq!(store.pick(&filter(), 1, by).await.unwrap().len(), 1);
    }
    let caught: Vec<String> =
        sqlx::query_scalar("SELECT who FROM public.caught").fetch_all(&mut admin).await.unwrap();
    assert!(caught.is_empty(), "a function of another role ran as {:?}", caught.first());
}

#[tokio::test]
async fn a_schema_that_a_stranger_made_or_had_his_hands_in_is_not_taken_over() {
    let url = empty_database().await;
    let mut admin = url.connect().await.unwrap();
    let squatter = user_who_creates(&url, "squatter").await;
    let mut stranger = squatter.connect().await.unwrap();
    run(&mut stranger, "CREATE SCHEMA roundhouse; GRANT ALL ON SCHEMA roundhouse TO PUBLIC").await;
    let store = JobStore::connect(&url).await.unwrap();
    let names = RoleNames::new("squatted", false).unwrap();
    for refused in [store.migrate().await, store.apply_roles(&names).await] {
        assert!(matches!(&refused, Err(StoreError::Schema(_))), "{refused:?}");
    }
    // Without his grant it is his all the same.
    run(&mut stranger, "REVOKE ALL ON SCHEMA roundhouse FROM PUBLIC").await;
    let refused = store.migrate().await.unwrap_err().to_string();
    assert!(refused.contains("belongs to squatter"), "{refused}");
    run(&mut stranger, "DROP SCHEMA roundhouse").await;
    store.apply_roles(&names).await.unwrap();
    store.migrate().await.unwrap();
    store.check_schema().await.unwrap();
    // An owner lets him in.
    run(&mut admin, "GRANT CREATE, USAGE ON SCHEMA roundhouse TO squatter").await;
    let refused = store.check_schema().await.unwrap_err().to_string();
    assert!(refused.contains("role squatter may create things"), "{refused}");
    run(&mut stranger, "CREATE FUNCTION roundhouse.planted() RETURNS int LANGUAGE sql AS 'SELECT 1'").await;
    run(&mut admin, "REVOKE ALL ON SCHEMA roundhouse FROM squatter").await;
    for refused in [store.check_schema().await, store.migrate().await, store.apply_roles(&names).await] {
        let words = refused.unwrap_err().to_string();
        assert!(words.contains("function planted") && words.contains("squatter"), "{words}");
    }
}

/// A stranger may know our migrations, and have the schema's owner run code as whoever uses it.
#[tokio::test]
async fn a_whole_schema_of_a_stranger_is_not_worked_with() {
    let url = empty_database().await;
    let mut admin = url.connect().await.unwrap();
    let squatter = user_who_creates(&url, "squatter_of_all").await;
    let theirs = JobStore::connect(&squatter).await.unwrap();
    theirs.migrate().await.unwrap();
    theirs.check_schema().await.unwrap();
    // A member who did not ask to be one.
    run(
        &mut squatter.connect().await.unwrap(),
        "GRANT USAGE ON SCHEMA roundhouse TO PUBLIC; GRANT ALL ON ALL TABLES IN SCHEMA roundhouse TO PUBLIC",
    )
    .await;
    let worker = user(&url, "worker_of_all").await;
    run(&mut admin, "GRANT squatter_of_all TO worker_of_all").await;
    for store in [JobStore::connect(&url).await.unwrap(), JobStore::connect(&worker).await.unwrap()] {
        for refused in [store.check_schema().await, store.migrate().await] {
            let words = refused.unwrap_err().to_string();
            assert!(words.contains("belongs to squatter_of_all"), "{words}");
        }
    }
}

/// Between our look for the schema and its creation.
#[tokio::test]
async fn a_schema_that_a_stranger_makes_at_the_same_time_is_not_taken_over() {
    let url = empty_database().await;
    let mut admin = url.connect().await.unwrap();
    let squatter = user_who_creates(&url, "squatter_in_time").await;
    let mut stranger = squatter.connect().await.unwrap();
    run(&mut stranger, "BEGIN; CREATE SCHEMA roundhouse; GRANT ALL ON SCHEMA roundhouse TO PUBLIC").await;
    let store = JobStore::connect(&url).await.unwrap();
    // It saw none, and waits for the stranger's.
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted";
    let commit = async {
        while sqlx::query_scalar::<_, i64>(waits).fetch_one(&mut admin).await.unwrap() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        run(&mut stranger, "COMMIT").await;
    };
    let (migrated, ()) = tokio::join!(store.migrate(), commit);
    let words = migrated.unwrap_err().to_string();
    assert!(words.contains("belongs to squatter_in_time"), "{words}");
    let tables = "SELECT count(*) FROM pg_class WHERE relnamespace = 'roundhouse'::regnamespace";
    assert_eq!(sqlx::query_scalar::<_, i64>(tables).fetch_one(&mut admin).await.unwrap(), 0);
}

#[tokio::test]
async fn everything_belongs_to_the_owner_whoever_of_it_migrates() {
    let (url, _) = with_roles("owning", false).await;
    let mut admin = url.connect().await.unwrap();
    let others = "SELECT relname::text FROM pg_class WHERE relnamespace = 'roundhouse'::regnamespace
                  AND relowner <> 'owning_owner'::regrole
                  UNION ALL SELECT typname::text FROM pg_type WHERE typnamespace = 'roundhouse'::regnamespace
                  AND typowner <> 'owning_owner'::regrole";
    let others: Vec<String> = sqlx::query_scalar(others).fetch_all(&mut admin).await.unwrap();
    assert!(others.is_empty(), "{others:?}");
}

#[tokio::test]
async fn a_database_that_was_migrated_before_it_had_roles_is_handed_over_to_the_owner() {
    let url = empty_database().await;
    let store = JobStore::connect(&url).await.unwrap();
    store.migrate().await.unwrap();
    store.apply_roles(&RoleNames::new("later", false).unwrap()).await.unwrap();
    store.check_schema().await.unwrap();
    let owner = JobStore::connect(&member(&url, "later", "owner").await).await.unwrap();
    owner.check_schema().await.unwrap();
    owner.migrate().await.unwrap();
}

#[tokio::test]
async fn a_component_works_and_changes_neither_the_schema_nor_its_books() {
    let (url, _) = with_roles("working", false).await;
    let theirs = member(&url, "working", "component").await;
    let store = JobStore::connect(&theirs).await.unwrap();
    store.check_schema().await.unwrap();
    store.insert_protocol_version(VERSION, "mock", "digest").await.unwrap();
    let (interval, lease) = (Duration::from_secs(1_000), Duration::from_secs(3_000));
    let keeper = LeaseKeeper::start(&store, &new_worker(), interval, lease).await.unwrap();
    let _watching = watch(&store);
    let id = BatchId { chain_id: 0, number: 1 };
    store.insert_batch(&NewBatch::new(id, VERSION, artifact("input"))).await.unwrap();
    assert_eq!(store.pick(&filter(), 1, keeper.worker()).await.unwrap().len(), 1);
    tokio::time::sleep(WATCHED).await;
    drop(keeper);
    tokio::time::sleep(WATCHED).await;
    assert_eq!(state(&store).await, "expired", "a component sees another's death");
    // A monitor's duties.
    store.vitals().await.unwrap();
    store.archive_batch(Duration::ZERO).await.unwrap();
    store.delete_archived_batch(Duration::ZERO).await.unwrap();
    store.delete_stopped_workers(Duration::ZERO).await.unwrap();
    store.learn_from_batch().await.unwrap();
    store.next_collectable(Duration::ZERO).await.unwrap();
    let mut sql = theirs.connect().await.unwrap();
    for statement in [
        "CREATE TABLE roundhouse.planted ()",
        "CREATE FUNCTION roundhouse.planted() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE TEMPORARY TABLE planted ()",
        "DROP TABLE workers",
        "ALTER TABLE workers ADD planted int",
        "CREATE TRIGGER planted AFTER INSERT ON workers EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "TRUNCATE jobs",
        "UPDATE _sqlx_migrations SET success = false",
        "DELETE FROM _sqlx_migrations",
        "UPDATE protocol_versions SET verification_keys_digest = 'mine'",
        "DELETE FROM protocol_versions",
        "SELECT nextval('batches_position_seq')",
        "SET ROLE working_owner",
        "GRANT working_component TO working_reader",
    ] {
        let words = refusal(&mut sql, statement).await;
        assert!(
            words.contains("permission denied")
                || words.contains("must be owner")
                || words.contains("must have admin"),
            "{statement}: {words}"
        );
    }
    let refused = store.migrate().await.unwrap_err().to_string();
    assert!(refused.contains("belongs to working_owner"), "{refused}");
}

#[tokio::test]
async fn a_reader_reads_everything_and_writes_nothing() {
    let (url, owner) = with_roles("reading", false).await;
    owner.insert_protocol_version(VERSION, "mock", "digest").await.unwrap();
    let (interval, lease) = (Duration::from_secs(1_000), Duration::from_secs(3_000));
    let _keeper = LeaseKeeper::start(&owner, &new_worker(), interval, lease).await.unwrap();
    let mut admin = url.connect().await.unwrap();
    let tables: Vec<(String, bool)> = sqlx::query_as(
        "SELECT relname::text, relkind = 'v' FROM pg_class
         WHERE relnamespace = 'roundhouse'::regnamespace AND relkind IN ('r', 'v') ORDER BY 1",
    )
    .fetch_all(&mut admin)
    .await
    .unwrap();
    assert!(tables.len() > 11, "{tables:?}");
    let theirs = member(&url, "reading", "reader").await;
    let store = JobStore::connect(&theirs).await.unwrap();
    store.check_schema().await.unwrap();
    store.vitals().await.unwrap();
    let mut reader = theirs.connect().await.unwrap();
    for (table, is_view) in &tables {
        run(&mut reader, &format!("SELECT * FROM {table}")).await;
        let mut statements =
            vec![format!("DELETE FROM {table}"), format!("INSERT INTO {table} DEFAULT VALUES")];
        if !is_view {
            statements.extend([
                format!("TRUNCATE {table}"),
                format!("SELECT FROM {table} FOR UPDATE"),
                format!("SELECT FROM {table} FOR KEY SHARE"),
                format!("DO $$ BEGIN LOCK TABLE {table} IN ROW EXCLUSIVE MODE; END $$"),
            ]);
        }
        for statement in statements {
            let words = refusal(&mut reader, &statement).await;
            // A view over several tables takes no rows from anybody.
            assert!(words.contains("permission denied") || *is_view, "{statement}: {words}");
        }
    }
    for statement in [
        "SELECT nextval('batches_position_seq')",
        "SELECT setval('batches_position_seq', 1)",
        "CREATE TABLE roundhouse.planted ()",
        "CREATE TEMPORARY TABLE planted ()",
        "SET ROLE reading_component",
    ] {
        refusal(&mut reader, statement).await;
    }
}

#[tokio::test]
async fn a_stranger_does_not_connect_and_where_he_may_he_finds_nothing() {
    let (alone, _) = with_roles("alone", false).await;
    let refused = JobStore::connect(&user(&alone, "stranger_of_ours").await).await.unwrap_err();
    assert!(format!("{refused:?}").contains("permission denied for database"), "{refused:?}");

    let (shared, owner) = with_roles("shared", true).await;
    let theirs = user(&shared, "stranger_of_all").await;
    let store = JobStore::connect(&theirs).await.unwrap();
    let refused = store.check_schema().await.unwrap_err().to_string();
    assert!(refused.contains("stranger_of_all may not use schema roundhouse"), "{refused}");
    assert!(store.workers(true).await.is_err());
    let mut sql = theirs.connect().await.unwrap();
    for statement in [
        "SELECT * FROM roundhouse.workers",
        "SELECT * FROM roundhouse.jobs",
        "CREATE TABLE roundhouse.planted ()",
    ] {
        let words = refusal(&mut sql, statement).await;
        assert!(words.contains("permission denied for schema"), "{statement}: {words}");
    }
    drop(owner);
}

#[test]
fn a_prefix_is_a_plain_word() {
    for bad in ["", "Upper", "9nine", "a-b", "a;DROP", "a\"b", "pg_mine", "ä", &"x".repeat(41)] {
        assert!(RoleNames::new(bad, false).is_err(), "{bad:?}");
    }
    let sql = RoleNames::new("mine", false).unwrap().sql();
    assert!(sql.contains("mine_owner") && !sql.contains(['{', '}']), "every name is filled in");
    assert!(sql.contains("FROM PUBLIC', current_database()"));
    assert!(!RoleNames::new("mine", true).unwrap().sql().contains("REVOKE CONNECT"));
}

/// A trigger runs for whoever writes the table, with the writer's rights; a right to make one is often granted with all others.
#[tokio::test]
async fn a_trigger_of_another_role_is_found_and_the_right_to_make_one_is_taken() {
    let (url, owner) = with_roles("triggered", true).await;
    let mut admin = url.connect().await.unwrap();
    let maker = user(&url, "trigger_maker").await;
    run(&mut admin, "GRANT USAGE ON SCHEMA roundhouse TO trigger_maker; GRANT ALL ON ALL TABLES IN SCHEMA roundhouse TO trigger_maker").await;
    run(&mut admin, "CREATE SCHEMA elsewhere AUTHORIZATION trigger_maker").await;
    let mut maker = maker.connect().await.unwrap();
    run(
        &mut maker,
        "CREATE FUNCTION elsewhere.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
         CREATE TRIGGER planted BEFORE UPDATE ON roundhouse.workers EXECUTE FUNCTION elsewhere.f()",
    )
    .await;
    let found = owner.check_schema().await.unwrap_err().to_string();
    assert!(found.contains("the trigger planted"), "{found}");
    run(&mut admin, "DROP TRIGGER planted ON roundhouse.workers").await;
    owner.check_schema().await.unwrap();
    let store = JobStore::connect(&url).await.unwrap();
    store.apply_roles(&RoleNames::new("triggered", true).unwrap()).await.unwrap();
    let again = "CREATE TRIGGER planted BEFORE UPDATE ON roundhouse.workers EXECUTE FUNCTION elsewhere.f()";
    assert!(refusal(&mut maker, again).await.contains("permission denied"));
}

/// Whoever made it with themselves as a member would own the schema; whoever put it into another role gives that one's rights to us.
#[tokio::test]
async fn a_role_of_our_name_that_has_members_or_is_one_is_not_taken() {
    let url = empty_database().await;
    let mut admin = url.connect().await.unwrap();
    run(&mut admin, "CREATE ROLE mallory LOGIN").await;
    let store = JobStore::connect(&url).await.unwrap();
    for (role, planted) in [
        ("owner", "CREATE ROLE joined_owner NOLOGIN ROLE mallory"),
        ("reader", "CREATE ROLE joined_reader NOLOGIN ROLE mallory"),
        ("component", "CREATE ROLE joined_component NOLOGIN IN ROLE mallory"),
    ] {
        run(&mut admin, planted).await;
        let refused =
            store.apply_roles(&RoleNames::new("joined", true).unwrap()).await.unwrap_err().to_string();
        assert!(refused.contains(&format!("joined_{role} was there before")), "{refused}");
        run(&mut admin, &format!("DROP ROLE joined_{role}")).await;
    }
    store.apply_roles(&RoleNames::new("joined", true).unwrap()).await.unwrap();
    // Members that come afterwards are those that an administrator wants.
    let names = RoleNames::new("joined", true).unwrap().with_members(vec!["mallory".to_owned()]).unwrap();
    for _ in 0..2 {
        store.apply_roles(&names).await.unwrap();
    }
    let is_member = "SELECT pg_has_role('mallory', 'joined_component', 'MEMBER')";
    assert!(sqlx::query_scalar::<_, bool>(is_member).fetch_one(&mut admin).await.unwrap());
    let injected = RoleNames::new("joined", true).unwrap().with_members(vec!["x\"; DROP".to_owned()]);
    assert!(injected.unwrap_err().to_string().contains("is no user"));
}

#[tokio::test]
async fn a_role_of_our_name_that_may_log_in_is_not_taken_for_the_owner() {
    let url = empty_database().await;
    let mut admin = url.connect().await.unwrap();
    run(&mut admin, "CREATE ROLE foreseen_owner LOGIN").await;
    let store = JobStore::connect(&url).await.unwrap();
    let refused =
        store.apply_roles(&RoleNames::new("foreseen", true).unwrap()).await.unwrap_err().to_string();
    assert!(refused.contains("foreseen_owner is there already"), "{refused}");
}
