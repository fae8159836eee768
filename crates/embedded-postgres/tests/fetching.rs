//! Server programs for a machine that has none, from a release server in the test.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod releases;

use embedded_postgres::{
    EmbeddedPostgres, Fetch, Options, PROGRAMS_VARIABLE, PostgresError, Programs, Releases, Step,
    find_programs, programs_in,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use releases::{
    ArchiveBuilder, Cache, ReleaseServer, SERVER, STEM, read_path, release_of, send, set_mode, small_limits,
};
use rustls::pki_types::PrivateKeyDer;
use std::{
    cell::RefCell,
    fs,
    net::TcpListener,
    os::unix::{
        fs::{MetadataExt, symlink},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, mpsc},
};
use tar::EntryType;

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// Runs this test's own binary as a child with this test alone.
fn child(test: &str) -> Command {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", test, "--nocapture"]).env("IS_THE_CHILD", "1");
    child
}

fn is_the_child() -> bool {
    std::env::var_os("IS_THE_CHILD").is_some()
}

/// The PostgreSQL of this machine as a release has it: its folders below one, where its programs look for each other.
fn installed_postgres() -> Vec<u8> {
    let postgres = find_programs().unwrap().folder.join("postgres").canonicalize().unwrap();
    let programs = postgres.parent().unwrap();
    let folder = |name: &str| {
        let output = Command::new(programs.join("pg_config")).arg(name).output().unwrap();
        PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
    };
    let (bin, lib, share) = (folder("--bindir"), folder("--pkglibdir"), folder("--sharedir"));
    let prefix = bin.ancestors().find(|above| lib.starts_with(above) && share.starts_with(above)).unwrap();
    let inside = |folder: &Path| folder.strip_prefix(prefix).unwrap().to_str().unwrap().to_owned();
    let mut archive = ArchiveBuilder::empty();
    for program in ["initdb", "postgres", "psql"] {
        archive = archive.tree(&bin.join(program), &format!("{}/{program}", inside(&bin)), &|_| false);
    }
    if inside(&bin) != "bin" {
        archive = archive.link("bin", &inside(&bin));
    }
    let is_no_library = |path: &Path| path != lib && path.extension().is_none_or(|kind| kind != "so");
    archive = archive.tree(&lib, &inside(&lib), &is_no_library);
    archive.tree(&share, &inside(&share), &|path| path.ends_with("man") || path.ends_with("locale")).bytes()
}

/// Everything in a folder, itself included, links not followed.
fn all_in(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![folder.to_owned()];
    let mut next = 0;
    while next < found.len() {
        if found[next].symlink_metadata().unwrap().is_dir() {
            found.extend(fs::read_dir(found[next].clone()).unwrap().map(|entry| entry.unwrap().path()));
        }
        next += 1;
    }
    found
}

fn query(programs: &Programs, server: &EmbeddedPostgres, sql: &str) -> String {
    let mut psql = Command::new(programs.folder.join("psql"));
    let output = psql.args(["-XAt", "-c", sql]).arg(server.url("postgres")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_machine_without_postgresql_fetches_it_once_and_runs_a_server_from_the_cache() {
    // As the programs do at their start: what is fetched is for the server's user all the same.
    private_folder::keep_files_private();
    let archive = installed_postgres();
    let (server, cache, release) = (ReleaseServer::with(archive.clone()), Cache::new(), release_of(&archive));
    let seen = RefCell::new(Vec::new());
    let progress = |step: Step<'_>| seen.borrow_mut().push(format!("{step:?}"));
    let programs = cache.fetch_with(&server.url, &release, small_limits(), &progress).unwrap();
    assert!(programs.folder.starts_with(cache.release().canonicalize().unwrap()), "{programs:?}");
    assert_eq!(programs.version, find_programs().unwrap().version);
    let seen = seen.into_inner();
    let downloading = |received: usize| {
        let (url, total) = (server.archive_url(), Some(archive.len()));
        format!("Downloading {{ url: {url:?}, received: {received}, total: {total:?} }}")
    };
    assert_eq!(seen[0], downloading(0));
    assert_eq!(seen[seen.len() - 3], downloading(archive.len()));
    assert_eq!(seen[seen.len() - 2], "Unpacking");
    assert!(seen[seen.len() - 1].starts_with("Done"), "{seen:?}");

    let data = Cache::new();
    let options = Options { programs: Some(programs.clone()), ..Options::default() };
    let postgres = EmbeddedPostgres::start(data.path(), &options).unwrap();
    assert_eq!(query(&programs, &postgres, "select 6 * 7"), "42");
    let share = query(&programs, &postgres, "select setting from pg_config where name = 'SHAREDIR'");
    let root = cache.release().canonicalize().unwrap();
    assert!(share.starts_with(root.to_str().unwrap()), "the server uses {share}");
    let program = fs::read_link(format!("/proc/{}/exe", postgres.postmaster().unwrap()));
    if let Ok(program) = program {
        assert!(program.starts_with(&root), "{} runs", program.display());
    }
    postgres.stop();

    // The next one asks nobody, and none of this is in others' hands.
    assert_eq!(cache.fetch(&server.url, &release, small_limits()).unwrap(), programs);
    assert_eq!(server.paths().len(), 1);
    assert_eq!(cache.content(), [cache.release().file_name().unwrap().to_str().unwrap()]);
    for path in all_in(&root).into_iter().filter(|path| !path.is_symlink()) {
        let found = path.metadata().unwrap();
        assert_eq!(found.uid(), fs::metadata("/proc/self").unwrap().uid(), "{}", path.display());
        let expected: &[u32] = if found.is_dir() { &[0o755] } else { &[0o644, 0o755] };
        let mode = found.mode() & 0o7777;
        assert!(expected.contains(&mode), "{} has mode {mode:o}", path.display());
    }
}

/// What the user that root's server runs as may write, it could have other clusters run.
#[test]
fn the_servers_user_runs_what_was_fetched_and_cannot_change_it() {
    if !is_root() {
        return;
    }
    let archive = ArchiveBuilder::with_programs().bytes();
    let (server, cache) = (ReleaseServer::with(archive.clone()), Cache::new());
    let programs = cache.fetch(&server.url, &release_of(&archive), small_limits()).unwrap();
    let as_user = |script: &str, folder: &Path| {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", script, "sh"]).arg(folder).uid(65_534).gid(65_534).stderr(Stdio::null());
        shell.status().unwrap().success()
    };
    assert!(as_user("cat \"$1/initdb\" >/dev/null && \"$1/postgres\" --version", &programs.folder));
    for folder in all_in(&cache.path().join("roundhouse")).into_iter().filter(|path| path.is_dir()) {
        assert!(!as_user("touch \"$1/planted\"", &folder), "{}", folder.display());
        assert!(!as_user("mv \"$1\" \"$1.old\"", &folder), "{}", folder.display());
    }
    assert!(!as_user("echo >\"$1/postgres\"", &programs.folder));
}

#[test]
fn modes_and_links_of_an_archive_are_taken_as_far_as_they_are_harmless() {
    let archive = ArchiveBuilder::with_programs()
        .entry("././", EntryType::XGlobalHeader, "", 0o644, b"")
        .entry(&format!("./{STEM}/"), EntryType::Directory, "", 0o2777, b"")
        .file("bin/psql", 0o4711, b"x")
        .file("share/zone/one", 0o222, b"y")
        .link("lib/libpq.so", "libpq.so.5")
        .file("lib/libpq.so.5", 0o777, b"z")
        .link("share/deep/er/up", "../../zone/./one")
        .entry(
            &format!("{STEM}/share/zone/two"),
            EntryType::Link,
            &format!("{STEM}/share/zone/one"),
            0o644,
            b"",
        )
        .bytes();
    let (server, cache) = (ReleaseServer::with(archive.clone()), Cache::new());
    cache.fetch(&server.url, &release_of(&archive), small_limits()).unwrap();
    let at = |name: &str| cache.release().join(name);
    for (name, mode) in [("bin/psql", 0o755), ("share/zone/one", 0o644), ("lib/libpq.so.5", 0o755)] {
        assert_eq!(at(name).symlink_metadata().unwrap().mode() & 0o7777, mode, "{name}");
    }
    assert_eq!(cache.release().metadata().unwrap().mode() & 0o7777, 0o755);
    for (name, content) in [("lib/libpq.so", "z"), ("share/deep/er/up", "y"), ("share/zone/two", "y")] {
        assert_eq!(fs::read_to_string(at(name)).unwrap(), content, "{name}");
    }
}

#[test]
fn two_at_once_fetch_it_once() {
    let archive = ArchiveBuilder::with_programs().bytes();
    let (served, release) = (archive.clone(), release_of(&archive));
    let (is_waited_for, waited_for) = mpsc::channel::<()>();
    let waited_for = Mutex::new(waited_for);
    let server = ReleaseServer::start(move |_, stream| {
        waited_for.lock().unwrap().recv().unwrap();
        send(stream, served.len(), &served);
    });
    let cache = Cache::new();
    std::thread::scope(|scope| {
        let both = [is_waited_for.clone(), is_waited_for].map(|is_waited_for| {
            let (cache, url, release) = (&cache, &server.url, &release);
            scope.spawn(move || {
                let progress = |step: Step<'_>| {
                    if matches!(step, Step::Waiting) {
                        is_waited_for.send(()).unwrap();
                    }
                };
                cache.fetch_with(url, release, small_limits(), &progress).unwrap()
            })
        });
        let [one, two] = both.map(|thread| thread.join().unwrap());
        assert_eq!(one, two);
    });
    assert_eq!(server.paths().len(), 1);
}

#[test]
fn what_a_killed_process_left_never_counts() {
    let archive = ArchiveBuilder::with_programs().bytes();
    let release = release_of(&archive);
    if is_the_child() {
        let folder = PathBuf::from(std::env::var_os("CACHE").unwrap());
        let releases: Releases = std::env::var("SERVER").unwrap().parse().unwrap();
        let limits = small_limits();
        let fetch =
            Fetch { releases: &releases, release: &release, cache: &folder, limits, progress: &|_| () };
        panic!("the server does not answer, and still: {:?}", fetch.programs());
    }
    let (asked, is_asked) = mpsc::channel();
    let half = archive[..archive.len() / 2].to_vec();
    let whole = archive.len();
    let slow = ReleaseServer::start(move |_, stream| {
        send(stream, whole, &half);
        asked.send(()).unwrap();
        let _ = std::io::copy(stream, &mut std::io::sink());
    });
    let cache = Cache::new();
    let mut killed = child("what_a_killed_process_left_never_counts")
        .env("CACHE", cache.path())
        .env("SERVER", &slow.url)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    is_asked.recv().unwrap();
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert_eq!(cache.content(), ["unfinished"]);
    fs::create_dir_all(cache.folder().join("unfinished/tree/bin")).unwrap();
    let server = ReleaseServer::with(archive);
    cache.fetch(&server.url, &release, small_limits()).unwrap();
    assert_eq!(cache.content(), [cache.release().file_name().unwrap().to_str().unwrap()]);
}

#[test]
fn where_nothing_may_be_fetched_only_what_was_fetched_before_serves() {
    let archive = ArchiveBuilder::with_programs().bytes();
    let (server, cache, release) = (ReleaseServer::with(archive.clone()), Cache::new(), release_of(&archive));
    let error = cache.fetch("none", &release, small_limits()).unwrap_err();
    assert!(matches!(error, PostgresError::NotInstalled), "{error}");
    let text = error.to_string();
    assert!(text.contains("apt-get install postgresql") && !text.contains('\n'), "{text}");
    assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 0, "the cache is as it was");
    let programs = cache.fetch(&server.url, &release, small_limits()).unwrap();
    assert_eq!(cache.fetch("none", &release, small_limits()).unwrap(), programs);
    assert_eq!(server.paths().len(), 1);
}

/// A release may need libraries that a bare machine lacks. Once they are installed nothing is fetched again.
#[test]
fn a_release_that_does_not_run_here_is_refused_with_what_its_program_says() {
    let library = tempfile::tempdir().unwrap();
    set_mode(library.path(), 0o755);
    let library = library.path().join("libxml2.so.2");
    let words =
        "postgres: error while loading shared libraries: libxml2.so.2: cannot open shared object file";
    let script = format!("#!/bin/sh\n[ -e {0} ] || {{ echo '{words}' >&2; exit 127; }}\n", library.display());
    let script = script + &SERVER.replace("#!/bin/sh\n", "");
    let archive = ArchiveBuilder::empty().file("bin/initdb", 0o755, SERVER.as_bytes());
    let archive = archive.file("bin/postgres", 0o755, script.as_bytes()).bytes();
    let (server, cache, release) = (ReleaseServer::with(archive.clone()), Cache::new(), release_of(&archive));
    let error = cache.fetch(&server.url, &release, small_limits()).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, PostgresError::Fetched { .. }) && text.contains(words), "{text}");
    assert!(text.contains("apt-get install postgresql") && !text.contains('\n'), "{text}");
    fs::write(&library, "").unwrap();
    cache.fetch(&server.url, &release, small_limits()).unwrap();
    assert_eq!(server.paths().len(), 1);
}

#[test]
fn a_cache_in_others_hands_is_refused_before_anything_is_made() {
    let archive = ArchiveBuilder::with_programs().bytes();
    let (server, cache, release) = (ReleaseServer::with(archive.clone()), Cache::new(), release_of(&archive));
    let refused = |words: &str| {
        let before = all_in(cache.path());
        let error = cache.fetch(&server.url, &release, small_limits()).unwrap_err();
        assert!(error.is_wrong_folder() && error.to_string().contains(words), "{error}");
        assert_eq!(all_in(cache.path()), before);
    };
    set_mode(cache.path(), 0o777);
    refused("others may write to");
    set_mode(cache.path(), 0o755);
    // A folder of that name without our mark.
    fs::create_dir_all(cache.folder().join("theirs")).unwrap();
    set_mode(&cache.folder(), 0o755);
    refused("its mark");
    fs::rename(cache.folder(), cache.path().join("elsewhere")).unwrap();
    symlink(cache.path().join("elsewhere"), cache.folder()).unwrap();
    refused("it is no folder");
    fs::remove_file(cache.folder()).unwrap();
    if is_root() {
        std::os::unix::fs::chown(cache.path(), Some(65_534), None).unwrap();
        refused("belongs to the user with the number 65534");
        std::os::unix::fs::chown(cache.path(), Some(0), None).unwrap();
        // Where the server's user cannot go, its programs are of no use.
        set_mode(&cache.path().join("roundhouse"), 0o700);
        let closed = cache.path().join("roundhouse").canonicalize().unwrap();
        refused(&format!("chmod o+x {}", closed.display()));
        refused("/var/cache (XDG_CACHE_HOME)");
        set_mode(&closed, 0o711);
    }
    assert_eq!(server.paths(), [""; 0]);
    cache.fetch(&server.url, &release, small_limits()).unwrap();
}

#[test]
fn a_folder_that_is_named_and_has_no_programs_is_refused_and_nothing_else_is_taken() {
    if is_the_child() {
        let error = find_programs().unwrap_err();
        assert!(matches!(error, PostgresError::NoPrograms { .. }) && error.is_wrong_folder(), "{error}");
        return;
    }
    let folder = Cache::new();
    let programs = folder.path().join("bin");
    fs::create_dir(&programs).unwrap();
    set_mode(&programs, 0o755);
    let write = |name: &str, script: &str| {
        fs::write(programs.join(name), script).unwrap();
        set_mode(&programs.join(name), 0o755);
    };
    let refused = |words: &str| {
        let error = programs_in(&programs).unwrap_err().to_string();
        let is_named = error.contains(&*programs.to_string_lossy()) && error.contains(PROGRAMS_VARIABLE);
        assert!(is_named && error.contains(words), "{words:?} is not in: {error}");
        let test = "a_folder_that_is_named_and_has_no_programs_is_refused_and_nothing_else_is_taken";
        let output = child(test).env(PROGRAMS_VARIABLE, &programs).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    };
    refused("there is no initdb");
    write("initdb", SERVER);
    refused("there is no postgres");
    write("postgres", "#!/bin/sh\necho 'postgres (PostgreSQL) 13.23'\n");
    refused("it is PostgreSQL 13, and 14 is the oldest");
    write("postgres", "#!/bin/sh\necho hello\n");
    refused("says \"hello\"");
    write("postgres", "#!/bin/sh\necho 'no such library' >&2; exit 127\n");
    refused("no such library");
    set_mode(&programs.join("postgres"), 0o644);
    refused("cannot be run");
    write("postgres", SERVER);
    assert_eq!(programs_in(&programs).unwrap().version, 98);
}

/// A release server with TLS: its URL, and the folder with the certificate of its authority.
fn tls_server(archive: Vec<u8>) -> (String, tempfile::TempDir) {
    let mut authority = CertificateParams::new([]).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    let certificate = names.signed_by(&key, &authority).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let plain = ReleaseServer::with(archive.clone());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = rustls::ServerConnection::new(config.clone()).unwrap();
            let mut stream = rustls::StreamOwned::new(connection, stream.unwrap());
            let path = read_path(&mut stream);
            if path.starts_with("/plain/") {
                let head = format!(
                    "HTTP/1.1 302 Found\r\nLocation: {}\r\nContent-Length: 0\r\n\r\n",
                    plain.archive_url()
                );
                let _ = std::io::Write::write_all(&mut stream, head.as_bytes());
            } else if !path.is_empty() {
                send(&mut stream, archive.len(), &archive);
            }
            stream.conn.send_close_notify();
            let _ = std::io::Write::flush(&mut stream);
        }
    });
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("authority.crt"), authority.pem()).unwrap();
    (url, folder)
}

#[test]
fn over_https_the_server_shows_a_certificate_of_the_systems_authorities_and_sends_nobody_on_unencrypted() {
    let archive = ArchiveBuilder::with_programs().bytes();
    let release = release_of(&archive);
    if is_the_child() {
        let cache = Cache::new();
        let result = cache.fetch(&std::env::var("SERVER").unwrap(), &release, small_limits());
        let result = result.map_or_else(|error| error.to_string(), |_| "fetched".to_owned());
        std::io::Write::write_all(&mut std::io::stdout(), format!("RESULT {result}\n").as_bytes()).unwrap();
        return;
    }
    let (url, folder) = tls_server(archive);
    let result = |url: &str, authorities: &Path| {
        let test = "over_https_the_server_shows_a_certificate_of_the_systems_authorities_and_sends_nobody_on_unencrypted";
        let mut child = child(test);
        child.env("SERVER", url).env("SSL_CERT_FILE", authorities).env_remove("SSL_CERT_DIR");
        String::from_utf8(child.output().unwrap().stdout).unwrap()
    };
    let authority = folder.path().join("authority.crt");
    assert!(result(&url, &authority).contains("RESULT fetched"), "{}", result(&url, &authority));
    let other = result(&url, Path::new("/dev/null"));
    assert!(other.contains(&url) && other.contains("UnknownIssuer"), "{other}");
    let plain = result(&format!("{url}/plain"), &authority);
    assert!(plain.contains("redirects from https to a URL without encryption"), "{plain}");
}
