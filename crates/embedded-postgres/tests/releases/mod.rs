//! A release server in the test, and archives for it.

#![allow(dead_code, reason = "each test program uses what it needs")]

use embedded_postgres::{Fetch, Limits, PostgresError, Programs, Release, Releases, Step};
use flate2::{Compression, write::GzEncoder};
use sha2::{Digest, Sha256};
use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};
use tar::{Builder, EntryType, Header};

pub(crate) const VERSION: &str = "98.7.6";
pub(crate) const TARGET: &str = "x86_64-test";
pub(crate) const STEM: &str = "postgresql-98.7.6-x86_64-test";
/// A program that says it is a server.
pub(crate) const SERVER: &str = "#!/bin/sh\necho 'postgres (PostgreSQL) 98.7'\n";

/// A server that answers each request with what a function writes to its connection.
pub(crate) struct ReleaseServer {
    pub(crate) url: String,
    paths: Arc<Mutex<Vec<String>>>,
}

impl ReleaseServer {
    pub(crate) fn start(answer: impl Fn(&str, &mut TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let paths = Arc::new(Mutex::new(Vec::new()));
        let (seen, answer) = (paths.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, seen, answer) = (stream.unwrap(), seen.clone(), answer.clone());
                std::thread::spawn(move || {
                    let path = read_path(&mut stream);
                    seen.lock().unwrap().push(path.clone());
                    answer(&path, &mut stream);
                });
            }
        });
        Self { url, paths }
    }

    /// One that has this archive.
    pub(crate) fn with(archive: Vec<u8>) -> Self {
        Self::start(move |path, stream| {
            if path == archive_path() {
                send(stream, archive.len(), &archive);
            } else {
                send_status(stream, "404 Not Found");
            }
        })
    }

    /// The paths that were asked for.
    pub(crate) fn paths(&self) -> Vec<String> {
        self.paths.lock().unwrap().clone()
    }

    /// The archive's URL.
    pub(crate) fn archive_url(&self) -> String {
        format!("{}{}", self.url, archive_path())
    }
}

pub(crate) fn archive_path() -> String {
    format!("/{VERSION}/{STEM}.tar.gz")
}

/// The path of a request, whose head is read.
pub(crate) fn read_path(stream: &mut impl Read) -> String {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap().split(' ').nth(1).unwrap_or_default().to_owned()
}

/// Answers with this content, of which it says that it has so many bytes. Whoever asked may be gone.
pub(crate) fn send(stream: &mut impl Write, length: usize, content: &[u8]) {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(content));
    let _ = stream.flush();
}

pub(crate) fn send_status(stream: &mut impl Write, status: &str) {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.flush();
}

/// An archive in the making.
pub(crate) struct ArchiveBuilder(Builder<GzEncoder<Vec<u8>>>);

impl ArchiveBuilder {
    pub(crate) fn empty() -> Self {
        Self(Builder::new(GzEncoder::new(Vec::new(), Compression::fast())))
    }

    /// With programs that say that they are a server's.
    pub(crate) fn with_programs() -> Self {
        let programs = ["bin/initdb", "bin/postgres"];
        programs.into_iter().fold(Self::empty(), |archive, name| archive.file(name, 0o755, SERVER.as_bytes()))
    }

    /// A file in its folder.
    pub(crate) fn file(self, name: &str, mode: u32, content: &[u8]) -> Self {
        self.entry(&format!("{STEM}/{name}"), EntryType::Regular, "", mode, content)
    }

    /// A link in its folder.
    pub(crate) fn link(self, name: &str, to: &str) -> Self {
        self.entry(&format!("{STEM}/{name}"), EntryType::Symlink, to, 0o777, b"")
    }

    /// Whatever is said: names and targets go into the header as they are.
    pub(crate) fn entry(mut self, path: &str, kind: EntryType, to: &str, mode: u32, content: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..to.len()].copy_from_slice(to.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    /// A file or a folder of this machine, with all that is in it but what is left out.
    pub(crate) fn tree(mut self, from: &Path, name: &str, is_left_out: &dyn Fn(&Path) -> bool) -> Self {
        if is_left_out(from) {
            return self;
        }
        if !from.is_dir() {
            let path = format!("{STEM}/{name}");
            self.0.append_path_with_name(from.canonicalize().unwrap(), path).unwrap();
            return self;
        }
        fs::read_dir(from).unwrap().map(Result::unwrap).fold(self, |archive, entry| {
            let name = format!("{name}/{}", entry.file_name().to_string_lossy());
            archive.tree(&entry.path(), &name, is_left_out)
        })
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap().finish().unwrap()
    }
}

/// The release of an archive.
pub(crate) fn release_of(archive: &[u8]) -> Release {
    let sha256 = Sha256::digest(archive).iter().map(|byte| format!("{byte:02x}")).collect();
    Release { version: VERSION.to_owned(), target: TARGET.to_owned(), sha256 }
}

/// Limits that a test can reach.
pub(crate) fn small_limits() -> Limits {
    Limits {
        archive_bytes: 64 << 20,
        unpacked_bytes: 256 << 20,
        silence: Duration::from_secs(20),
        total: Duration::from_secs(60),
    }
}

/// A cache folder, which the server's user may pass through.
pub(crate) struct Cache(tempfile::TempDir);

impl Cache {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        set_mode(folder.path(), 0o755);
        Self(folder)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.path().join("roundhouse/postgresql")
    }

    pub(crate) fn release(&self) -> PathBuf {
        self.folder().join(format!("{VERSION}-{TARGET}"))
    }

    /// What lies in it, beside its mark and the lock.
    pub(crate) fn content(&self) -> Vec<String> {
        let names = fs::read_dir(self.folder()).unwrap().map(|entry| entry.unwrap().file_name());
        let names = names.map(|name| name.to_string_lossy().into_owned());
        let mut names: Vec<String> = names.filter(|name| name != ".roundhouse" && name != "lock").collect();
        names.sort();
        names
    }

    pub(crate) fn fetch(
        &self,
        url: &str,
        release: &Release,
        limits: Limits,
    ) -> Result<Programs, PostgresError> {
        self.fetch_with(url, release, limits, &|_| ())
    }

    pub(crate) fn fetch_with(
        &self,
        url: &str,
        release: &Release,
        limits: Limits,
        progress: &dyn Fn(Step<'_>),
    ) -> Result<Programs, PostgresError> {
        let releases: Releases = url.parse().unwrap();
        Fetch { releases: &releases, release, cache: self.path(), limits, progress }.programs()
    }
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}
