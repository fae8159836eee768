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
