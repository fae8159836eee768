//! What a process shows of itself over HTTP: `/metrics`, `/health/live`, `/health/ready`, and where the job monitor runs its pages.

use anyhow::Context;
use axum::{Router, extract::State, http::StatusCode, http::header, response::IntoResponse, routing::get};
use job_store::JobStore;
use std::{net::SocketAddr, time::Duration};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;
use vise::{Format, MetricsCollection};

/// A database that takes longer than this to answer is not one to take jobs from.
const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// The content type of the OpenMetrics text format.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Where a process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It checks what it needs, and loads keys.
    Starting,
    /// It takes jobs.
    Running,
    /// It finishes what it has.
    Draining,
}

#[derive(Clone)]
struct Shown {
    store: JobStore,
    phase: watch::Receiver<Phase>,
}

/// Serves the endpoints until the token is set; returns once the address is bound.
pub(crate) async fn serve(
    address: SocketAddr,
    store: JobStore,
    phase: watch::Receiver<Phase>,
    pages: Option<Router>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}; choose another with --listen"))?;
    tracing::info!("metrics and health on http://{}", listener.local_addr()?);
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/health/live", get(|| async { "alive\n" }))
        .route("/health/ready", get(ready))
        .with_state(Shown { store, phase })
        .merge(pages.unwrap_or_default());
    tokio::spawn(async move {
        let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
        if let Err(e) = served.await {
            tracing::warn!("the endpoints ended: {e}");
        }
    });
    Ok(())
}

async fn metrics() -> impl IntoResponse {
    let mut text = String::new();
    match MetricsCollection::default().collect().encode(&mut text, Format::OpenMetrics) {
        Ok(()) => Ok(([(header::CONTENT_TYPE, OPEN_METRICS)], text)),
        Err(e) => Err((StatusCode::INTERNAL_SERVER_ERROR, format!("the metrics cannot be written: {e}\n"))),
    }
}

async fn ready(State(shown): State<Shown>) -> (StatusCode, String) {
    let phase = *shown.phase.borrow();
    if phase != Phase::Running {
        return (StatusCode::SERVICE_UNAVAILABLE, format!("{phase:?}\n").to_lowercase());
    }
    match tokio::time::timeout(PING_TIMEOUT, shown.store.ping()).await {
        Ok(Ok(())) => (StatusCode::OK, "ready\n".to_owned()),
        // The database's own words may name hosts and users: they are for the log.
        Ok(Err(e)) => {
            tracing::warn!("not ready: {e}");
            (StatusCode::SERVICE_UNAVAILABLE, "the database does not answer\n".to_owned())
        }
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the database does not answer in time\n".to_owned()),
    }
}
