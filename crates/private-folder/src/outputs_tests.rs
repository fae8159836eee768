use super::*;
use crate::MARK;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

#[test]
fn a_store_is_a_new_an_empty_or_a_marked_folder() {
    let dir = tempfile::tempdir().unwrap();
    let new = dir.path().join("new/store");
    claim(&new).unwrap();
    assert_eq!(fs::metadata(&new).unwrap().mode() & 0o777, 0o700);
    fs::create_dir(new.join("circuit")).unwrap();
    claim(&new).unwrap();

    let disk = dir.path().join("disk");
    fs::create_dir_all(disk.join("lost+found")).unwrap();
    fs::set_permissions(&disk, fs::Permissions::from_mode(0o750)).unwrap();
    symlink(&disk, dir.path().join("link")).unwrap();
    claim(&dir.path().join("link")).unwrap();
    assert_eq!(fs::metadata(&disk).unwrap().mode() & 0o777, 0o750, "its mode is the user's");

    let home = dir.path().join("home");
    fs::create_dir(&home).unwrap();
    fs::write(home.join("letter"), "dear").unwrap();
    assert!(matches!(claim(&home), Err(FolderError::NotOurs { .. })));
    assert_eq!(fs::read_dir(&home).unwrap().count(), 1);
}

#[test]
fn results_replace_ours_and_never_what_is_the_users() {
    let dir = tempfile::tempdir().unwrap();
    let ours = dir.path().join("proofs/0-1");
    let target = dir.path().join("target");
    fs::write(&target, "precious").unwrap();
    for content in ["one", "two"] {
        OutputFolder::open(&ours).unwrap().write("proof.bin", content.as_bytes()).unwrap();
        assert_eq!(fs::read_to_string(ours.join("proof.bin")).unwrap(), content);
    }
    assert_eq!(fs::metadata(&ours).unwrap().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(ours.join("proof.bin")).unwrap().mode() & 0o777, 0o600);
    fs::remove_file(ours.join("proof.bin")).unwrap();
    symlink(&target, ours.join("proof.bin")).unwrap();
    OutputFolder::open(&ours).unwrap().write("proof.bin", b"three").unwrap();
    assert!(!OutputFolder::is_taken(&ours, "proof.bin"));

    let theirs = dir.path().join("theirs");
    fs::create_dir(&theirs).unwrap();
    fs::write(theirs.join("statement.json"), "precious").unwrap();
    symlink(&target, theirs.join("proof.bin")).unwrap();
    let folder = OutputFolder::open(&theirs).unwrap();
    for name in ["statement.json", "proof.bin"] {
        assert!(OutputFolder::is_taken(&theirs, name));
        assert!(matches!(folder.write(name, b"other"), Err(FolderError::NotOurs { .. })), "{name}");
    }
    folder.write("statement.json", b"precious").unwrap();
    folder.write("accounts-after.csv", b"new").unwrap();
    assert_eq!(fs::read_to_string(theirs.join("statement.json")).unwrap(), "precious");
    assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
    assert!(!theirs.join(MARK).exists());
    assert!(!OutputFolder::is_taken(&dir.path().join("none"), "proof.bin"));
}

#[test]
fn results_do_not_follow_a_folder_that_is_exchanged_for_a_link() {
    let dir = tempfile::tempdir().unwrap();
    let (out, victim) = (dir.path().join("out"), dir.path().join("victim"));
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("proof.bin"), "precious").unwrap();
    let folder = OutputFolder::open(&out).unwrap();
    fs::rename(&out, dir.path().join("elsewhere")).unwrap();
    symlink(&victim, &out).unwrap();
    let error = folder.write("proof.bin", b"proof").unwrap_err();
    assert!(
        matches!(error, FolderError::NotOurs { .. }) && error.to_string().contains("exchanged"),
        "{error}"
    );
    assert_eq!(fs::read_to_string(victim.join("proof.bin")).unwrap(), "precious");
    assert_eq!(fs::read_dir(&victim).unwrap().count(), 1);
    let written = fs::read_dir(dir.path().join("elsewhere")).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(written.collect::<std::collections::BTreeSet<_>>(), [MARK.into(), "proof.bin".into()].into());
}

#[test]
fn a_mark_in_a_folder_that_others_may_write_to_says_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let shared = dir.path().join("shared");
    claim(&shared).unwrap();
    fs::write(shared.join("proof.bin"), "precious").unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).unwrap();
    let folder = OutputFolder::open(&shared).unwrap();
    assert!(OutputFolder::is_taken(&shared, "proof.bin"));
    assert!(matches!(folder.write("proof.bin", b"other"), Err(FolderError::NotOurs { .. })));
    assert_eq!(fs::read_to_string(shared.join("proof.bin")).unwrap(), "precious");
    if rustix::process::geteuid().is_root() {
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::chown(&shared, Some(65_534), None).unwrap();
        assert!(OutputFolder::is_taken(&shared, "proof.bin"));
    }
}
