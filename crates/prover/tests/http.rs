//! What a process serves over HTTP, against clients that mean no good.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};
use test_support::http::{free_port, get};
use test_support::programs::{Running, Scene, output, stderr, until};

const SOON: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(120);
/// A request's head is waited for 5 s; machines under load take longer to say so.
const CUT_OFF: Duration = Duration::from_secs(12);

/// Sends these bytes and reads until the server closes the connection, or for so long.
fn exchange(address: &str, request: &[u8], limit: Duration) -> (String, bool) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    // A server that has seen enough closes while we still write.
    let _ = stream.write_all(request);
    let begun = Instant::now();
    let (mut answer, mut part) = (Vec::new(), [0; 4096]);
    let is_closed = loop {
        match stream.read(&mut part) {
            Ok(0) => break true,
            Ok(read) => answer.extend_from_slice(&part[..read]),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if begun.elapsed() > limit {
                    break false;
                }
            }
            Err(_) => break true,
        }
    };
    (String::from_utf8_lossy(&answer).into_owned(), is_closed)
}

/// A GET with these header lines; the answer's head and body.
fn get_with(address: &str, path: &str, headers: &[&str]) -> String {
    let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    let request = format!("GET {path} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n");
    exchange(address, request.as_bytes(), SOON).0
}

fn is_status(answer: &str, status: u16) -> bool {
    answer.starts_with(&format!("HTTP/1.1 {status} ")) || answer.starts_with(&format!("HTTP/1.0 {status} "))
}

fn started(scene: &Scene, arguments: &[&str]) -> (Running, String) {
    let address = format!("127.0.0.1:{}", free_port());
    let process = scene.start("served", &[&["--component=all", "--listen", &address], arguments].concat());
    until("it is ready", SOON, || get(&address, "/health/ready").filter(|answer| answer.status == 200));
    (process, address)
}

/// One that goes on asking would keep its place for as long as it likes, and probes would find none.
#[tokio::test]
async fn a_connection_is_closed_after_its_answer() {
    let scene = Scene::mock("[[circuit]]\ncount = 1").await;
    let (_process, address) = started(&scene, &[]);
    for path in ["/health/live", "/metrics"] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n");
        let (answer, is_closed) = exchange(&address, request.as_bytes(), Duration::from_secs(3));
        assert!(is_status(&answer, 200) && is_closed, "{path}: {answer}");
    }
}

#[tokio::test]
async fn a_thousand_half_open_requests_take_nothing_from_the_work() {
    let scene = Scene::mock("[[circuit]]\ncount = 4\nprove_ms = 1500").await;
    let address = format!("127.0.0.1:{}", free_port());
    // Few descriptors: without a limit of connections they would be gone at once.
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "ulimit -n 256; exec \"$0\" \"$@\""]).arg(scene.program("prover").get_program());
    command.args([
        "run",
        "--component=all",
        "--listen",
        &address,
        "--lease-duration-ms=3000",
        "--heartbeat-interval-ms=500",
    ]);
    for (key, value) in scene.program("prover").get_envs() {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    let process = Running::start(&mut command, scene.path("served.log"));
    until("it is ready", SOON, || get(&address, "/health/ready").filter(|answer| answer.status == 200));

    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    std::fs::write(scene.path("input"), "mock").unwrap();
    let half_open: Vec<TcpStream> = (0..1_100)
        .map(|_| {
            let mut stream = TcpStream::connect(&address).unwrap();
            let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ");
            stream
        })
        .collect();
    let input = scene.path("input");
    scene.run_cli(&[
        "insert-batch",
        "--number=1",
        "--version=0",
        "--patch=1",
        "--input",
        input.to_str().unwrap(),
    ]);
    let status = scene.until_ended(0, 1, LONG);
    assert_eq!((&status["status"], &status["worker_deaths"]), (&"successful".into(), &0.into()), "{status}");
    until("probes are answered again", SOON, || {
        get(&address, "/health/ready").filter(|answer| answer.status == 200)
    });
    assert!(!process.log().contains("ERROR"), "{}", process.log());
    drop(half_open);
}

#[tokio::test]
async fn a_client_that_dawdles_or_floods_is_cut_off() {
    let scene = Scene::mock("").await;
    let (_process, address) = started(&scene, &[]);
    for slow in [
        b"".as_slice(),
        b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n",
        b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n",
    ] {
        let (_, is_closed) = exchange(&address, slow, CUT_OFF);
        assert!(is_closed, "{}", String::from_utf8_lossy(slow));
    }
    let flood = format!("GET /health/live HTTP/1.1\r\nHost: x\r\nX-Much: {}\r\n\r\n", "x".repeat(64 << 10));
    let many = format!("GET /health/live HTTP/1.1\r\nHost: x\r\n{}\r\n", "X-Many: x\r\n".repeat(200));
    for too_much in [flood, many] {
        let (answer, is_closed) = exchange(&address, too_much.as_bytes(), CUT_OFF);
        assert!(is_closed && (answer.is_empty() || is_status(&answer, 431)), "{answer}");
    }
}

#[tokio::test]
async fn an_address_has_its_share_of_live_pages() {
    let scene = Scene::mock("").await;
    let (_process, address) = started(&scene, &[]);
    let pages: Vec<TcpStream> = (0..32)
        .map(|_| {
            let mut stream = TcpStream::connect(&address).unwrap();
            stream.write_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
            let mut head = [0; 12];
            stream.read_exact(&mut head).unwrap();
            assert_eq!(&head, b"HTTP/1.1 200");
            stream
        })
        .collect();
    let (answer, is_closed) = exchange(&address, b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n", SOON);
    assert!(is_closed && answer.is_empty(), "{answer}");
    drop(pages);
    until("there is room again", SOON, || {
        get(&address, "/health/live").filter(|answer| answer.status == 200)
    });
}

#[tokio::test]
async fn only_known_hosts_and_whoever_shows_the_token_are_answered() {
    let scene = Scene::mock("").await;
    let token = "a-token-of-twenty-four-b";
    let file = scene.write("token", &format!("{token}\n"));
    let (process, address) = started(&scene, &["--allowed-host=prover.example.org"]);
    for path in ["/", "/page.js", "/events", "/queue_report", "/metrics"] {
        let foreign = get_with(&address, path, &["Host: evil.example"]);
        assert!(is_status(&foreign, 421) && foreign.contains("--allowed-host"), "{path}: {foreign}");
    }
    for host in ["localhost", "monitor:3312", "127.0.0.1", "prover.example.org"] {
        let answer = get_with(&address, "/queue_report", &[&format!("Host: {host}")]);
        assert!(is_status(&answer, 200), "{host}: {answer}");
    }
    for path in ["/", "/page.css", "/queue_report", "/metrics", "/health/live", "/health/ready", "/none"] {
        let answer = get_with(&address, path, &["Host: localhost"]);
        assert!(answer.to_lowercase().contains("x-content-type-options: nosniff"), "{path}: {answer}");
    }
    drop(process);

    let (process, address) = started(&scene, &["--http-token-file", file.to_str().unwrap()]);
    for path in ["/", "/events", "/queue_report", "/metrics"] {
        let answer = get_with(&address, path, &["Host: localhost"]);
        assert!(
            is_status(&answer, 401) && answer.to_lowercase().contains("www-authenticate"),
            "{path}: {answer}"
        );
        let wrong =
            get_with(&address, path, &["Host: localhost", "Authorization: Bearer something-else-here"]);
        assert!(is_status(&wrong, 401), "{path}: {wrong}");
    }
    let authorization = format!("Authorization: Bearer {token}");
    assert!(is_status(&get_with(&address, "/metrics", &["Host: localhost", &authorization]), 200));
    assert!(is_status(&get_with(&address, "/health/live", &["Host: localhost"]), 200));
    assert!(!process.log().contains(token));

    let refused = output(scene.program("prover").args([
        "run",
        "--component=all",
        "--listen=127.0.0.1:0",
        "--http-token-file",
        "/dev/null",
    ]));
    assert_eq!(refused.status.code(), Some(2), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("/dev/null") && stderr(&refused).contains("characters"));
}
