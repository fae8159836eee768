//! The release of PostgreSQL that is fetched where a machine has none: its version, its archives, their checksums.

use crate::PostgresError;
use std::str::FromStr;
use thiserror::Error;

/// The release server, unless told otherwise.
pub const RELEASES: &str = "https://github.com/theseus-rs/postgresql-binaries/releases/download";
/// The one version that is fetched: PostgreSQL's own two numbers, and the number of the build.
const VERSION: &str = "18.6.0";
/// Its archives by target, each with its SHA-256. They are written here, so that a release server need not be trusted. With another version
/// all of them change; they are what `sha256sum` says, and what the file `.sha256` beside the archive says.
const ARCHIVES: [(&str, &str); 4] = [
    ("x86_64-unknown-linux-gnu", "bb3d09f876b2383e25a8c9ce09e32d185a03656a23d074f5195542b1b1b3ca61"),
    ("aarch64-unknown-linux-gnu", "5d2b5e8be9e96bfc3d7f22090057a836ec36d5d092542d8d3b93cc145cf4ee13"),
    ("x86_64-apple-darwin", "f8918fbe747e0d79bda58ad8f8afcf23ac384b847ff3af18856f0825ba54b031"),
    ("aarch64-apple-darwin", "a257bcdb8aa3301a13d6a5bcec48f8c9517045b7cbae71e50788b2615539e95b"),
];

/// The target that this program was built for, of those that have archives.
const fn target() -> Option<&'static str> {
    let is_gnu = cfg!(all(target_os = "linux", target_env = "gnu"));
    let is_mac = cfg!(target_os = "macos");
    let is_intel = cfg!(target_arch = "x86_64");
    let is_arm = cfg!(target_arch = "aarch64");
    match (is_gnu, is_mac, is_intel, is_arm) {
        (true, _, true, _) => Some("x86_64-unknown-linux-gnu"),
        (true, _, _, true) => Some("aarch64-unknown-linux-gnu"),
        (_, true, true, _) => Some("x86_64-apple-darwin"),
        (_, true, _, true) => Some("aarch64-apple-darwin"),
        _ => None,
    }
}

/// One archive of PostgreSQL's programs, as a release server has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// The version, three numbers.
    pub version: String,
    /// What it was built for, as Rust's compilers name it.
    pub target: String,
    /// The archive's SHA-256, 64 hexadecimal digits in lower case.
    pub sha256: String,
}

impl Release {
    /// The one that this machine fetches.
    ///
    /// # Errors
    /// [`PostgresError::NoRelease`] where there is none for its system or its processor.
    pub fn for_this_machine() -> Result<Self, PostgresError> {
        let found = ARCHIVES.iter().find(|(name, _)| Some(*name) == target());
        let (target, sha256) = found.ok_or(PostgresError::NoRelease)?;
        Ok(Self { version: VERSION.to_owned(), target: (*target).to_owned(), sha256: (*sha256).to_owned() })
    }

    /// The name of its folder in the cache.
    pub(crate) fn folder(&self) -> String {
        format!("{}-{}", self.version, self.target)
    }

    /// The folder that the archive has everything in.
    pub(crate) fn stem(&self) -> String {
        format!("postgresql-{}-{}", self.version, self.target)
    }

    /// Where its archive lies on a release server.
    pub(crate) fn url(&self, server: &str) -> String {
        format!("{server}/{}/{}.tar.gz", self.version, self.stem())
    }
}

/// Where releases are fetched from. As text: a URL, or `none`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Releases {
    /// Nothing is fetched; what was fetched before serves.
    None,
    /// The release server of this URL, whose folders are named by versions.
    At(String),
}

/// Why a text names no release server. It does not repeat the text, which may hold a password.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct ReleasesError(&'static str);

impl FromStr for Releases {
    type Err = ReleasesError;

    fn from_str(text: &str) -> Result<Self, ReleasesError> {
        if text == "none" {
            return Ok(Self::None);
        }
        let not_a_url =
            ReleasesError("a release server is a URL, http://HOST/PATH or https://HOST/PATH, or none");
        let Ok(url) = text.parse::<ureq::http::Uri>() else { return Err(not_a_url) };
        let is_http = matches!(url.scheme_str(), Some("http" | "https"));
        let Some(authority) = url.authority().filter(|_| is_http) else { return Err(not_a_url) };
        if authority.as_str().contains('@') {
            return Err(ReleasesError("a release server's URL takes no user and no password"));
        }
        if url.query().is_some() || text.contains('#') {
            return Err(ReleasesError("a release server's URL takes no query and no fragment"));
        }
        Ok(Self::At(text.trim_end_matches('/').to_owned()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn every_archive_has_its_place_and_a_checksum() {
        for (target, sha256) in ARCHIVES {
            let release =
                Release { version: VERSION.to_owned(), target: target.to_owned(), sha256: sha256.to_owned() };
            assert!(
                sha256.len() == 64 && sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')),
                "{sha256}"
            );
            let expected = format!("{RELEASES}/{VERSION}/postgresql-{VERSION}-{target}.tar.gz");
            assert_eq!(release.url(RELEASES), expected);
        }
        let ours = Release::for_this_machine();
        assert_eq!(ours.is_ok(), target().is_some(), "{ours:?}");
    }

    #[test]
    fn a_release_server_is_a_url_without_secrets_or_none() {
        assert_eq!("none".parse::<Releases>().unwrap(), Releases::None);
        for url in [RELEASES, "http://127.0.0.1:8080/postgresql/", "https://[::1]"] {
            let expected = Releases::At(url.trim_end_matches('/').to_owned());
            assert_eq!(url.parse::<Releases>().unwrap(), expected);
        }
        for text in [
            "",
            "nowhere",
            "None",
            "/srv/postgresql",
            "file:///srv/postgresql",
            "ftp://h/x",
            "https://",
            "https:///x",
            "https://u:sw0rdfish@h/x",
            "https://h/x?key=sw0rdfish",
            "https://h/x#sw0rdfish",
            "https://h/ sw0rdfish",
        ] {
            let error = text.parse::<Releases>().unwrap_err().to_string();
            assert!(error.starts_with("a release server") && !error.contains("sw0rdfish"), "{text}: {error}");
        }
    }
}
