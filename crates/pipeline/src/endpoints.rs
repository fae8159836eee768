//! What a process shows of itself over HTTP: `/metrics`, `/health/live`, `/health/ready`, and where the job monitor runs its pages.

use crate::http::{self, ListenArgs};
use axum::{Router, extract::State, http::StatusCode, http::header, response::IntoResponse, routing::get};
use job_store::JobStore;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;
use vise::{Format, MetricsCollection};

/// A database that takes longer than this to answer is not one to take jobs from.
const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// The content type of the OpenMetrics text format.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Where a process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It checks what it needs, and loads keys.
    Starting,
    /// It takes jobs.
    Running,
    /// It finishes what it has.
    Draining,
}

/// When the database was last asked for a sign of life, and whether it gave one.
type Ping = (Instant, Result<(), &'static str>);

#[derive(Clone)]
struct Shown {
    store: JobStore,
    phase: watch::Receiver<Phase>,
    ping: Arc<Mutex<Option<Ping>>>,
}

impl Shown {
    /// Whether the database answers. It is asked once for all who wait meanwhile: probes, however many, take one connection.
    async fn database_answers(&self) -> Result<(), &'static str> {
        let asked = Instant::now();
        let mut last = self.ping.lock().await;
        if let Some((at, answer)) = *last
            && at >= asked
        {
            return answer;
        }
        let answer = match tokio::time::timeout(PING_TIMEOUT, self.store.ping()).await {
            Ok(Ok(())) => Ok(()),
            // The database's own words may name hosts and users: they are for the log.
            Ok(Err(e)) => {
                tracing::warn!("not ready: {e}");
                Err("the database does not answer\n")
            }
            Err(_) => Err("the database does not answer in time\n"),
        };
        *last = Some((Instant::now(), answer));
        answer
    }
}

/// Serves the endpoints until the token is set, where they are to be served; returns once the address is bound.
pub async fn serve(
    args: &ListenArgs,
    store: JobStore,
    phase: watch::Receiver<Phase>,
    pages: Option<Router>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let Some(address) = args.listen else { return Ok(()) };
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/health/live", get(|| async { "alive\n" }))
        .route("/health/ready", get(ready))
        .with_state(Shown { store, phase, ping: Arc::default() })
        .merge(pages.unwrap_or_default());
    let bound = http::serve(address, router, args.guard()?, stop).await?;
    tracing::info!("metrics and health on http://{bound}");
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
    match shown.database_answers().await {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason.to_owned()),
    }
}
