//! What others who may connect to the database can do to its owner's work: nothing; and what each role may do.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use job_runner::Lease;
use job_store::batches::insert::NewBatch;
use job_store::database::roles::RoleNames;
use job_store::duties::death_watch::DeathWatch;
use job_store::leases::keeper::LeaseKeeper;
use job_store::leases::pick::PickFilter;
use job_store::{DatabaseUrl, JobStore, StoreError};
use proving_model::{AggregationRound, BatchId, MemoryClass, Stage};
use sqlx::{Connection, PgConnection};
use std::time::{Duration, Instant};
use test_support::{VERSION, artifact, empty_database, new_worker};
use tokio_util::sync::{CancellationToken, DropGuard};

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

#[tokio::test]
async fn a_stranger_who_takes_locks_by_number_kills_no_worker() {
    let url = empty_database().await;
    let store = JobStore::connect(&url).await.unwrap();
    store.migrate().await.unwrap();
    let mut stranger = user(&url, "stranger_of_numbers").await.connect().await.unwrap();
    // Each name that a worker's lock, or its watch's, ever had.
    let all = "unnest(array[1919907182, 2003792995]) name, generate_series(1, 1000) number";
    run(
        &mut stranger,
        &format!("SELECT pg_try_advisory_lock(name, number), pg_try_advisory_lock(number) FROM {all}"),
    )
    .await;
    let (interval, lease) = (Duration::from_secs(1_000), Duration::from_secs(3_000));
    let keeper = LeaseKeeper::start(&store, &new_worker(), interval, lease).await.unwrap();
    let _watching = watch(&store);
    run(&mut stranger, "SELECT pg_advisory_unlock(2003792995, number) FROM generate_series(1, 1000) number")
        .await;
    tokio::time::sleep(WATCHED).await;
    stranger.close().await.unwrap();
    tokio::time::sleep(WATCHED).await;
    assert_eq!(state(&store).await, "live", "a live worker was declared dead");
    drop(keeper);
    tokio::time::sleep(WATCHED).await;
    assert_eq!(state(&store).await, "expired", "and a dead one was not");
}

/// `pg_locks` shows to everybody which locks are held. Who waits for one gets it when its holder's connection ends.
#[tokio::test]
async fn a_stranger_who_reads_a_key_from_pg_locks_and_waits_for_it_kills_no_worker() {
    let url = empty_database().await;
    let store = JobStore::connect(&url).await.unwrap();
    store.migrate().await.unwrap();
    let (interval, lease) = (Duration::from_millis(300), Duration::from_secs(3_000));
    let keeper = LeaseKeeper::start(&store, &new_worker(), interval, lease).await.unwrap();
    store.insert_protocol_version(VERSION, "mock", "digest").await.unwrap();
    let id = BatchId { chain_id: 0, number: 1 };
    store.insert_batch(&NewBatch::new(id, VERSION, artifact("input"))).await.unwrap();
    let asked = Instant::now();
    let job = store.pick(&filter(), 1, keeper.worker()).await.unwrap().remove(0);
    let lease = Lease::new();
    keeper.hold(&job, &lease, asked);
    let mut admin = url.connect().await.unwrap();
    let sign = "SELECT lock_key, backend_pid FROM signs_of_life";
    let (key, backend): (i64, i32) = sqlx::query_as(sign).fetch_one(&mut admin).await.unwrap();
    let mut stranger = user(&url, "stranger_of_pg_locks").await.connect().await.unwrap();
    let seen: i64 = sqlx::query_scalar(
        "SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks
         WHERE locktype = 'advisory' AND objsubid = 1 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
    )
    .fetch_one(&mut stranger)
    .await
    .unwrap();
    assert_eq!(seen, key, "the test looks for the right thing");
    let waiting = tokio::spawn(async move {
        sqlx::query("SELECT pg_advisory_lock($1)").bind(seen).execute(&mut stranger).await.unwrap();
        stranger
    });
    // He is first in the queue, and gets the lock before the watch does.
    let waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid::bigint = $1 & 4294967295";
    while sqlx::query_scalar::<_, i64>(waits).bind(key).fetch_one(&mut admin).await.unwrap() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let _watching = watch(&store);
    tokio::time::sleep(WATCHED).await;
    // The worker's connection breaks, and it makes another.
    sqlx::query("SELECT pg_terminate_backend($1)").bind(backend).execute(&mut admin).await.unwrap();
    let stranger = tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap();
    let begun = Instant::now();
    let fresh = loop {
        let (fresh, _): (i64, i32) = sqlx::query_as(sign).fetch_one(&mut admin).await.unwrap();
        if fresh != key {
            break fresh;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "the worker connects again");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    tokio::time::sleep(WATCHED).await;
    stranger.close().await.unwrap();
    tokio::time::sleep(WATCHED).await;
    assert!(!lease.is_lost(), "a live worker was declared dead, and its job given away");
    assert_eq!(state(&store).await, "live");
    let (last, _): (i64, i32) = sqlx::query_as(sign).fetch_one(&mut admin).await.unwrap();
    assert_eq!(last, fresh);
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
    let squatter = user(&url, "squatter").await;
    let name: String = sqlx::query_scalar("SELECT current_database()").fetch_one(&mut admin).await.unwrap();
    run(&mut admin, &format!("GRANT CREATE ON DATABASE {name} TO squatter")).await;
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
        "ALTER TABLE signs_of_life DISABLE ROW LEVEL SECURITY",
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
async fn a_reader_reads_everything_but_the_lock_keys_and_writes_nothing() {
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
    assert!(tables.len() > 12, "{tables:?}");
    let theirs = member(&url, "reading", "reader").await;
    let store = JobStore::connect(&theirs).await.unwrap();
    store.check_schema().await.unwrap();
    store.vitals().await.unwrap();
    let mut reader = theirs.connect().await.unwrap();
    for (table, is_view) in &tables {
        if table == "signs_of_life" {
            refusal(&mut reader, "SELECT lock_key FROM signs_of_life").await;
        } else {
            run(&mut reader, &format!("SELECT * FROM {table}")).await;
        }
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
    // The keys of a table that was granted with all others: the migration came after the roles, or an administrator granted too much.
    run(&mut admin, "GRANT SELECT ON ALL TABLES IN SCHEMA roundhouse TO reading_reader").await;
    let keys: Vec<i64> =
        sqlx::query_scalar("SELECT lock_key FROM signs_of_life").fetch_all(&mut reader).await.unwrap();
    assert!(keys.is_empty(), "a reader reads the keys");
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
        "SELECT * FROM roundhouse.signs_of_life",
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
