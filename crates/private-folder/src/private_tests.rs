use super::*;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn open(path: &Path) -> Result<PrivateFolder, FolderError> {
    PrivateFolder::open(path, Access::Owner)
}

#[test]
fn a_folder_is_made_private_opened_again_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("above/ours");
    let folder = open(&path).unwrap();
    assert_eq!((mode(&path), mode(path.parent().unwrap()), mode(&path.join(MARK))), (0o700, 0o700, 0o600));
    folder.file("lock").unwrap();
    assert_eq!(mode(&path.join("lock")), 0o600);
    let passage = PrivateFolder::open(&path, Access::Passage).unwrap();
    assert_eq!(mode(&path), 0o711);
    passage.subfolder("data", None).unwrap();
    assert_eq!(mode(&path.join("data")), 0o700);
    symlink(dir.path(), path.join("data/link")).unwrap();
    open(&path).unwrap().remove().unwrap();
    assert_eq!(fs::read_dir(dir.path().join("above")).unwrap().count(), 0);
}

#[test]
fn what_is_the_users_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("theirs");
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    // Empty, and not as we make folders.
    assert!(matches!(open(&path), Err(FolderError::NotOurs { .. })));
    fs::write(path.join("letter"), "dear").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    let error = open(&path).unwrap_err();
    assert!(matches!(error, FolderError::NotOurs { .. }) && error.to_string().contains("theirs"), "{error}");
    fs::write(path.join(MARK), "a configuration of the user's").unwrap();
    assert!(matches!(open(&path), Err(FolderError::NotOurs { .. })));
    assert_eq!(fs::read(path.join("letter")).unwrap(), b"dear");
    assert_eq!(fs::read(path.join(MARK)).unwrap(), b"a configuration of the user's");
    // A file, and a link to a folder of ours.
    assert!(matches!(open(&path.join("letter")), Err(FolderError::NotOurs { .. })));
    let ours = open(&dir.path().join("ours")).unwrap();
    symlink(ours.path(), dir.path().join("link")).unwrap();
    assert!(matches!(open(&dir.path().join("link")), Err(FolderError::NotOurs { .. })));
    // What a removed folder of ours would be called.
    fs::rename(&path, dir.path().join("ours.removed")).unwrap();
    assert!(matches!(ours.remove(), Err(FolderError::NotOurs { .. })));
    assert!(dir.path().join("ours.removed/letter").exists() && dir.path().join("ours").exists());
}

#[test]
fn a_removal_follows_no_link() {
    let dir = tempfile::tempdir().unwrap();
    let precious = dir.path().join("precious/artifacts");
    fs::create_dir_all(&precious).unwrap();
    fs::write(precious.join("letter"), "dear").unwrap();
    let folder = open(&dir.path().join("ours")).unwrap();
    fs::create_dir_all(folder.path().join("deep/er")).unwrap();
    symlink(&precious, folder.path().join("deep/er/link")).unwrap();
    symlink(precious.join("letter"), folder.path().join("letter")).unwrap();
    folder.remove().unwrap();
    // The folder itself was exchanged.
    let folder = open(&dir.path().join("ours")).unwrap();
    fs::rename(folder.path(), dir.path().join("away")).unwrap();
    symlink(dir.path().join("precious"), folder.path()).unwrap();
    assert!(matches!(folder.remove(), Err(FolderError::NotOurs { .. })));
    assert_eq!(fs::read_to_string(precious.join("letter")).unwrap(), "dear");
}

#[test]
fn a_folder_of_a_group_is_no_hindrance() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o2775)).unwrap();
    let path = dir.path().join("ours");
    open(&path).unwrap();
    assert_eq!(mode(&path) & 0o777, 0o700);
    open(&path).unwrap();
}

#[test]
fn a_removal_or_a_creation_that_was_cut_short_is_finished() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ours");
    let cut_short = open(&path).unwrap();
    fs::create_dir_all(cut_short.path().join("data/base")).unwrap();
    fs::write(path.join(REMOVAL_MARK), "").unwrap();
    fs::rename(&path, dir.path().join("ours.removed")).unwrap();
    for written in [None, Some(""), Some(&mark_text("ours".as_ref())[..7])] {
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        if let Some(text) = written {
            fs::write(path.join(MARK), text).unwrap();
        }
        open(&path).unwrap();
        assert_eq!(fs::read_to_string(path.join(MARK)).unwrap(), mark_text("ours".as_ref()));
        assert!(!dir.path().join("ours.removed").exists());
        open(&path).unwrap().remove().unwrap();
    }
}

/// Whoever may write beside our folders can rename them, and no more.
#[test]
fn a_folder_that_was_given_another_ones_name_is_neither_used_nor_removed() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let cluster = open(&at("cluster")).unwrap();
    fs::write(cluster.path().join("letter"), "dear").unwrap();
    let claimed = at("proofs");
    crate::claim(&claimed).unwrap();
    fs::write(claimed.join("letter"), "dear").unwrap();
    for victim in ["cluster", "proofs"] {
        for place in ["work", "work.removed", "cluster.removed"] {
            fs::rename(at(victim), at(place)).unwrap();
            let error = open(&at(place.trim_end_matches(".removed"))).unwrap_err();
            assert!(matches!(error, FolderError::NotOurs { .. }), "{error}");
            assert_eq!(fs::read(at(place).join("letter")).unwrap(), b"dear", "{victim} as {place}");
            fs::rename(at(place), at(victim)).unwrap();
        }
        let work = open(&at("work")).unwrap();
        fs::rename(at(victim), at("work.removed")).unwrap();
        assert!(matches!(work.remove(), Err(FolderError::NotOurs { .. })));
        assert_eq!(fs::read(at("work.removed/letter")).unwrap(), b"dear", "{victim} at a removal");
        fs::rename(at("work.removed"), at(victim)).unwrap();
        open(&at("work")).unwrap().remove().unwrap();
    }
    open(&at("cluster")).unwrap();
}

#[test]
fn a_removal_that_ended_before_the_folder_had_its_new_name_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ours");
    fs::write(open(&path).unwrap().path().join(REMOVAL_MARK), "").unwrap();
    fs::write(path.join("letter"), "dear").unwrap();
    open(&path).unwrap();
    fs::rename(&path, dir.path().join("ours.removed")).unwrap();
    assert!(matches!(open(&path), Err(FolderError::NotOurs { .. })));
    assert!(dir.path().join("ours.removed/letter").exists());
}

#[test]
fn no_link_or_pipe_is_opened_and_nothing_of_another_user() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("target");
    fs::write(&target, "secret").unwrap();
    let folder = open(&dir.path().join("ours")).unwrap();
    symlink(&target, folder.path().join("lock")).unwrap();
    symlink(dir.path(), folder.path().join("data")).unwrap();
    assert!(matches!(folder.file("lock"), Err(FolderError::NotOurs { .. })));
    assert!(folder.read("lock", 100).is_none());
    assert!(matches!(folder.subfolder("data", None), Err(FolderError::NotOurs { .. })));
    assert_eq!(fs::read_to_string(&target).unwrap(), "secret");
    let pipe = std::process::Command::new("mkfifo").arg(folder.path().join("pipe")).status();
    assert!(pipe.unwrap().success());
    assert!(folder.read("pipe", 100).is_none());
    assert!(matches!(folder.file("pipe"), Err(FolderError::NotOurs { .. })));
    // Only root can make one that is another's.
    if rustix::process::geteuid().is_root() {
        fs::create_dir(dir.path().join("planted")).unwrap();
        fs::set_permissions(dir.path().join("planted"), fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::chown(dir.path().join("planted"), Some(65_534), None).unwrap();
        assert!(matches!(open(&dir.path().join("planted")), Err(FolderError::NotOurs { .. })));
        assert!(matches!(
            Subfolder::open(&dir.path().join("planted"), None),
            Err(FolderError::NotOurs { .. })
        ));
        Subfolder::open(&dir.path().join("planted"), Some((65_534, 65_534))).unwrap();
    }
}

/// Deeper than a thread's stack, a path, and a process's descriptors allow.
#[test]
fn a_removal_is_not_stopped_by_depth() {
    const LEVELS: u32 = 10_000;
    let dir = tempfile::tempdir().unwrap();
    let folder = open(&dir.path().join("ours")).unwrap();
    let mut inner = open_folder(here(), folder.path(), folder.path()).unwrap();
    for _ in 0..LEVELS {
        mkdirat(&inner, "d", Mode::RWXU).unwrap();
        openat(&inner, "file", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap();
        inner = open_folder(&inner, Path::new("d"), Path::new("d")).unwrap();
    }
    drop(inner);
    folder.remove().unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn what_was_recovered_to_lost_and_found_is_never_removed() {
    let dir = tempfile::tempdir().unwrap();
    // Without the mark: neither taken over, nor removed as what a removal left.
    for name in ["ours", "other.removed"] {
        let path = dir.path().join(name);
        fs::create_dir_all(path.join(LOST_AND_FOUND)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(path.join(LOST_AND_FOUND).join("letter"), "dear").unwrap();
        let error = open(&path.with_extension("")).unwrap_err();
        assert!(matches!(error, FolderError::NotOurs { .. }), "{error}");
        assert_eq!(fs::read(path.join(LOST_AND_FOUND).join("letter")).unwrap(), b"dear");
    }
    // With it: all goes but that.
    let ours = open(&dir.path().join("marked")).unwrap();
    fs::create_dir(ours.path().join(LOST_AND_FOUND)).unwrap();
    fs::write(ours.path().join(LOST_AND_FOUND).join("letter"), "dear").unwrap();
    let error = ours.remove().unwrap_err();
    assert!(error.to_string().contains(LOST_AND_FOUND), "{error}");
    assert_eq!(
        fs::read(dir.path().join("marked.removed").join(LOST_AND_FOUND).join("letter")).unwrap(),
        b"dear"
    );
}
