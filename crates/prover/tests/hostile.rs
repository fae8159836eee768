//! What comes from outside and means harm: files without end, environments, URLs and numbers that others chose.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};
use test_support::programs::{output, program, stderr, stdout};

/// Address space that a program may take, in KiB: enough for each, and too little for a file without end.
const ADDRESS_SPACE_KIB: u64 = 2 << 20;

/// A program that ends when it takes more memory than it should, instead of taking the machine's.
fn bounded(name: &str, folder: &Path, arguments: &[&str]) -> Command {
    let mut command = program(name);
    let path = command.get_program().to_owned();
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &format!("ulimit -v {ADDRESS_SPACE_KIB}; exec timeout 60 \"$0\" \"$@\"")])
        .arg(path)
        .args(arguments);
    shell.current_dir(folder).stdin(Stdio::null());
    for (key, _) in std::env::vars_os() {
        if key.to_string_lossy().starts_with("ROUNDHOUSE_") || key == "DATABASE_URL" {
            shell.env_remove(key);
        }
    }
    command = shell;
    command
}

/// The arguments of each way in which a program is told to read a file; `FILE` stands for it.
const READERS: &[(&str, &[&str])] = &[
    ("prover", &["verify", "FILE", "--statement", "small"]),
    ("prover", &["verify", "small", "--statement", "FILE"]),
    ("prover", &["verify", "small", "--statement", "small", "--verification-key", "FILE"]),
    ("prover", &["verify", "FILE", "--statement", "small", "--proof-system=mock"]),
    ("prover", &["verify", "small", "--statement", "small", "--config", "FILE"]),
    ("prover", &["verify", "small", "--statement", "small", "--proof-system=mock", "--mock-file", "FILE"]),
    ("prover", &["prove", "FILE", "--accounts", "accounts.csv", "--data", "data", "--keys", "keys"]),
    ("prover", &["prove", "in.csv", "--accounts", "FILE", "--data", "data", "--keys", "keys"]),
    ("prover", &["prove", "FILE", "--proof-system=mock", "--data", "data"]),
    ("prover_cli", &["file-info", "FILE"]),
    ("prover_cli", &["debug-proof", "FILE"]),
    ("prover_cli", &["--config", "FILE", "config"]),
    (
        "prover_cli",
        &[
            "postgres://n@127.0.0.1:1/none",
            "insert-batch",
            "--number=1",
            "--object-store=store",
            "--keys=keys",
            "--input",
            "FILE",
        ],
    ),
    (
        "prover_cli",
        &[
            "postgres://n@127.0.0.1:1/none",
            "insert-batch",
            "--number=1",
            "--object-store=store",
            "--input",
            "file://FILE",
        ],
    ),
];

fn prepared() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("small"), "small").unwrap();
    fs::write(folder.path().join("in.csv"), "from,to,amount\nada,bob,1\n").unwrap();
    fs::write(folder.path().join("accounts.csv"), "account,balance\nada,100\n").unwrap();
    folder
}

#[test]
fn a_file_without_end_is_refused_wherever_a_file_is_read() {
    let folder = prepared();
    for (name, arguments) in READERS {
        let arguments: Vec<String> = arguments.iter().map(|text| text.replace("FILE", "/dev/zero")).collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let result = output(&mut bounded(name, folder.path(), &arguments));
        let words = stderr(&result);
        // That a file is no whole artifact is what these two find out.
        let code =
            if arguments.iter().any(|word| matches!(*word, "file-info" | "debug-proof")) { 1 } else { 2 };
        assert_eq!(result.status.code(), Some(code), "{name} {arguments:?}: {words}");
        let is_bounded = words.contains("/dev/zero") && !words.contains("memory");
        assert!(is_bounded, "{name} {arguments:?}: {words}");
    }
    let mut command = bounded(
        "prover_cli",
        folder.path(),
        &["postgres://n@127.0.0.1:1/none", "insert-batch", "--number=1", "--object-store=store", "--input=-"],
    );
    let result = output(command.stdin(fs::File::open("/dev/zero").unwrap()));
    let words = stderr(&result);
    assert!(result.status.code() == Some(2) && words.contains("standard input"), "{words}");
}

#[test]
fn a_named_pipe_is_read_like_a_file_and_bounded_like_one() {
    let folder = prepared();
    let pipe = folder.path().join("pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    for (source, code) in [("small", 1), ("/dev/zero", 2)] {
        let mut writer = Command::new("sh");
        // Opening waits for the reader; what is written after its end is nobody's.
        writer.args(["-c", "cat \"$0\" > pipe", source]).current_dir(folder.path()).stderr(Stdio::null());
        let mut writer = writer.process_group(0).spawn().unwrap();
        let result =
            output(&mut bounded("prover", folder.path(), &["verify", "pipe", "--statement", "small"]));
        let words = stderr(&result);
        assert!(result.status.code() == Some(code) && !words.contains("memory"), "{source}: {words}");
        writer.wait().unwrap();
    }
}

/// A server that answers every request in the same way, and keeps what it was asked.
fn server(answer: impl Fn(&mut std::net::TcpStream) + Send + 'static) -> (String, Arc<Mutex<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::<Mutex<String>>::default();
    let kept = asked.clone();
    // Ends with the test's process.
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 8 << 10];
            let length = stream.read(&mut request).unwrap_or(0);
            kept.lock().unwrap().push_str(&String::from_utf8_lossy(&request[..length]));
            answer(&mut stream);
        }
    });
    (format!("http://{address}"), asked)
}

#[test]
fn a_body_without_end_is_refused_whatever_is_said_of_its_length() {
    for (length, said) in [
        // The library below takes no body of unknown length; ours would stop at the bound.
        ("Transfer-Encoding: chunked", "Content-Length"),
        ("Content-Length: 1099511627776", "it has 1099511627776 bytes; 67108864 are allowed"),
    ] {
        let folder = prepared();
        let (url, asked) = server(move |stream| {
            let head = format!(
                "HTTP/1.1 200 OK\r\n{length}\r\nLast-Modified: Mon, 01 Jan 2024 00:00:00 GMT\r\n\r\n"
            );
            let chunk = [b"10000\r\n".as_slice(), &[b'x'; 0x1_0000], b"\r\n"].concat();
            let _ = stream.write_all(head.as_bytes());
            while stream.write_all(&chunk).is_ok() {}
        });
        let input = format!("{}/in.csv?signature=swordfish", url.replace("http://", "http://me:swordfish@"));
        let arguments = [
            "postgres://n@127.0.0.1:1/none",
            "insert-batch",
            "--number=1",
            "--object-store=store",
            "--input",
            &input,
        ];
        let result = output(bounded("prover_cli", folder.path(), &arguments).env("RUST_LOG", "trace"));
        let words = stderr(&result);
        assert!(!asked.lock().unwrap().is_empty());
        assert!(result.status.code() == Some(2) && words.contains(said), "{words}");
        assert!(!words.contains("swordfish"), "{words}");
        let misplaced =
            output(program("prover").args(["database", "migrate", "postgres://me:swordfish@host/x"]));
        assert_eq!(misplaced.status.code(), Some(2));
        assert!(!stderr(&misplaced).contains("swordfish"), "{}", stderr(&misplaced));
    }
}

/// What other programs leave in an environment, or somebody who may set one chooses.
const HOSTILE: &[(&str, &str)] = &[
    ("TOKEN", "swordfish"),
    ("SESSION_TOKEN", "swordfish"),
    ("BEARER_TOKEN", "swordfish"),
    ("REGION", "swordfish"),
    ("BUCKET", "swordfish"),
    ("ACCESS_KEY_ID", "swordfish"),
    ("SECRET_ACCESS_KEY", "swordfish"),
    ("ALLOW_INVALID_CERTIFICATES", "true"),
    ("AWS_ALLOW_INVALID_CERTIFICATES", "true"),
    ("DISABLE_SYSTEM_CERTIFICATES", "true"),
    ("TIMEOUT", "30"),
    ("CONNECT_TIMEOUT", "30"),
    ("READ_TIMEOUT", "x"),
    ("USER_AGENT", "swordfish"),
    ("DEFAULT_CONTENT_TYPE", "swordfish"),
    ("HTTP2_ONLY", "maybe"),
    ("SKIP_SIGNATURE", "maybe"),
    ("VIRTUAL_HOSTED_STYLE_REQUEST", "maybe"),
    ("aws_session_token", "swordfish"),
];

#[test]
fn an_object_store_takes_the_providers_variables_and_no_others() {
    let folder = prepared();
    let forbidden = |stream: &mut std::net::TcpStream| {
        let _ = stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    let (ours, asked) = server(forbidden);
    let (theirs, diverted) = server(forbidden);
    let diversions =
        ["ENDPOINT", "ENDPOINT_URL", "PROXY_URL", "AWS_PROXY_URL", "METADATA_ENDPOINT", "BASE_URL"];
    let run = |hostile: &[(&str, &str)]| {
        asked.lock().unwrap().clear();
        let mut command =
            bounded("prover", folder.path(), &["run", "--component=compressor", "--proof-system=mock"]);
        command
            .env("DATABASE_URL", "postgres://n@127.0.0.1:1/none")
            .env("ROUNDHOUSE_OBJECT_STORE", "s3://bucket/prefix")
            .envs(hostile.iter().copied())
            .envs([("AWS_ENDPOINT", ours.as_str()), ("AWS_ALLOW_HTTP", "true"), ("AWS_REGION", "here")])
            .envs([("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "a secret")]);
        let result = output(&mut command);
        let words = stderr(&result);
        assert_eq!(result.status.code(), Some(1), "{hostile:?}: {words}");
        assert!(words.contains("s3://bucket/prefix") && words.contains("403"), "{hostile:?}: {words}");
        asked.lock().unwrap().clone()
    };
    let harmless = run(&[]);
    assert!(harmless.contains("PUT /bucket/prefix/check/") && !harmless.contains("x-amz-security-token"));
    let mut all = HOSTILE.to_vec();
    all.extend(diversions.map(|name| (name, theirs.as_str())));
    for variable in all.iter().map(|variable| vec![*variable]).chain([all.clone()]) {
        let request = run(&variable);
        assert!(request.contains("PUT /bucket/prefix/check/"), "{variable:?}: {request}");
        assert!(!request.contains("swordfish"), "{variable:?}: {request}");
    }
    assert_eq!(*diverted.lock().unwrap(), "", "nothing goes elsewhere");
}

/// The driver quotes each line of a password file that it cannot read.
#[test]
fn a_password_file_with_a_mistake_stays_out_of_the_log() {
    let folder = prepared();
    let file = folder.path().join("pgpass");
    std::fs::write(&file, "127.0.0.1:1:x:swordfish\njust-a-swordfish\n").unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    for filter in ["info", "trace", "sqlx_postgres::options::pgpass=trace"] {
        let mut command =
            bounded("prover_cli", folder.path(), &["postgres://u@127.0.0.1:1/x", "status", "queue"]);
        let result = output(command.env("PGPASSFILE", &file).env("RUST_LOG", filter));
        let words = stderr(&result);
        assert!(result.status.code() == Some(1) && !words.contains("swordfish"), "{filter}: {words}");
    }
}

#[test]
fn urls_are_refused_without_what_they_hold() {
    let folder = prepared();
    let cases = [
        ("postgres://me@127.0.0.1:1/db?pasword=swordfish", "store"),
        ("postgres://me@127.0.0.1:1/db?sslmode=swordfish", "store"),
        ("postgres://me:pass?swordfish@127.0.0.1:1/db", "store"),
        ("mysql://me:swordfish@127.0.0.1:1/db", "store"),
        ("postgres://me@127.0.0.1:1/db", "s3://KEY:swordfish@bucket/prefix"),
        ("postgres://me@127.0.0.1:1/db", "s3://KEY:sword/swordfish@bucket/prefix"),
        ("postgres://me@127.0.0.1:1/db", "nonsense://KEY:swordfish@bucket/prefix?x=swordfish"),
    ];
    for (database, store) in cases {
        let mut command =
            bounded("prover", folder.path(), &["run", "--component=compressor", "--proof-system=mock"]);
        command.env("RUST_LOG", "trace").env("DATABASE_URL", database).env("ROUNDHOUSE_OBJECT_STORE", store);
        let result = output(&mut command);
        let words = stderr(&result);
        assert_eq!(result.status.code(), Some(2), "{database} {store}: {words}");
        assert!(!words.contains("swordfish"), "{words}");
    }
}

#[test]
fn a_mistake_in_the_configuration_file_is_named_without_its_line() {
    let folder = prepared();
    fs::write(
        folder.path().join("c.toml"),
        "threads = 1\ndatabase_url = \"postgres://me:swordfish@db/x\nkeys = 1\n",
    )
    .unwrap();
    for (name, arguments) in [
        ("prover", ["run", "--component=all", "--config=c.toml"]),
        ("prover_cli", ["--json", "--config=c.toml", "config"]),
    ] {
        let result = output(&mut bounded(name, folder.path(), &arguments));
        let words = stderr(&result);
        assert!(result.status.code() == Some(2) && words.contains("c.toml: line 2: "), "{words}");
        assert!(!words.contains("swordfish"), "{words}");
    }
}

/// Every flag of `run` that is a time or a number of jobs, and the most that it takes.
const BOUNDS: &[(&str, u64)] = &[
    ("drain-timeout-seconds", 31_536_000),
    ("heartbeat-interval-ms", 86_400_000),
    ("lease-duration-ms", 86_400_000),
    ("poll-interval-ms", 86_400_000),
    ("job-timeout-seconds", 31_536_000),
    ("rescue-interval-ms", 86_400_000),
    ("retry-interval-ms", 86_400_000),
    ("report-interval-ms", 86_400_000),
    ("archive-after-seconds", 31_536_000),
    ("delete-after-days", 36_500),
    ("collect-after-hours", 876_000),
    ("generator-count", 4_096),
    ("light-wvg-count", 4_096),
    ("heavy-wvg-count", 4_096),
    ("threads", 4_096),
];

#[test]
fn times_and_numbers_beyond_sense_are_refused_with_their_bounds() {
    let folder = prepared();
    let help = stdout(&output(&mut bounded("prover", folder.path(), &["run", "--help"])));
    let flags = help.split_whitespace().filter_map(|word| word.strip_prefix("--"));
    let numbers = flags.filter(|flag| {
        ["-seconds", "-ms", "-days", "-hours", "-count", "threads"].iter().any(|unit| flag.ends_with(unit))
    });
    for flag in numbers {
        assert!(BOUNDS.iter().any(|(name, _)| *name == flag), "--{flag} has no bound");
    }
    for (flag, most) in BOUNDS {
        for value in [most + 1, 1 << 32, i64::MAX.unsigned_abs(), u64::MAX] {
            let argument = format!("--{flag}={value}");
            let result =
                output(&mut bounded("prover", folder.path(), &["run", "--component=compressor", &argument]));
            let words = stderr(&result);
            let is_named = words.contains(flag) && words.contains(&most.to_string());
            assert!(result.status.code() == Some(2) && is_named, "{argument}: {words}");
        }
    }
    let mut watch =
        bounded("prover_cli", folder.path(), &["postgres://n@127.0.0.1:1/none", "watch", "--interval=1e18"]);
    let result = output(&mut watch);
    assert!(result.status.code() == Some(2) && stderr(&result).contains("86400"), "{}", stderr(&result));
}
