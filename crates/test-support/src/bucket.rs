//! An S3 bucket in the test's process, as much of one as the pipeline speaks, that breaks what a test asks it to. Each program has an
//! endpoint of its own to the one bucket, so that a trap is that program's.

use crate::proxy::Moment;
use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    time::Duration,
};

/// What becomes of an endpoint's requests for artifacts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// All is well.
    Fair,
    /// Every request is refused, status 500.
    Refusing,
    /// No request is answered.
    Silent,
    /// What is read ends in its middle, as a connection that broke.
    Cut,
    /// What is read is a byte too short, and says so: the object itself is damaged.
    Short,
}

/// The bucket. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Bucket {
    objects: Arc<Mutex<BTreeMap<String, Bytes>>>,
    unsigned: Arc<Mutex<u32>>,
}

/// One program's way to the bucket.
#[derive(Debug, Clone)]
pub struct Endpoint {
    bucket: Bucket,
    url: String,
    trap: Arc<Mutex<Option<Trap>>>,
    weather: Arc<Mutex<Weather>>,
}

#[derive(Debug)]
struct Trap {
    method: Method,
    path: &'static str,
    moment: Moment,
    closed: mpsc::Sender<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Bucket {
    /// The paths of all objects.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        lock(&self.objects).keys().cloned().collect()
    }

    /// Requests without a signature so far.
    #[must_use]
    pub fn unsigned(&self) -> u32 {
        *lock(&self.unsigned)
    }

    /// A way to the bucket; it ends with the test's process.
    ///
    /// # Panics
    /// When it cannot listen.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        let (told, url) = mpsc::channel();
        let endpoint = Endpoint {
            bucket: self.clone(),
            url: String::new(),
            trap: Arc::default(),
            weather: Arc::new(Mutex::new(Weather::Fair)),
        };
        let theirs = endpoint.clone();
        // A runtime of its own: tests block.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime can be built").block_on(async move {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
                let _ = told.send(format!("http://{}", listener.local_addr().expect("it is bound")));
                let router = Router::new().fallback(answer).with_state(theirs);
                axum::serve(listener, router).await.expect("the server runs");
            });
        });
        Endpoint { url: url.recv().expect("the endpoint listens"), ..endpoint }
    }
}

impl Endpoint {
    /// The settings of a program that has its artifacts here.
    #[must_use]
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        let fixed = [
            ("ROUNDHOUSE_OBJECT_STORE", "s3://proofs/main"),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_REGION", "here"),
            ("AWS_ACCESS_KEY_ID", "key"),
            ("AWS_SECRET_ACCESS_KEY", "the secret"),
        ];
        let fixed = fixed.map(|(key, value)| (key, value.to_owned()));
        fixed.into_iter().chain([("AWS_ENDPOINT", self.url.clone())]).collect()
    }

    /// Sets a trap at a request with this method, for a path with these words; what comes back hears when it has closed. The
    /// request is not answered then.
    #[must_use]
    pub fn trap(&self, method: Method, path: &'static str, moment: Moment) -> mpsc::Receiver<()> {
        let (closed, heard) = mpsc::channel();
        *lock(&self.trap) = Some(Trap { method, path, moment, closed });
        heard
    }

    /// Changes the weather.
    pub fn set_weather(&self, weather: Weather) {
        *lock(&self.weather) = weather;
    }
}

async fn answer(
    State(endpoint): State<Endpoint>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let is_signed =
        headers.get("authorization").is_some_and(|a| a.as_bytes().starts_with(b"AWS4-HMAC-SHA256"));
    if !is_signed {
        *lock(&endpoint.bucket.unsigned) += 1;
    }
    // What a program tries the store with at its start is let pass.
    let is_check = uri.path().contains("/check/") || method == Method::POST;
    let weather = if is_check { Weather::Fair } else { *lock(&endpoint.weather) };
    match weather {
        Weather::Refusing => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Weather::Silent => std::future::pending().await,
        Weather::Fair | Weather::Cut | Weather::Short => {}
    }
    let trap = {
        let mut trap = lock(&endpoint.trap);
        let closes =
            trap.as_ref().is_some_and(|trap| trap.method == method && uri.path().contains(trap.path));
        closes.then(|| trap.take()).flatten()
    };
    if let Some(Trap { moment: Moment::Before, closed, .. }) = &trap {
        let _ = closed.send(());
        std::future::pending::<()>().await;
    }
    let response = endpoint.bucket.answer(&method, uri.path(), body, weather);
    if let Some(Trap { moment, closed, .. }) = trap {
        let _ = closed.send(());
        if moment == Moment::After {
            std::future::pending::<()>().await;
        }
    }
    response
}

impl Bucket {
    fn answer(&self, method: &Method, path: &str, body: Bytes, weather: Weather) -> Response {
        let mut objects = lock(&self.objects);
        match *method {
            Method::PUT => {
                objects.insert(path.to_owned(), body);
                [("etag", "\"1\"")].into_response()
            }
            Method::GET | Method::HEAD => match objects.get(path) {
                Some(content) => {
                    let content = content.clone();
                    let half = content.slice(..content.len() / 2);
                    let date = ("last-modified", "Sat, 21 Nov 2026 00:00:00 GMT");
                    let head = [("etag", "\"1\""), date];
                    match weather {
                        Weather::Cut => {
                            let length = ("content-length", content.len().to_string());
                            let broken = futures::stream::iter([
                                Ok(half),
                                Err(std::io::Error::other("cut, as the test asks")),
                            ]);
                            // The pieces are sent apart, or the first would be lost with the second.
                            let paced = futures::StreamExt::then(broken, |piece| async {
                                tokio::time::sleep(Duration::from_millis(5)).await;
                                piece
                            });
                            (head, [length], Body::from_stream(paced)).into_response()
                        }
                        Weather::Short => (head, content.slice(..content.len() - 1)).into_response(),
                        _ => (head, content).into_response(),
                    }
                }
                None => StatusCode::NOT_FOUND.into_response(),
            },
            // Removal of many: one request names them in its body.
            Method::POST => {
                let text = String::from_utf8_lossy(&body).into_owned();
                let keys = text.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next());
                let removed = keys.map(|key| {
                    objects.retain(|path, _| !path.ends_with(key));
                    format!("<Deleted><Key>{key}</Key></Deleted>")
                });
                format!("<DeleteResult>{}</DeleteResult>", removed.collect::<String>()).into_response()
            }
            _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
        }
    }
}
