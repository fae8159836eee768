//! Databases for tests: one private server a test process, one database a test; and the programs, started as a user
//! starts them; and what stands between the programs and the world, to break it. A dev-dependency only.

#![allow(clippy::expect_used, reason = "a test that cannot have what it needs fails")]

pub mod bucket;
pub mod http;
pub mod programs;
pub mod proxy;
pub mod server;

use embedded_postgres::{EmbeddedPostgres, Options};
use job_store::leases::workers::NewWorker;
use job_store::{DatabaseUrl, JobStore};
use proving_model::{ArtifactRef, ProtocolVersion};
use std::{
    path::PathBuf,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

/// The version of test batches.
pub const VERSION: ProtocolVersion = ProtocolVersion { minor: 0, patch: 1 };

/// A worker of test batches, with one job at a time and no limit to its memory.
#[must_use]
pub fn new_worker() -> NewWorker {
    NewWorker {
        component: "test".to_owned(),
        host: "here".to_owned(),
        capacity: 1,
        version: VERSION,
        memory_budget_bytes: None,
    }
}

/// A new folder for one test process, which the server creates, and removes at its end.
fn process_folder() -> PathBuf {
    let made = tempfile::Builder::new().prefix("roundhouse-test-").tempdir();
    made.expect("the temporary folder takes a folder").path().to_owned()
}

/// This test process's server. It ends with the process and removes its cluster.
fn server() -> &'static EmbeddedPostgres {
    static SERVER: OnceLock<EmbeddedPostgres> = OnceLock::new();
    SERVER.get_or_init(|| {
        // A test's data need not survive the machine, and syncing it takes most of the tests' time.
        // Many processes share it.
        let settings = [
            ("fsync", "off"),
            ("synchronous_commit", "off"),
            ("full_page_writes", "off"),
            ("max_connections", "400"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let options = Options { settings: settings.to_vec(), is_temporary: true, ..Options::default() };
        EmbeddedPostgres::start(&process_folder(), &options).expect("PostgreSQL is installed")
    })
}

/// The socket of the server that tests share.
#[must_use]
pub fn server_socket() -> PathBuf {
    server().socket()
}

/// A fresh, empty database.
pub async fn empty_database() -> DatabaseUrl {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
    let admin = DatabaseUrl::new(&server().url("postgres")).expect("the server's URL is valid");
    JobStore::create_database(&admin, &name).await.expect("the name is new");
    DatabaseUrl::new(&server().url(&name)).expect("the server's URL is valid")
}

/// A fresh database with the schema and version [`VERSION`] of the mock.
pub async fn store() -> JobStore {
    store_and_url().await.0
}

/// As [`store`], with the database's URL.
pub async fn store_and_url() -> (JobStore, DatabaseUrl) {
    let url = empty_database().await;
    let store = JobStore::connect(&url).await.expect("the server runs");
    store.migrate().await.expect("the migrations apply");
    store.insert_protocol_version(VERSION, "mock", "digest").await.expect("the version is new");
    (store, url)
}

/// A reference to an artifact that nobody reads.
#[must_use]
pub fn artifact(key: &str) -> ArtifactRef {
    ArtifactRef { key: key.to_owned(), checksum: [7; 32], size_bytes: 1 }
}
