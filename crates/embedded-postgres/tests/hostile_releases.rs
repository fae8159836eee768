//! What release servers and archives may do wrong, or on purpose: it is said in plain words with the URL, and the cache stays as it was.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod releases;

use embedded_postgres::{Limits, PostgresError};
use releases::{ArchiveBuilder, Cache, ReleaseServer, STEM, release_of, send, send_status, small_limits};
use std::{
    io::Write,
    net::{TcpListener, TcpStream},
    time::Duration,
};
use tar::EntryType;

/// That the archive, which this server gives in its way, is refused in these words.
fn refused(
    archive: &[u8],
    limits: Limits,
    words: &str,
    answer: impl Fn(&str, &mut TcpStream) + Send + Sync + 'static,
) {
    let (server, cache) = (ReleaseServer::start(answer), Cache::new());
    let error = cache.fetch(&server.url, &release_of(archive), limits).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, PostgresError::Fetch { .. }), "{text}");
    assert!(text.contains(&server.archive_url()) && text.contains(words), "{words:?} is not in: {text}");
    assert!(text.contains("apt-get install postgresql") && !text.contains('\n'), "{text}");
    assert_eq!(cache.content(), [""; 0], "{text}");
}

/// That an archive of the right checksum is refused for what is in it.
fn refused_archive(archive: ArchiveBuilder, words: &str) {
    let archive = archive.bytes();
    let served = archive.clone();
    refused(&archive, small_limits(), words, move |_, stream| send(stream, served.len(), &served));
}

#[test]
fn an_archive_of_another_checksum_is_refused_unopened() {
    let expected = ArchiveBuilder::with_programs().bytes();
    let other = ArchiveBuilder::with_programs().file("bin/psql", 0o755, b"").bytes();
    let words = format!("its SHA-256 is {}, not {}", release_of(&other).sha256, release_of(&expected).sha256);
    refused(&expected, small_limits(), &words, move |_, stream| send(stream, other.len(), &other));
}

#[test]
fn a_download_that_ends_early_is_refused() {
    let archive = ArchiveBuilder::with_programs().bytes();
    let served = archive.clone();
    let words = format!("the connection ended after {} of {} bytes", served.len() / 2, served.len());
    refused(&archive, small_limits(), &words, move |_, stream| {
        send(stream, served.len(), &served[..served.len() / 2]);
    });
    // A server that does not say how much there is.
    let served = archive.clone();
    refused(&archive, small_limits(), "SHA-256", move |_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
        let _ = stream.write_all(&served[..served.len() / 2]);
    });
}

#[test]
fn a_file_that_is_not_there_or_not_given_is_named_with_its_status() {
    refused(b"", small_limits(), "no such file (status 404)", |_, stream| {
        send_status(stream, "404 Not Found");
    });
    refused(b"", small_limits(), "answers with status 403", |_, stream| send_status(stream, "403 Forbidden"));
    refused(b"", small_limits(), "answers with status 500", |_, stream| send_status(stream, "500 Broken"));
}

#[test]
fn an_answer_that_is_no_http_is_refused() {
    refused(b"", small_limits(), "what the server answers is not HTTP", |_, stream| {
        let _ = stream.write_all(b"220 ready for mail\r\n\r\n");
    });
    refused(b"", small_limits(), "what the server answers is not HTTP", |_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
        for _ in 0..100_000 {
            let _ = stream.write_all(b"X-Endless: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n");
        }
    });
}

/// Waits until the client has gone.
fn wait_for_the_end(stream: &mut TcpStream) {
    let _ = std::io::copy(stream, &mut std::io::sink());
}

#[test]
fn a_server_that_falls_silent_is_given_up() {
    let limits = Limits { silence: Duration::from_secs(1), ..small_limits() };
    refused(b"", limits.clone(), "the server was silent for 1 s", |_, stream| wait_for_the_end(stream));
    refused(b"", limits, "the server was silent for 1 s", |_, stream| {
        send(stream, 1000, b"the first bytes");
        wait_for_the_end(stream);
    });
}

#[test]
fn a_server_that_dribbles_is_given_up() {
    let limits = Limits { silence: Duration::from_secs(20), total: Duration::from_secs(2), ..small_limits() };
    refused(b"", limits, "it takes longer than 2 s", |_, stream| {
        send(stream, 1000, b"");
        while stream.write_all(b".").is_ok() {
            std::thread::sleep(Duration::from_millis(100));
        }
    });
}

#[test]
fn a_redirect_is_followed_and_a_loop_of_them_is_left() {
    let archive = ArchiveBuilder::with_programs().bytes();
    let (release, served) = (release_of(&archive), archive.clone());
    let server = ReleaseServer::start(move |path, stream| match path {
        "/elsewhere" => send(stream, served.len(), &served),
        _ => {
            let head = "HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            stream.write_all(head.as_bytes()).unwrap();
        }
    });
    Cache::new().fetch(&server.url, &release, small_limits()).unwrap();
    refused(b"", small_limits(), "redirects more than 5 times", |path, stream| {
        let head = format!(
            "HTTP/1.1 302 Found\r\nLocation: {path}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
    });
}

#[test]
fn a_server_that_nobody_runs_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let cache = Cache::new();
    let error = cache.fetch(&url, &release_of(b""), small_limits()).unwrap_err().to_string();
    assert!(error.contains(&url) && error.contains("refused"), "{error}");
    assert_eq!(cache.content(), [""; 0]);
}

#[test]
fn an_archive_beyond_the_limit_is_refused_whatever_is_said_of_its_length() {
    let limits = || Limits { archive_bytes: 1 << 20, ..small_limits() };
    refused(b"", limits(), "it has 2000000 bytes, and 1048576 are allowed", |_, stream| {
        send(stream, 2_000_000, b"");
        wait_for_the_end(stream);
    });
    refused(b"", limits(), "more than the 1048576 bytes that are allowed", |_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
        while stream.write_all(&[0; 1 << 16]).is_ok() {}
    });
}

#[test]
fn an_archive_that_unpacks_to_too_much_is_refused() {
    let limits = || Limits { unpacked_bytes: 1 << 20, ..small_limits() };
    let words = "unpacks to more than the 1048576 bytes that are allowed";
    let large = ArchiveBuilder::with_programs().file("share/large", 0o644, &vec![0; 2 << 20]).bytes();
    let served = large.clone();
    assert!(large.len() < 1 << 18, "it is small as long as it is packed");
    refused(&large, limits(), words, move |_, stream| send(stream, served.len(), &served));
    // A name of two million bytes is read before it is a name.
    let name = vec![b'x'; 2 << 20];
    let named =
        ArchiveBuilder::with_programs().entry("././@LongLink", EntryType::GNULongName, "", 0o644, &name);
    let named = named.file("short", 0o644, b"").bytes();
    let served = named.clone();
    refused(&named, limits(), words, move |_, stream| send(stream, served.len(), &served));
}

#[test]
fn an_archive_of_too_many_files_is_refused() {
    let many = (0..50_001).fold(ArchiveBuilder::with_programs(), |archive, number| {
        archive.file(&format!("share/{number}"), 0o644, b"")
    });
    refused_archive(many, "more than the 50000 entries");
}

#[test]
fn a_path_that_leads_out_of_the_archives_folder_is_refused() {
    for path in [
        "../outside".to_owned(),
        format!("{STEM}/../../outside"),
        format!("{STEM}/bin/../../../outside"),
        "/tmp/outside".to_owned(),
        "bin/postgres".to_owned(),
        "postgresql-1.2.3-other/bin/postgres".to_owned(),
    ] {
        let archive = ArchiveBuilder::with_programs().entry(&path, EntryType::Regular, "", 0o644, b"x");
        refused_archive(archive, &format!("{path} in its archive leads out of the folder {STEM}"));
    }
}

#[test]
fn a_link_that_leads_out_of_the_archives_folder_is_refused() {
    for target in ["/etc", "../../outside", "..", "share/../../../outside", "../share/../../../outside", ""] {
        let archive = ArchiveBuilder::with_programs().link("lib/away", target);
        refused_archive(archive, "is a link out of its folder");
    }
    // A link to a folder, one to what is above what that is, and a file through them: each step by itself looks harmless.
    let archive = ArchiveBuilder::with_programs().link("here", ".").link("above", "here/..");
    refused_archive(archive, "here in its archive is a link out of its folder");
    let archive = ArchiveBuilder::with_programs().link("lib", "bin").file("lib/initdb.old", 0o644, b"x");
    refused_archive(archive, "lib/initdb.old in its archive has a file or a link for a folder");
    let archive = ArchiveBuilder::with_programs().file("lib", 0o644, b"").file("lib/x", 0o644, b"");
    refused_archive(archive, "lib/x in its archive has a file or a link for a folder");
}

#[test]
fn a_hard_link_to_what_is_not_in_the_archive_is_refused() {
    let inside = format!("{STEM}/bin/postgres.old");
    for target in ["/etc/passwd", "../outside", &inside, STEM] {
        let name = format!("{STEM}/bin/other");
        let archive = ArchiveBuilder::with_programs().entry(&name, EntryType::Link, target, 0o644, b"");
        refused_archive(archive, "which is no file in it");
    }
    let archive = ArchiveBuilder::with_programs().link("bin/postmaster", "postgres").entry(
        &format!("{STEM}/bin/other"),
        EntryType::Link,
        &format!("{STEM}/bin/postmaster"),
        0o644,
        b"",
    );
    refused_archive(archive, "which is no file in it");
}

#[test]
fn an_entry_that_is_no_file_folder_or_link_is_refused() {
    for kind in [EntryType::Fifo, EntryType::Char, EntryType::Block] {
        let archive = ArchiveBuilder::with_programs().entry(&format!("{STEM}/device"), kind, "", 0o644, b"");
        refused_archive(archive, "device in its archive ");
    }
}

#[test]
fn a_file_that_is_there_twice_is_refused() {
    let archive = ArchiveBuilder::with_programs().file("bin/postgres", 0o755, b"#!/bin/sh\nexit 1\n");
    refused_archive(archive, "bin/postgres in its archive is there twice");
    let archive = ArchiveBuilder::with_programs().link("bin/psql", "postgres").file("bin/psql", 0o755, b"x");
    refused_archive(archive, "bin/psql in its archive is there twice");
}

#[test]
fn an_archive_that_is_damaged_or_none_is_refused() {
    let whole = ArchiveBuilder::with_programs().file("share/file", 0o644, &[7; 100_000]).bytes();
    for (content, words) in [
        (whole[..whole.len() / 2].to_vec(), "its archive"),
        (b"<html>Please log in</html>".to_vec(), "its archive cannot be read"),
        (Vec::new(), "its archive"),
    ] {
        let served = content.clone();
        refused(&content, small_limits(), words, move |_, stream| send(stream, served.len(), &served));
    }
}

#[test]
fn an_archive_without_the_servers_programs_is_refused() {
    let without = ArchiveBuilder::empty().file("bin/initdb", 0o755, b"").file("bin/psql", 0o755, b"");
    refused_archive(without, "its archive has no bin/postgres");
    let elsewhere = ArchiveBuilder::empty().file("bin/initdb", 0o755, b"").link("bin/postgres", "initdb");
    refused_archive(elsewhere, "its archive has no bin/postgres");
}
