//! What the job monitor serves: a page at `/`, live by server-sent events, and `/queue_report`. All of it only reads.
//!
//! However many look at the page, the store is asked once a look, and only while somebody looks; the report is made once for all who ask
//! meanwhile.

use crate::LOOK_SHARE;
use crate::queue_report::queue_report;
use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderName, StatusCode, header},
    response::{IntoResponse, Response, Sse, sse::Event},
    routing::get,
};
use futures::stream::{self, Stream};
use job_store::reports::dashboard::{Overview, Throughput};
use job_store::{JobStore, StoreError};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// What may cost more takes one part of so many of the time.
const COSTLY_SHARE: u32 = 20;
/// How much of the past the page shows, and in which spans.
const PAST: Duration = Duration::from_secs(6 * 3_600);
const SPAN: Duration = Duration::from_secs(300);
/// Pages that may look at the same time: half of the connections that a process accepts, so that probes and scrapes find theirs.
const VIEWERS_MAX: usize = 64;

/// The page loads nothing from elsewhere, and nothing may be put into it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'";

#[derive(Debug, Clone)]
struct Shown {
    store: JobStore,
    looks: watch::Sender<Arc<str>>,
    report: Arc<Mutex<Reported>>,
    stop: CancellationToken,
}

/// The last queue report.
#[derive(Debug)]
struct Reported {
    /// As JSON; `None` where the store had no answer.
    report: Option<Bytes>,
    /// Whoever asked before this shares it.
    at: Instant,
    /// Whoever asks before this does too: reports take [`LOOK_SHARE`] of the time at most.
    due: Instant,
}

/// What a page is sent at every look.
#[derive(Serialize)]
struct Look<'a> {
    /// Seconds of Unix time.
    now: f64,
    #[serde(flatten)]
    overview: &'a Overview,
    /// Estimates of the time to the final proof, in seconds, by `CHAIN/NUMBER`.
    time_left: &'a BTreeMap<String, f64>,
    /// Oldest first.
    throughput: &'a [Throughput],
}

/// What a page is sent when there is nothing to show.
#[derive(Serialize)]
struct Trouble {
    trouble: &'static str,
}

/// The routes; streams end when `stop` is set.
pub fn routes(store: JobStore, stop: CancellationToken) -> Router {
    let (looks, _) = watch::channel(Arc::from(""));
    tokio::spawn(look(store.clone(), looks.clone(), stop.clone()));
    let now = Instant::now();
    let none = Arc::new(Mutex::new(Reported { report: None, at: now, due: now }));
    let file = |kind: &'static str, content: &'static str| {
        get(move || async move {
            let headers: [(HeaderName, &str); 3] = [
                (header::CONTENT_TYPE, kind),
                (header::CONTENT_SECURITY_POLICY, POLICY),
                (header::CACHE_CONTROL, "no-cache"),
            ];
            (headers, content)
        })
    };
    Router::new()
        .route("/", file("text/html; charset=utf-8", include_str!("../page/page.html")))
        .route("/page.css", file("text/css; charset=utf-8", include_str!("../page/page.css")))
        .route("/page.js", file("text/javascript; charset=utf-8", include_str!("../page/page.js")))
        .route("/events", get(events))
        .route("/queue_report", get(report))
        .with_state(Shown { store, looks, report: none, stop })
}

async fn report(State(shown): State<Shown>) -> Response {
    let asked = Instant::now();
    let mut last = shown.report.lock().await;
    let begun = Instant::now();
    if last.at < asked && last.due <= begun {
        let report = made_report(&shown.store).await;
        // No answer is shared with who waited for it, and kept for nobody else.
        let rest = report.as_ref().map_or(Duration::ZERO, |_| begun.elapsed() * LOOK_SHARE);
        let at = Instant::now();
        *last = Reported { report, at, due: at + rest };
    }
    match &last.report {
        Some(report) => ([(header::CONTENT_TYPE, "application/json")], report.clone()).into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "the database does not answer\n").into_response(),
    }
}

async fn made_report(store: &JobStore) -> Option<Bytes> {
    match queue_report(store).await.and_then(|report| json(&report)) {
        Ok(report) => Some(report.into()),
        Err(e) => {
            // The database's own words may name hosts and users: they are for the log.
            tracing::warn!("no queue report: {e}");
            None
        }
    }
}

async fn events(State(shown): State<Shown>) -> Response {
    if shown.looks.receiver_count() >= VIEWERS_MAX {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many pages are open\n").into_response();
    }
    let mut looks = shown.looks.subscribe();
    // What somebody else was shown last comes at once.
    looks.mark_changed();
    Sse::new(sent(looks, shown.stop)).into_response()
}

fn sent(
    looks: watch::Receiver<Arc<str>>,
    stop: CancellationToken,
) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold((looks, stop), async |(mut looks, stop)| {
        loop {
            tokio::select! {
                () = stop.cancelled() => return None,
                changed = looks.changed() => changed.ok()?,
            }
            let look = looks.borrow_and_update().clone();
            // Before the first look there is nothing to send.
            if !look.is_empty() {
                return Some((Ok(Event::default().data(&*look)), (looks, stop)));
            }
        }
    })
}

/// Looks, again and again, while somebody is there to see it.
async fn look(store: JobStore, looks: watch::Sender<Arc<str>>, stop: CancellationToken) {
    let mut costly = None;
    let mut was_seen = false;
    while !stop.is_cancelled() {
        let mut rest = LOOK_INTERVAL / 10;
        if looks.receiver_count() > 0 {
            let begun = Instant::now();
            let text = match look_once(&store, &mut costly).await {
                Ok(text) => {
                    was_seen = true;
                    text
                }
                Err(e) => {
                    tracing::warn!("the page cannot be told how things are: {e}");
                    costly = None;
                    serde_json::to_string(&Trouble { trouble: "the database does not answer" })
                        .unwrap_or_default()
                }
            };
            looks.send_replace(text.into());
            rest = LOOK_INTERVAL.max(begun.elapsed() * LOOK_SHARE);
        } else if was_seen {
            // Whoever comes next is not shown what was long ago.
            was_seen = false;
            costly = None;
            looks.send_replace(Arc::from(""));
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(rest) => {}
        }
    }
}

/// What may cost more to ask for than the rest.
struct Costly {
    time_left: BTreeMap<String, f64>,
    throughput: Vec<Throughput>,
    /// When it is asked for again.
    due: Instant,
}

impl Costly {
    async fn ask(store: &JobStore) -> Result<Self, StoreError> {
        let begun = Instant::now();
        let throughput = store.throughput(PAST, SPAN).await?;
        let mut time_left = BTreeMap::new();
        for id in store.batches_in_progress().await? {
            if let Some(seconds) = store.time_left(id).await? {
                time_left.insert(format!("{}/{}", id.chain_id, id.number), seconds);
            }
        }
        Ok(Self { time_left, throughput, due: Instant::now() + begun.elapsed() * COSTLY_SHARE })
    }
}

async fn look_once(store: &JobStore, costly: &mut Option<Costly>) -> Result<String, StoreError> {
    let Costly { time_left, throughput, .. } = match costly {
        Some(known) if Instant::now() < known.due => known,
        _ => costly.insert(Costly::ask(store).await?),
    };
    let overview = store.overview().await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let look = Look { now, overview: &overview, time_left, throughput };
    json(&look)
}

fn json(value: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|e| StoreError::Invalid(e.to_string()))
}
