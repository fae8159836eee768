//! The programs and what is the user's: where they write, what they leave alone, and who may read what they write.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    time::Duration,
};
use test_support::programs::{Running, Scene, output, program, stderr, until};

const SOON: Duration = Duration::from_secs(60);

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// Owner, mode and content, or the link's target, of everything in a folder, itself included.
fn inventory(folder: &Path) -> BTreeMap<PathBuf, (u32, u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(path) = folders.pop() {
        // The server's files come and go.
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        let mut content = Vec::new();
        if metadata.is_dir() {
            folders.extend(fs::read_dir(&path).into_iter().flatten().map(|entry| entry.unwrap().path()));
        } else if metadata.is_file() {
            content = fs::read(&path).unwrap_or_default();
        } else if metadata.is_symlink() {
            content = fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes();
        }
        found.insert(path, (metadata.uid(), metadata.mode(), content));
    }
    found
}

/// Everything that was there before is as it was.
fn assert_kept(before: &BTreeMap<PathBuf, (u32, u32, Vec<u8>)>, folder: &Path) {
    let after = inventory(folder);
    for (path, kept) in before {
        assert_eq!(after.get(path), Some(kept), "{}", path.display());
    }
}

/// A user's folder with files under the names that the programs use.
fn home(path: PathBuf) -> PathBuf {
    fs::create_dir_all(path.join("data/2024")).unwrap();
    fs::create_dir_all(path.join("artifacts")).unwrap();
    let names =
        ["data/one.jpg", "artifacts/two.jpg", "lock", ".lock", "initialised", "postgres.log", "letter"];
    for name in names {
        fs::write(path.join(name), "precious").unwrap();
    }
    set_mode(&path, 0o755);
    path
}

/// A scene whose folder others may pass through, as the private server's user must.
async fn scene(mock: &str) -> Scene {
    let scene = Scene::mock(mock).await;
    set_mode(&scene.path("."), 0o711);
    scene.write("in.mock", "mock private");
    scene
}

fn prove(scene: &Scene, data: &Path, out: &Path) -> std::process::Command {
    let mut command = scene.program("prover");
    command.args(["prove", "in.mock", "--keys"]).arg(scene.path("home"));
    command.arg("--data").arg(data).arg("--out").arg(out);
    command
}

#[test]
fn serving_a_database_leaves_the_folder_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    set_mode(dir.path(), 0o711);
    let home = home(dir.path().join("home"));
    let before = inventory(&home);
    let log = dir.path().join("log");
    let mut serving = Running::start(program("prover").args(["database", "serve", "--data"]).arg(&home), log);
    until("it serves", SOON, || home.join("postgres/socket/.s.PGSQL.5432").exists().then_some(()));
    assert_eq!(serving.terminate(), 0, "{}", serving.log());
    assert_kept(&before, &home);

    // Where a folder of the user's would be the cluster's.
    let taken = dir.path().join("taken");
    fs::create_dir_all(taken.join("postgres/data")).unwrap();
    let before = inventory(&taken);
    let refused = output(program("prover").args(["database", "serve", "--data"]).arg(&taken));
    assert_eq!(refused.status.code(), Some(2), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("taken/postgres"), "{}", stderr(&refused));
    assert_eq!(inventory(&taken), before);
}

/// A folder without PostgreSQL that was named is no reason to take another, or to fetch one.
#[test]
fn a_folder_that_is_named_for_postgresql_and_has_none_is_refused_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    set_mode(dir.path(), 0o755);
    fs::write(dir.path().join("in.mock"), "mock closed").unwrap();
    fs::create_dir(dir.path().join("bin")).unwrap();
    let before = inventory(dir.path());
    let refused = |flag: &str, words: &str| {
        for arguments in [["database", "serve"].as_slice(), &["prove", "--proof-system=mock", "in.mock"]] {
            let mut command = program("prover");
            command.args(arguments).args(["--data", "new/data", flag]).current_dir(dir.path());
            let refused = output(&mut command);
            let text = stderr(&refused);
            assert_eq!(refused.status.code(), Some(2), "{text}");
            assert!(text.contains(words) && !text.contains("sw0rdfish"), "{words:?} is not in: {text}");
            assert_eq!(inventory(dir.path()), before, "{text}");
        }
    };
    refused("--postgres-bin=bin", "bin holds no server programs that serve: there is no initdb");
    refused("--postgresql-releases=nowhere", "--postgresql-releases");
    refused("--postgresql-releases=https://u:sw0rdfish@h/x", "takes no user and no password");
}

#[test]
fn root_is_told_what_to_do_where_the_servers_user_cannot_come() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    set_mode(dir.path(), 0o700);
    fs::write(dir.path().join("in.mock"), "mock closed").unwrap();
    let before = inventory(dir.path());
    let data = dir.path().join("new/data");
    for arguments in [["database", "serve"].as_slice(), &["prove", "--proof-system=mock", "in.mock"]] {
        let mut command = program("prover");
        command.current_dir(dir.path()).args(arguments).arg("--data").arg(&data);
        let refused = output(&mut command);
        let words = stderr(&refused);
        assert_eq!(refused.status.code(), Some(2), "{words}");
        assert!(words.contains("/var/lib/roundhouse") && words.contains("chmod o+x"), "{words}");
        assert_eq!(inventory(dir.path()), before, "{words}");
    }
}

#[tokio::test]
async fn proving_leaves_the_users_folders_as_they_were() {
    let scene = scene("[[circuit]]\ncount = 1\n").await;
    let home = home(scene.path("home"));
    let before = inventory(&home);
    // Data, keys and results, all in one folder of the user's.
    let proven = output(&mut prove(&scene, &home, &home));
    assert!(proven.status.success(), "{}", stderr(&proven));
    assert_kept(&before, &home);
    assert!(home.join("proof.bin").exists());

    // Another proof is there: refused at once. A link is never followed.
    let before = inventory(&home);
    scene.write("in.mock", "mock another");
    let refused = output(&mut prove(&scene, &home, &home));
    assert_eq!(refused.status.code(), Some(2), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("--out"), "{}", stderr(&refused));
    assert_eq!(inventory(&home), before);
    let linked = scene.path("linked");
    fs::create_dir(&linked).unwrap();
    symlink(home.join("letter"), linked.join("statement.json")).unwrap();
    let refused = output(&mut prove(&scene, &scene.path("data"), &linked));
    assert_eq!(refused.status.code(), Some(2), "{}", stderr(&refused));
    assert_eq!(inventory(&home), before);
    // Nothing is lost: with another folder it is written without proving again.
    for _ in 0..2 {
        let proven = output(&mut prove(&scene, &scene.path("data"), &scene.path("out")));
        assert!(proven.status.success(), "{}", stderr(&proven));
    }
    assert_eq!(fs::read_dir(scene.path("data")).unwrap().count(), 0);
}

/// Inputs of witnesses, scratch and results, while it proves and afterwards.
#[tokio::test]
async fn what_is_written_is_private() {
    let scene = scene("[[circuit]]\ncount = 3\nprove_ms = 300\n").await;
    let data = scene.path("data");
    let mut proving = Running::start(&mut prove(&scene, &data, &scene.path("out/one")), scene.path("log"));
    let is_written = || {
        let found = inventory(&data);
        let artifacts = found.iter().filter(|(path, (_, _, content))| {
            path.components().any(|part| part.as_os_str() == "artifacts") && content.starts_with(b"RHART")
        });
        (artifacts.count() > 1).then_some(found)
    };
    let during = until("it has proven some", SOON, || {
        assert_eq!(proving.ended(), None, "{}", proving.log());
        is_written()
    });
    assert_eq!(proving.wait(SOON), 0, "{}", proving.log());
    scene.run_cli(&["insert-batch", "--number=1", "--input=in.mock"]);
    let written = [during, inventory(&scene.path("out")), inventory(&scene.path("artifacts"))];
    assert!(written.iter().all(|found| found.len() > 2));
    // On its way to the cluster the server's user passes.
    let passage = |path: &Path| {
        path.ancestors().take(3).any(|folder| folder == data) && path.file_name().unwrap() != "artifacts"
    };
    for (path, (_, mode, _)) in written.into_iter().flatten() {
        let is_socket = path.file_name().is_some_and(|name| name == ".s.PGSQL.5432");
        let allowed =
            if is_root() && mode & 0o170_000 == 0o040_000 && passage(&path) { 0o711 } else { 0o700 };
        assert!(is_socket || mode & 0o777 & !allowed == 0, "{} has mode {mode:o}", path.display());
    }
}

#[tokio::test]
async fn an_object_store_is_no_folder_of_the_users() {
    let scene = scene("[[circuit]]\ncount = 1\n").await;
    let home = home(scene.path("home"));
    let before = inventory(&home);
    let insert = ["insert-batch", "--number=1", "--input=in.mock", "--object-store"];
    let refused = output(scene.program("prover_cli").args(insert).arg(&home));
    assert_eq!(refused.status.code(), Some(2), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("other things are in it"), "{}", stderr(&refused));
    assert_eq!(inventory(&home), before);
}
