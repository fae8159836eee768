//! The schema against the words of the model, and back and forth through the migrations.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use job_store::database::schema::MIGRATOR;
use job_store::{JobStore, StoreError};
use proving_model::{AggregationRound, BatchStatus, HeadOfChain, JobStatus, MemoryClass, Stage};
use sqlx::{Connection, PgConnection};
use std::collections::BTreeSet;
use test_support::empty_database;

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
        ("prover_jobs", "status", words(JobStatus::ALL, JobStatus::as_str)),
        ("prover_jobs", "stage", words(Stage::ALL, Stage::as_str)),
        ("prover_jobs", "memory_class", words(MemoryClass::ALL, MemoryClass::as_str)),
    ];
    for (table, column, words) in expected {
        assert_eq!(quoted(&check(table, column)), words, "{table}.{column}");
    }
    let rounds = check("prover_jobs", "aggregation_round");
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

#[tokio::test]
async fn a_database_in_use_is_migrated_with_its_jobs_and_their_links() {
    let url = empty_database().await;
    let mut connection = url.connect().await.unwrap();
    sqlx::raw_sql("CREATE SCHEMA roundhouse").execute(&mut connection).await.unwrap();
    let mut ups = MIGRATOR.iter().filter(|m| m.migration_type.is_up_migration());
    sqlx::raw_sql(ups.next().unwrap().sql.clone()).execute(&mut connection).await.unwrap();
    // A batch in the middle of its way: one proof is there, one is being made, the leaf waits for both.
    let rows = "
        INSERT INTO protocol_versions (minor, patch, proof_system, verification_keys_digest) VALUES (0, 1, 'mock', 'x');
        INSERT INTO batches (chain_id, number, protocol_minor, protocol_patch, input_key, input_checksum, input_size_bytes)
            VALUES (3, 7, 0, 1, 'input', decode(repeat('07', 32), 'hex'), 1);
        INSERT INTO workers (id, component, host, pid, capacity, protocol_minor, protocol_patch)
            VALUES ('00000000-0000-0000-0000-000000000001', 'circuit-prover', 'here', 1, 1, 0, 1);
        INSERT INTO prover_jobs (chain_id, batch_number, aggregation_round, stage, circuit_id, depth, sequence_number,
            memory_class, priority, batch_position, protocol_minor, protocol_patch, expected_cost_ms, status, successor_id,
            dependencies_left, worker_id, lease_token, lease_expires_at, output_key, attempts)
        VALUES (3, 7, 1, 'witness_generation', 1, 0, 0, 'light', 0, 1, 0, 1, 5, 'waiting_for_proofs', NULL, 1,
                NULL, NULL, NULL, NULL, 0),
               (3, 7, 0, 'circuit_proof', 1, 0, 1, 'light', 0, 1, 0, 1, 5, 'in_progress', 1, 0,
                '00000000-0000-0000-0000-000000000001', gen_random_uuid(), now(), NULL, 1),
               (3, 7, 0, 'circuit_proof', 1, 0, 0, 'heavy', 0, 1, 0, 1, 5, 'successful', 1, 0,
                NULL, NULL, NULL, 'proof 0', 1);
        INSERT INTO job_attempts (job_id, attempt, worker_id, lease_token, finished_at, outcome)
            VALUES (3, 1, '00000000-0000-0000-0000-000000000001', gen_random_uuid(), now(), 'successful'),
                   (2, 1, '00000000-0000-0000-0000-000000000001', gen_random_uuid(), NULL, NULL)";
    sqlx::raw_sql(rows).execute(&mut connection).await.unwrap();
    for up in ups {
        let mut transaction = connection.begin().await.unwrap();
        sqlx::raw_sql(up.sql.clone()).execute(&mut *transaction).await.unwrap();
        transaction.commit().await.unwrap();
    }
    let (id, predecessors): (i64, Vec<i64>) =
        sqlx::query_as("SELECT id, predecessor_ids FROM prover_jobs WHERE aggregation_round = 1")
            .fetch_one(&mut connection)
            .await
            .unwrap();
    // Position 1; lane 1, circuit 1; then the circuits of lane 5 in their order.
    let place = |lane: i64, sequence: i64| 1 << 37 | lane << 33 | 1 << 25 | sequence;
    assert_eq!((id, predecessors), (place(1, 0), vec![place(5, 0), place(5, 1)]));
    let children: Vec<(i64, i64)> =
        sqlx::query_as("SELECT id, successor_id FROM prover_jobs WHERE successor_id IS NOT NULL ORDER BY id")
            .fetch_all(&mut connection)
            .await
            .unwrap();
    assert_eq!(children, [(place(5, 0), id), (place(5, 1), id)]);
    let attempts: Vec<(i64, Option<String>)> =
        sqlx::query_as("SELECT job_id, outcome FROM attempts ORDER BY job_id")
            .fetch_all(&mut connection)
            .await
            .unwrap();
    assert_eq!(attempts, [(place(5, 0), Some("successful".to_owned())), (place(5, 1), None)]);
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
    let (hot, archive, both) =
        (columns("prover_jobs").await, columns("prover_jobs_archive").await, columns("jobs").await);
    assert_eq!(archive, hot);
    assert_eq!(both, hot, "the view over both");
}

#[tokio::test]
async fn a_database_from_before_there_was_a_schema_is_refused_and_moved_as_the_docs_say() {
    let url = empty_database().await;
    let store = JobStore::connect(&url).await.unwrap();
    let mut plain = PgConnection::connect(url.expose()).await.unwrap();
    MIGRATOR.run_to(20_261_121_000_010, &mut plain).await.unwrap();
    sqlx::raw_sql("INSERT INTO protocol_versions (minor, patch, proof_system, verification_keys_digest) VALUES (0, 1, 'mock', 'x')")
        .execute(&mut plain)
        .await
        .unwrap();
    let refused = store.migrate().await.unwrap_err().to_string();
    assert!(refused.contains("docs/database.md"), "{refused}");
    let schemas: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_namespace WHERE nspname = 'roundhouse'")
        .fetch_one(&mut plain)
        .await
        .unwrap();
    assert_eq!(schemas, 0, "nothing was changed");
    let docs = include_str!("../../../docs/database.md");
    let (_, sql) = docs.rsplit_once("```sql").unwrap();
    let (sql, _) = sql.split_once("```").unwrap();
    sqlx::raw_sql(sql).execute(&mut plain).await.unwrap();
    store.migrate().await.unwrap();
    store.check_schema().await.unwrap();
    assert_eq!(store.versions().await.unwrap().len(), 1);
    let left: i64 =
        sqlx::query_scalar("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace")
            .fetch_one(&mut plain)
            .await
            .unwrap();
    assert_eq!(left, 0);
}
