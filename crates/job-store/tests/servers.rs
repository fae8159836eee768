//! PostgreSQL as people have it: encrypted, behind a pooler, failing over, with a role's own settings.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use job_store::database::listen::WakeListener;
use job_store::leases::keeper::LeaseKeeper;
use job_store::{DatabaseUrl, JobStore, StoreError};
use sqlx::Row;
use std::time::{Duration, Instant};
use test_support::server::{Certificates, Server};
use test_support::{VERSION, new_worker};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Everybody, without a password.
const TRUST: &str = "host all all 127.0.0.1/32 trust\nhost replication all 127.0.0.1/32 trust\n";

async fn refused(url: &DatabaseUrl) -> String {
    JobStore::connect(url).await.map(drop).unwrap_err().to_string()
}

/// Migrates, and sees that it works: a version, a worker with a heartbeat.
async fn works(url: &DatabaseUrl) -> JobStore {
    let store = JobStore::connect(url).await.unwrap();
    store.migrate().await.unwrap();
    store.check_schema().await.unwrap();
    store.insert_protocol_version(VERSION, "mock", "digest").await.unwrap();
    let (interval, lease) = (Duration::from_secs(1), Duration::from_secs(3));
    LeaseKeeper::start(&store, &new_worker(), interval, lease).await.unwrap();
    store.ping().await.unwrap();
    store
}

fn encrypted_server(certificates: &Certificates) -> Server {
    let (certificate, key, authority) = (
        certificates.file("server.crt"),
        certificates.file("server.key"),
        certificates.file("authority.crt"),
    );
    let hba = "hostssl postgres all 127.0.0.1/32 trust\nhostssl guarded all 127.0.0.1/32 cert\n";
    Server::start(
        hba,
        &[
            ("ssl", "on"),
            ("ssl_cert_file", &certificate),
            ("ssl_key_file", &key),
            ("ssl_ca_file", &authority),
        ],
    )
}

#[tokio::test]
async fn a_server_that_takes_only_encrypted_connections_is_checked_as_the_url_says() {
    let certificates = Certificates::for_name("127.0.0.1");
    let server = encrypted_server(&certificates);
    let authority = certificates.file("authority.crt");
    let others = Certificates::for_name("127.0.0.1");
    let other = others.file("authority.crt");
    for parameters in [
        String::new(),
        "?sslmode=require".to_owned(),
        format!("?sslmode=verify-ca&sslrootcert={authority}"),
        format!("?sslmode=verify-full&sslrootcert={authority}"),
    ] {
        let mut connection = server.url_with("postgres", &parameters).connect().await.unwrap();
        let is_encrypted: bool =
            sqlx::query_scalar("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
                .fetch_one(&mut connection)
                .await
                .unwrap();
        assert!(is_encrypted, "{parameters}");
    }
    works(&server.url_with("postgres", &format!("?sslmode=verify-full&sslrootcert={authority}"))).await;
    for (parameters, named) in [
        ("?sslmode=disable".to_owned(), "no encryption"),
        ("?sslmode=verify-full".to_owned(), "name the authority's file as sslrootcert"),
        (format!("?sslmode=verify-full&sslrootcert={other}"), "name the authority's file as sslrootcert"),
        (format!("?sslmode=verify-ca&sslrootcert={other}"), "name the authority's file as sslrootcert"),
        // As in PostgreSQL's own library.
        (format!("?sslmode=require&sslrootcert={other}"), "name the authority's file as sslrootcert"),
    ] {
        let refused = refused(&server.url_with("postgres", &parameters)).await;
        assert!(refused.contains(named), "{parameters}: {refused}");
    }
}

#[tokio::test]
async fn a_certificate_of_another_host_passes_where_names_do_not_count_and_nowhere_else() {
    let certificates = Certificates::for_name("db.example");
    let server = encrypted_server(&certificates);
    let authority = certificates.file("authority.crt");
    server
        .url_with("postgres", &format!("?sslmode=verify-ca&sslrootcert={authority}"))
        .connect()
        .await
        .unwrap();
    let refused =
        refused(&server.url_with("postgres", &format!("?sslmode=verify-full&sslrootcert={authority}"))).await;
    assert!(refused.contains("another host's"), "{refused}");
}

#[tokio::test]
async fn a_client_shows_its_certificate_where_it_has_one() {
    let certificates = Certificates::for_name("127.0.0.1");
    let server = encrypted_server(&certificates);
    let admin = server.url_with("postgres", "?sslmode=require");
    JobStore::create_database(&admin, "guarded").await.unwrap();
    let refused = refused(&server.url_with("guarded", "?sslmode=require")).await;
    assert!(refused.contains("certificate"), "{refused}");
    let (certificate, key) = (certificates.file("client.crt"), certificates.file("client.key"));
    works(&server.url_with("guarded", &format!("?sslmode=require&sslcert={certificate}&sslkey={key}"))).await;
}

/// Says to every client that there is no encryption, and passes everything on.
async fn downgrading_proxy(server: u16) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 8];
                client.read_exact(&mut request).await.unwrap();
                client.write_all(b"N").await.unwrap();
                let mut server = tokio::net::TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    port
}

#[tokio::test]
async fn whoever_is_in_between_cannot_turn_encryption_off() {
    // Connections that ended in the proxy end soon in the server.
    let server = Server::start(TRUST, &[("authentication_timeout", "1")]);
    let port = downgrading_proxy(server.port).await;
    let url = |mode: &str| {
        DatabaseUrl::new(&format!("postgres://roundhouse@127.0.0.1:{port}/postgres?sslmode={mode}")).unwrap()
    };
    // What it would get to see.
    url("prefer").connect().await.unwrap();
    for mode in ["require", "verify-ca", "verify-full"] {
        let refused = refused(&url(mode)).await;
        assert!(refused.contains("offers no encryption"), "{mode}: {refused}");
    }
}

#[tokio::test]
async fn a_session_pooler_serves_and_a_transaction_pooler_is_found_out_at_the_start() {
    let server = Server::start(TRUST, &[]);
    let session = Server::pooler(&server, "session");
    works(&session.url("postgres")).await;
    for pool in ["transaction", "statement"] {
        let pooler = Server::pooler(&server, pool);
        let refused = refused(&pooler.url("postgres")).await;
        assert!(refused.contains("Set pool_mode = session"), "{pool}: {refused}");
    }
}

#[tokio::test]
async fn settings_of_a_role_or_a_server_change_nothing() {
    let odd = [
        ("timezone", "Asia/Kathmandu"),
        ("DateStyle", "German, DMY"),
        ("IntervalStyle", "sql_standard"),
        ("default_transaction_isolation", "serializable"),
        ("default_transaction_deferrable", "on"),
        ("search_path", "pg_catalog"),
        ("statement_timeout", "500"),
        ("lock_timeout", "500"),
        ("idle_session_timeout", "500"),
    ];
    let server = Server::start(TRUST, &odd);
    let url = server.url("postgres");
    let store = works(&url).await;
    let mut connection = url.connect().await.unwrap();
    for (name, _) in &odd[3..] {
        let value: String = sqlx::query_scalar("SELECT current_setting($1)")
            .bind(name)
            .fetch_one(&mut connection)
            .await
            .unwrap();
        let odd = odd.iter().find(|(odd, _)| odd == name).unwrap().1;
        assert!(!value.starts_with(odd), "{name} is {value}");
    }
    // Longer than the role's limits.
    sqlx::query("SELECT pg_sleep(0.8)").execute(&mut connection).await.unwrap();
    tokio::time::sleep(Duration::from_millis(800)).await;
    store.ping().await.unwrap();
    let names = "SELECT DISTINCT application_name FROM pg_stat_activity WHERE application_name LIKE 'roundhouse%' ORDER BY 1";
    let names: Vec<String> =
        sqlx::query(names).fetch_all(&mut connection).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert!(names.iter().any(|name| name == "roundhouse reports"), "{names:?}");
}

/// A URL of both servers, in this order.
fn both(first: &Server, second: &Server) -> DatabaseUrl {
    let (one, other) = (first.port, second.port);
    DatabaseUrl::new(&format!(
        "postgres://roundhouse@127.0.0.1:{one},127.0.0.1:{other}/postgres?target_session_attrs=read-write"
    ))
    .unwrap()
}

#[tokio::test]
async fn of_several_servers_the_one_that_takes_writes_serves_also_after_a_failover() {
    let mut primary = Server::start(TRUST, &[]);
    let standby = Server::standby_of(&primary);
    // The standby is asked first, and passed over.
    let url = both(&standby, &primary);
    let store = works(&url).await;
    let listener = job_store::database::listen::WakeListener::start(&store).await.unwrap();
    let (interval, lease) = (Duration::from_millis(500), Duration::from_secs(60));
    let keeper = LeaseKeeper::start(&store, &new_worker(), interval, lease).await.unwrap();
    primary.kill();
    assert!(matches!(store.ping().await, Err(e @ StoreError::Database { .. }) if e.is_transient()));
    standby.promote();
    let promoted = Instant::now();
    while store.ping().await.is_err() {
        assert!(promoted.elapsed() < Duration::from_secs(20), "the new writer is not found");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // The heartbeat goes on with the new writer, as the same worker.
    let beats = "SELECT count(*) FROM roundhouse.workers WHERE id = $1 AND heartbeat_at > now() - interval '1 second'";
    loop {
        let mut connection = url.connect().await.unwrap();
        let count: i64 =
            sqlx::query_scalar(beats).bind(keeper.worker()).fetch_one(&mut connection).await.unwrap();
        if count == 1 {
            break;
        }
        assert!(promoted.elapsed() < Duration::from_secs(20), "no heartbeat reaches the new writer");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(listener);
}

#[tokio::test]
async fn a_server_that_became_read_only_is_away_and_not_a_missing_right() {
    let server = Server::start(TRUST, &[]);
    let url = server.url("postgres");
    let store = works(&url).await;
    let mut admin = url.connect().await.unwrap();
    let set = |on: &str| format!("ALTER SYSTEM SET default_transaction_read_only = {on}");
    for statement in [set("on"), "SELECT pg_reload_conf()".to_owned()] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut admin).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let away = store.register_worker(&new_worker(), Duration::from_secs(9)).await.unwrap_err();
    assert!(matches!(away, StoreError::Database { .. }) && away.is_transient(), "{away}");
    assert!(store.ping().await.unwrap_err().to_string().contains("takes no writes"));
    sqlx::raw_sql("SET default_transaction_read_only = off").execute(&mut admin).await.unwrap();
    for statement in [set("off"), "SELECT pg_reload_conf()".to_owned()] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut admin).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    store.ping().await.unwrap();
    store.register_worker(&new_worker(), Duration::from_secs(9)).await.unwrap();
}

#[tokio::test]
async fn a_server_without_a_free_connection_is_waited_for() {
    let server = Server::start(TRUST, &[("max_connections", "8"), ("superuser_reserved_connections", "0")]);
    let url = server.url("postgres");
    let mut taken = Vec::new();
    while let Ok(connection) = url.connect().await {
        taken.push(connection);
    }
    let waiting = tokio::spawn({
        let url = url.clone();
        async move { JobStore::connect(&url).await }
    });
    tokio::time::sleep(Duration::from_secs(2)).await;
    if waiting.is_finished() {
        panic!("it did not wait: {:?}", waiting.await.unwrap().map(drop));
    }
    drop(taken);
    waiting.await.unwrap().unwrap().ping().await.unwrap();
}

#[tokio::test]
async fn a_process_at_rest_keeps_no_connection_but_its_heartbeats_and_its_listeners() {
    let server = Server::start(TRUST, &[]);
    let url = server.url("postgres");
    let store = works(&url).await;
    let (interval, lease) = (Duration::from_secs(1), Duration::from_secs(3));
    let keeper = LeaseKeeper::start(&store, &new_worker(), interval, lease).await.unwrap();
    let listener = WakeListener::start(&store).await.unwrap();
    let me = new_worker();
    let together = (0..8).map(|_| store.register_worker(&me, lease));
    futures::future::try_join_all(together).await.unwrap();
    let mut admin = url.connect().await.unwrap();
    let mut open = async || -> Vec<String> {
        sqlx::query_scalar(
            "SELECT application_name FROM pg_stat_activity
             WHERE application_name LIKE 'roundhouse%' AND pid <> pg_backend_pid() ORDER BY 1",
        )
        .fetch_all(&mut admin)
        .await
        .unwrap()
    };
    let at_work = open().await;
    assert!(at_work.len() >= 5, "writes at the same time, reports, a heartbeat, a listener: {at_work:?}");
    let begun = Instant::now();
    while open().await.len() > 2 {
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", open().await);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let at_rest = open().await;
    assert!(at_rest[0].ends_with("heartbeat") && at_rest[1].ends_with("wake-ups"), "{at_rest:?}");
    // And works again.
    store.register_worker(&new_worker(), lease).await.unwrap();
    drop((keeper, listener));
}
