//! How a process serves HTTP: with limits, so that whoever reaches the port takes nothing from the process's work.
//!
//! A process has descriptors, memory and database connections for its work. Connections are bounded, in all and for each address; a
//! client that does not send its request's head in time, or does not take its answer, is cut off.

use anyhow::Context;
use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use clap::Args;
use cli_support::BadInput;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustix::net::sockopt::set_tcp_user_timeout;
use std::{
    collections::HashMap,
    fs::File,
    io::Read as _,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;

/// Connections at the same time. More wait to be accepted.
const CONNECTIONS_MAX: usize = 128;
/// Connections of one address at the same time. More are closed at once.
const CONNECTIONS_AN_ADDRESS: usize = 32;
/// A request's head must be there this long after the connection, or the answer before it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a request's head; more are answered with 431.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Header lines of a request.
const HEADERS_MAX: usize = 64;
/// A client that takes nothing of its answer for this long is cut off, in milliseconds.
const STALLED_MS: u32 = 30_000;
/// When the process ends, connections have this long for the answers that are on their way.
const GRACE: Duration = Duration::from_secs(2);
/// Between two attempts to accept, when the system has no descriptors.
const ACCEPT_REST: Duration = Duration::from_millis(100);
/// Bytes of a token, at least and at most.
const TOKEN_BYTES: std::ops::RangeInclusive<usize> = 16..=512;

/// Where a process listens, and whom it answers.
#[derive(Debug, Clone, Args)]
pub struct ListenArgs {
    /// Where /metrics, /health/live and /health/ready are served, and by a job monitor its page and /queue_report, ADDRESS:PORT
    /// [default: nowhere].
    #[arg(long, env = "ROUNDHOUSE_LISTEN")]
    pub listen: Option<SocketAddr>,
    /// Answer requests for this host name too; more than one with commas. IP addresses, names without a dot, and names under
    /// .localhost, .local and .internal are always answered: no web page from elsewhere can be under such a name.
    #[arg(long, value_delimiter = ',', env = "ROUNDHOUSE_ALLOWED_HOST")]
    allowed_host: Vec<String>,
    /// A file with a token that all requests but those for /health must show, as a bearer token, or as the password of any user
    /// (which browsers ask for).
    #[arg(long, env = "ROUNDHOUSE_HTTP_TOKEN_FILE")]
    http_token_file: Option<PathBuf>,
}

impl ListenArgs {
    /// Whom to answer.
    ///
    /// # Errors
    /// [`BadInput`] when the token's file cannot be read or holds no token.
    pub fn guard(&self) -> anyhow::Result<Guard> {
        let token = self.http_token_file.as_deref().map(read_token).transpose()?;
        let hosts = self.allowed_host.iter().map(|host| host.to_ascii_lowercase()).collect();
        Ok(Guard { hosts, token })
    }
}

/// Reads a token; its bytes appear in no message.
fn read_token(path: &Path) -> Result<blake3::Hash, BadInput> {
    let bad = |reason: String| BadInput(format!("cannot use the token in {}: {reason}", path.display()));
    let mut text = Vec::new();
    let limit = *TOKEN_BYTES.end() as u64 + 2;
    File::open(path)
        .and_then(|file| file.take(limit).read_to_end(&mut text))
        .map_err(|e| bad(e.to_string()))?;
    let token = text.trim_ascii();
    if !TOKEN_BYTES.contains(&token.len()) || !token.iter().all(u8::is_ascii_graphic) {
        return Err(bad(format!(
            "a token has {} to {} visible ASCII characters; `openssl rand -hex 32` prints one",
            TOKEN_BYTES.start(),
            TOKEN_BYTES.end()
        )));
    }
    Ok(blake3::hash(token))
}

/// Whom a process answers.
#[derive(Debug, Clone)]
pub struct Guard {
    hosts: Vec<String>,
    /// The token's hash: comparing hashes takes the same time wherever they differ.
    token: Option<blake3::Hash>,
}

impl Guard {
    /// Whether a web page from elsewhere cannot have sent a request for this host. Such a page is under a public name that its owner has
    /// pointed at this process.
    fn is_allowed_host(&self, host: &str) -> bool {
        let name = match host.strip_prefix('[') {
            // An address of version 6 is in brackets.
            Some(rest) => {
                let is_port = |rest: &str| {
                    rest.is_empty() || rest.strip_prefix(':').is_some_and(|p| p.parse::<u16>().is_ok())
                };
                return rest
                    .split_once(']')
                    .is_some_and(|(ip, rest)| ip.parse::<Ipv6Addr>().is_ok() && is_port(rest));
            }
            None => host.rsplit_once(':').map_or(host, |(name, _)| name).trim_end_matches('.'),
        };
        let name = name.to_ascii_lowercase();
        let is_reserved = || [".localhost", ".local", ".internal"].iter().any(|end| name.ends_with(end));
        !name.contains('.') || name.parse::<IpAddr>().is_ok() || is_reserved() || self.hosts.contains(&name)
    }

    fn shows_the_token(&self, headers: &HeaderMap) -> bool {
        let Some(expected) = self.token else { return true };
        let Some(given) = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()) else {
            return false;
        };
        let Some((scheme, value)) = given.split_once(' ') else { return false };
        if scheme.eq_ignore_ascii_case("bearer") {
            return blake3::hash(value.trim().as_bytes()) == expected;
        }
        let user_and_password = if scheme.eq_ignore_ascii_case("basic") {
            BASE64_STANDARD.decode(value.trim()).ok()
        } else {
            None
        };
        user_and_password.is_some_and(|text| {
            let mut parts = text.splitn(2, |byte| *byte == b':');
            parts.nth(1).is_some_and(|password| blake3::hash(password) == expected)
        })
    }
}

/// Every host that a request names: in its headers, and in its target. What is no text is a name that nobody allows.
fn named_hosts(request: &Request) -> Vec<String> {
    let headers = request.headers().get_all(header::HOST).iter();
    let headers = headers.map(|host| host.to_str().unwrap_or("not.text").to_owned());
    headers.chain(request.uri().authority().map(|authority| authority.as_str().to_owned())).collect()
}

/// Answers only requests that the guard lets through, and says of every answer that its type is not to be guessed.
async fn guarded(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let is_health = request.uri().path().starts_with("/health/");
    let hosts: Vec<String> = named_hosts(&request);
    let mut response = if is_health {
        next.run(request).await
    } else if let Some(host) = hosts.iter().find(|host| !guard.is_allowed_host(host)) {
        tracing::debug!(host, "a request for another host is refused");
        let reason = "not served under this host name: allow it with --allowed-host\n";
        (StatusCode::MISDIRECTED_REQUEST, reason).into_response()
    } else if !guard.shows_the_token(request.headers()) {
        let asked = [(header::WWW_AUTHENTICATE, "Basic realm=\"roundhouse\", Bearer")];
        (StatusCode::UNAUTHORIZED, asked, "show the token\n").into_response()
    } else {
        next.run(request).await
    };
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Open connections by address.
#[derive(Debug, Clone, Default)]
struct Open(Arc<Mutex<HashMap<IpAddr, usize>>>);

impl Open {
    /// Counts a connection of this address, unless it has its share.
    fn add(&self, address: IpAddr) -> Option<Counted> {
        let mut open = self.lock();
        let count = open.entry(address).or_default();
        if *count >= CONNECTIONS_AN_ADDRESS {
            return None;
        }
        *count += 1;
        drop(open);
        Some(Counted { open: self.clone(), address })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that counts until it is dropped.
#[derive(Debug)]
struct Counted {
    open: Open,
    address: IpAddr,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut open = self.open.lock();
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

/// What counts as one address: of version 6 the /64, which one machine has the whole of.
fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Serves a router on this address until `stop` is set; returns once the address is bound.
pub async fn serve(
    address: SocketAddr,
    router: Router,
    guard: Guard,
    stop: CancellationToken,
) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}; choose another with --listen"))?;
    let bound = listener.local_addr()?;
    if guard.token.is_none() && !bound.ip().is_loopback() {
        tracing::warn!(
            "whoever reaches {bound} reads metrics, and of a job monitor hosts and errors: guard it with --http-token-file, or by a \
             firewall"
        );
    }
    let router = router.layer(middleware::from_fn_with_state(Arc::new(guard), guarded));
    tokio::spawn(accept(listener, router, stop));
    Ok(bound)
}

async fn accept(listener: TcpListener, router: Router, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let open = Open::default();
    loop {
        let next = async {
            // Whoever finds no place waits outside, where it takes no descriptor.
            let place = places.clone().acquire_owned().await.ok();
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = stop.cancelled() => return,
            next = next => next,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(e) => {
                tracing::warn!("no connection is accepted: {e}");
                tokio::time::sleep(ACCEPT_REST).await;
                continue;
            }
        };
        let Some(counted) = open.add(counted_as(peer.ip())) else {
            tracing::debug!(%peer, "closed: its address has {CONNECTIONS_AN_ADDRESS} connections already");
            continue;
        };
        let (router, stop) = (router.clone(), stop.clone());
        tokio::spawn(async move {
            if let Err(e) = serve_connection(stream, router, stop).await {
                tracing::debug!(%peer, "the connection ended: {e}");
            }
            drop((place, counted));
        });
    }
}

async fn serve_connection(stream: TcpStream, router: Router, stop: CancellationToken) -> anyhow::Result<()> {
    set_tcp_user_timeout(&stream, STALLED_MS)?;
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        // One request a connection: one that goes on asking would keep its place for as long as it likes.
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX);
    let mut connection =
        pin!(builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)));
    tokio::select! {
        served = connection.as_mut() => Ok(served?),
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            Ok(tokio::time::timeout(GRACE, connection).await??)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(hosts: &[&str], token: Option<&str>) -> Guard {
        Guard {
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            token: token.map(|token| blake3::hash(token.as_bytes())),
        }
    }

    #[test]
    fn a_public_name_is_answered_only_where_it_is_allowed() {
        let guard = guard(&["prover.example.org"], None);
        for host in [
            "127.0.0.1",
            "127.0.0.1:3312",
            "10.0.0.7:80",
            "[::1]:3312",
            "[fe80::1]",
            "localhost:3312",
            "job-monitor:3312",
            "LOCALHOST",
            "m.roundhouse.svc.cluster.local",
            "gpu-1.internal",
            "prover.example.org",
            "Prover.Example.Org:443",
            "prover.example.org.",
            "",
        ] {
            assert!(guard.is_allowed_host(host), "{host}");
        }
        for host in [
            "[::1]evil.example",
            "not.text",
            "evil.example",
            "evil.example:3312",
            "127.0.0.1.evil.example",
            "[evil.example]",
            "[::1",
            "local.evil.example",
            "xprover.example.org",
            "prover.example.org.evil.example",
            "1.2.3.4.5",
        ] {
            assert!(!guard.is_allowed_host(host), "{host}");
        }
    }

    #[test]
    fn the_token_is_shown_as_a_bearers_or_as_a_password() {
        let token = "0123456789abcdef";
        let guard = guard(&[], Some(token));
        let shows = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
            guard.shows_the_token(&headers)
        };
        assert!(!guard.shows_the_token(&HeaderMap::new()));
        let basic = |text: &str| format!("Basic {}", BASE64_STANDARD.encode(text));
        for right in [format!("Bearer {token}"), format!("bearer {token}"), basic(&format!("me:{token}"))] {
            assert!(shows(&right), "{right}");
        }
        for wrong in [
            token.to_owned(),
            "Bearer".to_owned(),
            "Bearer ".to_owned(),
            format!("Bearer {token}0"),
            format!("Digest {token}"),
            basic(token),
            basic(&format!("{token}:")),
            basic(&format!(":{token}x")),
            "Basic %%%".to_owned(),
        ] {
            assert!(!shows(&wrong), "{wrong}");
        }
    }

    #[test]
    fn a_file_without_a_token_is_refused_and_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        for (content, is_token) in [
            ("0123456789abcdef\n", true),
            ("short", false),
            ("", false),
            ("0123456789abcdef 0123", false),
            ("0123456789abcdef\u{1}", false),
            (&"x".repeat(600), false),
        ] {
            std::fs::write(&path, content).unwrap();
            let read = read_token(&path);
            assert_eq!(read.is_ok(), is_token, "{content:?}");
            let shown = read.map_or_else(|e| e.to_string(), |_| String::new());
            assert!(content.is_empty() || !shown.contains(content.trim()), "{shown}");
        }
        assert!(read_token(Path::new("/dev/zero")).is_err());
    }

    #[test]
    fn an_address_has_its_share_of_connections() {
        let open = Open::default();
        let of = |text: &str| counted_as(text.parse().unwrap());
        let mut held: Vec<_> =
            (0..CONNECTIONS_AN_ADDRESS).map(|_| open.add(of("::ffff:10.0.0.1")).unwrap()).collect();
        assert!(open.add(of("10.0.0.1")).is_none());
        assert!(open.add(of("10.0.0.2")).is_some());
        held.pop();
        assert!(open.add(of("10.0.0.1")).is_some());
        drop(held);
        assert!(open.lock().is_empty());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8::1"));
    }
}
