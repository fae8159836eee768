//! The queue report, as it is served.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use job_monitor::routes;
use job_store::{DatabaseUrl, JobStore};
use std::time::Duration;
use test_support::proxy::{Network, Proxy};
use test_support::{empty_database, http, server_socket};
use tokio_util::sync::CancellationToken;
use vise::{Format, MetricsCollection};

/// How often the store was asked for the demand, as `/metrics` has it.
fn made() -> u64 {
    let mut text = String::new();
    MetricsCollection::default().collect().encode(&mut text, Format::OpenMetrics).unwrap();
    let of_demand = |line: &&str| line.contains(r#"query="demand""#) && line.contains("_count{");
    text.lines().find(of_demand).map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

#[tokio::test]
async fn a_report_is_made_once_for_all_who_ask_meanwhile() {
    let url = empty_database().await;
    JobStore::connect(&url).await.unwrap().migrate().await.unwrap();
    let proxy = Proxy::start(server_socket());
    let url: DatabaseUrl = url.with_host_and_port("127.0.0.1", proxy.port()).unwrap();
    let store = JobStore::connect(&url).await.unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let routes = routes(store, CancellationToken::new());
    tokio::spawn(async move { axum::serve(listener, routes).await });

    proxy.set_network(Network::Stalled);
    let ask = || {
        let address = address.clone();
        tokio::task::spawn_blocking(move || http::get(&address, "/queue_report").unwrap())
    };
    let asked: Vec<_> = (0..16).map(|_| ask()).collect();
    // However few have come by then: what took so long is shown to who comes later, too.
    tokio::time::sleep(Duration::from_millis(500)).await;
    proxy.set_network(Network::Whole);
    for answer in asked {
        let answer = answer.await.unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (200, "[]"));
        assert!(answer.head.contains("application/json"), "{}", answer.head);
    }
    assert_eq!(made(), 1);
}
