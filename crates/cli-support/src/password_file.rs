//! The password file of PostgreSQL's clients, as far as somebody named one.

use crate::BadInput;
use outside::printable;
use std::{ffi::OsStr, fs, os::unix::fs::MetadataExt, path::Path};

/// Permissions of others, with which the driver leaves the file out.
const OTHERS: u32 = 0o077;

/// That the file of `PGPASSFILE` is there and will be read. The driver would go on without it, and the server's refusal would not say why.
pub(crate) fn check_password_file(named: Option<&OsStr>) -> Result<(), BadInput> {
    let Some(path) = named.filter(|name| !name.is_empty()).map(Path::new) else { return Ok(()) };
    let refused = |reason: &str| {
        let shown = path.display().to_string();
        BadInput(format!("PGPASSFILE names {}, which {reason}", printable(&shown)))
    };
    let found = fs::metadata(path).map_err(|e| refused(&format!("cannot be read: {e}")))?;
    if !found.is_file() {
        return Err(refused("is no file"));
    }
    if found.mode() & OTHERS != 0 {
        return Err(refused("others may read or write, so that it is not used: chmod 600"));
    }
    fs::File::open(path).map_err(|e| refused(&format!("cannot be read: {e}"))).map(drop)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_password_file_that_would_be_left_out_is_refused_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pgpass");
        let check =
            |path: &Path| check_password_file(Some(path.as_os_str())).map_err(|BadInput(words)| words);
        let missing = check(&file).unwrap_err();
        assert!(missing.contains("pgpass, which cannot be read: No such file"), "{missing}");
        assert!(check(folder.path()).unwrap_err().contains("is no file"));
        fs::write(&file, "*:*:*:me:swordfish").unwrap();
        for mode in [0o640, 0o604, 0o660, 0o644] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            let open = check(&file).unwrap_err();
            assert!(open.contains("chmod 600") && !open.contains("swordfish"), "{open}");
        }
        for mode in [0o600, 0o400] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            check(&file).unwrap();
        }
        check_password_file(None).unwrap();
        check_password_file(Some(OsStr::new(""))).unwrap();
    }
}
