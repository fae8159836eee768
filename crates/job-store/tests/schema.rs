//! The schema against the words of the model, and back and forth through the migrations.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use job_store::batches::insert::NewBatch;
use job_store::database::schema::MIGRATOR;
use job_store::{JobStore, StoreError};
use proving_model::{AggregationRound, BatchId, BatchStatus, HeadOfChain, JobStatus, Stage};
use std::{collections::BTreeSet, time::Duration};
use test_support::{VERSION, artifact, empty_database};

/// Words in single quotes.
fn quoted(definition: &str) -> BTreeSet<&str> {
    definition.split('\'').skip(1).step_by(2).collect()
}

fn words<T: Copy>(all: &[T], word: fn(T) -> &'static str) -> BTreeSet<&'static str> {
    all.iter().map(|value| word(*value)).collect()
}

#[tokio::test]
async fn the_checks_allow_the_words_of_the_model_and_no_others() {
    let url = empty_database().await;
    JobStore::connect(&url).await.unwrap().migrate().await.unwrap();
    let mut connection = url.connect().await.unwrap();
    // A column's own CHECK, or that of its domain.
    let checks: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT a.attrelid::regclass::text, a.attname::text, pg_get_constraintdef(c.oid)
         FROM pg_constraint c
         JOIN pg_attribute a ON (a.attrelid = c.conrelid AND c.conkey = ARRAY[a.attnum]) OR a.atttypid = c.contypid
         WHERE c.contype = 'c'",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    let check = |table: &str, column: &str| {
        let found = checks.iter().find(|(t, c, _)| t == table && c == column);
        found.unwrap_or_else(|| panic!("{table}.{column} has a CHECK")).2.clone()
    };
    let expected = [
        ("batches", "status", words(BatchStatus::ALL, BatchStatus::as_str)),
        ("chains", "head_of_chain", words(HeadOfChain::ALL, HeadOfChain::as_str)),
        ("jobs", "status", words(JobStatus::ALL, JobStatus::as_str)),
        ("paused_stages", "stage", words(Stage::ALL, Stage::as_str)),
    ];
    for (table, column, words) in expected {
        assert_eq!(quoted(&check(table, column)), words, "{table}.{column}");
    }
    let rounds = check("learned_circuits", "aggregation_round");
    let (first, last) = (AggregationRound::ALL[0].number(), AggregationRound::ALL[4].number());
    assert!(rounds.contains(&format!(">= {first}")) && rounds.contains(&format!("<= {last}")), "{rounds}");
}

#[tokio::test]
async fn every_table_and_nothing_else_goes_when_the_migrations_are_undone() {
    let url = empty_database().await;
    let store = JobStore::connect(&url).await.unwrap();
    let missing = store.check_schema().await.unwrap_err();
    assert!(matches!(&missing, StoreError::Schema(text) if text.contains("database migrate")), "{missing}");
    for _ in 0..2 {
        store.migrate().await.unwrap();
        store.check_schema().await.unwrap();
        // Once more changes nothing.
        store.migrate().await.unwrap();
        let mut connection = url.connect().await.unwrap();
        MIGRATOR.undo(&mut connection, 0).await.unwrap();
        let left: Vec<String> = sqlx::query_scalar(
            "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname IN ('public', 'roundhouse') AND c.relname NOT LIKE '\\_sqlx%' ORDER BY 1",
        )
        .fetch_all(&mut connection)
        .await
        .unwrap();
        assert!(left.is_empty(), "{left:?}");
        let domains: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_type WHERE typtype = 'd' AND typnamespace = 'roundhouse'::regnamespace",
        )
        .fetch_one(&mut connection)
        .await
        .unwrap();
        assert_eq!(domains, 0);
    }
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_alone() {
    let url = empty_database().await;
    let store = JobStore::connect(&url).await.unwrap();
    store.migrate().await.unwrap();
    let mut connection = url.connect().await.unwrap();
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (99991231000000, 'from the future', true, '\\x00', 0)",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    let newer = store.check_schema().await.unwrap_err();
    assert!(newer.to_string().contains("update the program"), "{newer}");
    assert!(store.migrate().await.is_err());
}

/// A report reads a table for long, a migration wants it for itself, and the work must not wait behind the migration.
#[tokio::test]
async fn work_goes_on_while_a_migration_waits_for_a_table() {
    let url = empty_database().await;
    let store = JobStore::connect(&url).await.unwrap();
    store.migrate().await.unwrap();
    store.insert_protocol_version(VERSION, "mock", "digest").await.unwrap();
    let mut connection = url.connect().await.unwrap();
    MIGRATOR.undo(&mut connection, 20_261_127_000_002).await.unwrap();
    assert!(store.check_schema().await.is_err(), "there is something to migrate");
    let mut reader = url.connect().await.unwrap();
    sqlx::raw_sql("BEGIN; SELECT count(*) FROM batches, jobs").execute(&mut reader).await.unwrap();
    let work = async {
        let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation IN ('batches'::regclass, 'jobs'::regclass)";
        while sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut connection).await.unwrap() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        for number in 0..3 {
            let id = BatchId { chain_id: 0, number };
            store.insert_batch(&NewBatch::new(id, VERSION, artifact("input"))).await.unwrap();
        }
        // Only now the reader ends.
        sqlx::raw_sql("COMMIT").execute(&mut reader).await.unwrap();
    };
    let (migrated, ()) = tokio::join!(store.migrate(), work);
    migrated.unwrap();
    store.check_schema().await.unwrap();
}

#[test]
fn migrations_are_in_order_and_each_can_be_undone() {
    let versions: Vec<i64> = MIGRATOR.iter().map(|migration| migration.version).collect();
    assert!(versions.is_sorted(), "append-only: {versions:?}");
    for up in MIGRATOR.iter().filter(|m| m.migration_type.is_up_migration()) {
        let has_down =
            MIGRATOR.iter().any(|m| m.version == up.version && m.migration_type.is_down_migration());
        assert!(has_down, "migration {} can be undone", up.version);
    }
}

/// A report reads whole rows, and one of a gigabyte would end whoever makes it.
#[tokio::test]
async fn no_text_or_array_of_a_row_is_without_a_bound() {
    let url = empty_database().await;
    JobStore::connect(&url).await.unwrap().migrate().await.unwrap();
    let mut connection = url.connect().await.unwrap();
    let unbounded: Vec<String> = sqlx::query_scalar(
        "SELECT format('%s.%s', c.relname, a.attname)
         FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid JOIN pg_type t ON t.oid = a.atttypid
         WHERE c.relnamespace = 'roundhouse'::regnamespace AND c.relkind = 'r' AND c.relname <> '_sqlx_migrations'
           AND a.attnum > 0 AND NOT a.attisdropped AND (t.typname IN ('text', 'bytea') OR t.typcategory = 'A')
           AND NOT EXISTS (
               SELECT FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'c'
                 AND pg_get_constraintdef(k.oid) ~ ('(octet_length|cardinality)\\(' || a.attname || '\\) <?=|\\(' || a.attname || ' = ANY'))",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    assert!(unbounded.is_empty(), "{unbounded:?}");
    for (table, column) in
        [("batches", "error"), ("jobs", "error"), ("jobs_archive", "error"), ("workers", "host")]
    {
        let change = format!("ALTER TABLE {table} ALTER {column} SET DEFAULT repeat('x', 65537)");
        sqlx::query(sqlx::AssertSqlSafe(change)).execute(&mut connection).await.unwrap();
    }
    let long =
        "INSERT INTO workers (id, component, pid, capacity, protocol_minor, protocol_patch, expires_at)
                VALUES (gen_random_uuid(), 'c', 1, 1, 1, 1, now())";
    let refused = sqlx::query(long).execute(&mut connection).await.unwrap_err();
    assert!(refused.to_string().contains("texts_are_bounded"), "{refused}");
}

#[tokio::test]
async fn the_archive_has_the_columns_of_the_hot_table_in_the_same_order() {
    let url = empty_database().await;
    JobStore::connect(&url).await.unwrap().migrate().await.unwrap();
    let mut connection = url.connect().await.unwrap();
    // Batches move by `SELECT *`.
    let mut columns = async |table: &str| -> Vec<(String, String)> {
        sqlx::query_as(
            "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute
             WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        )
        .bind(table)
        .fetch_all(&mut connection)
        .await
        .unwrap()
    };
    let (hot, archive) = (columns("jobs").await, columns("jobs_archive").await);
    assert_eq!(archive, hot);
    assert!(hot.len() <= 34, "every write of a job pays for its columns: {}", hot.len());
    let (reported, all) = (columns("prover_jobs").await, columns("all_prover_jobs").await);
    assert_eq!(reported, all);
    assert!(reported.ends_with(&hot), "the view shows what is derived, then the row");
}
