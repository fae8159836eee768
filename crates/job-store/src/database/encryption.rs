//! Whether connections are encrypted, and whom they trust.
//!
//! What leaves this machine is encrypted and goes to a server whose certificate was checked, unless the URL itself says otherwise. The
//! variable `PGSSLMODE` says nothing here: an environment must not turn encryption off.

use crate::model::error::StoreError;
use outside::read_limited;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use std::{net::IpAddr, path::Path};
use url::Url;

/// Bytes of a file of certificates at most: the largest in use has some hundred of them.
const CERTIFICATES_MAX: u64 = 4 << 20;

/// The options with the encryption that the URL asks for, or that its host demands.
pub(crate) fn encrypted(options: PgConnectOptions, url: &Url) -> Result<PgConnectOptions, StoreError> {
    let mode = parameter(url, "sslmode").or_else(|| parameter(url, "ssl-mode"));
    let roots = ["sslrootcert", "ssl-root-cert", "ssl-ca"].iter().find_map(|name| parameter(url, name));
    let client = [("sslcert", "ssl-cert"), ("sslkey", "ssl-key")]
        .map(|(name, other)| parameter(url, name).or_else(|| parameter(url, other)));
    if is_a_socket(&options) {
        // The kernel is the only one in between, and the server has no encryption to offer there.
        return Ok(options.ssl_mode(PgSslMode::Disable));
    }
    let is_here = is_loopback(options.get_host());
    let chosen = match mode.as_deref().map(str::to_ascii_lowercase).as_deref() {
        None if is_here => PgSslMode::Prefer,
        None => PgSslMode::VerifyFull,
        Some("disable") => PgSslMode::Disable,
        Some("allow" | "prefer") if !is_here => {
            return Err(invalid_url(
                "its sslmode lets whoever is in between turn encryption off: leave sslmode out, or say require, verify-ca or \
                 verify-full, or disable to send everything in clear",
            ));
        }
        Some("allow" | "prefer") => PgSslMode::Prefer,
        // As in PostgreSQL's own library: who names an authority wants it checked.
        Some("require") if roots.is_some() => PgSslMode::VerifyCa,
        Some("require") => PgSslMode::Require,
        Some("verify-ca") => PgSslMode::VerifyCa,
        Some("verify-full") => PgSslMode::VerifyFull,
        Some(_) => {
            return Err(invalid_url(
                "its sslmode is none of disable, prefer, require, verify-ca and verify-full",
            ));
        }
    };
    match roots.as_deref() {
        Some("system") if !matches!(chosen, PgSslMode::VerifyFull) => {
            return Err(invalid_url(
                "its sslrootcert=system trusts every public authority, so that only sslmode=verify-full means anything",
            ));
        }
        Some("system") | None => {}
        Some(file) => check_pem("sslrootcert", file, "-----BEGIN CERTIFICATE-----")?,
    }
    // The driver's checks ask for the process's cryptography, and two that are linked in would leave it without one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match client {
        [None, None] => {}
        [Some(certificate), Some(key)] => {
            check_pem("sslcert", &certificate, "-----BEGIN CERTIFICATE-----")?;
            check_pem("sslkey", &key, "PRIVATE KEY-----")?;
        }
        _ => return Err(invalid_url("it names only one of sslcert and sslkey")),
    }
    Ok(options.ssl_mode(chosen))
}

fn is_a_socket(options: &PgConnectOptions) -> bool {
    options.get_socket().is_some() || options.get_host().starts_with('/')
}

/// Whether a host is this machine, whatever a resolver says.
fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Refuses a file that cannot be read or holds nothing of the kind, before the first connection does so without a name.
fn check_pem(parameter: &str, file: &str, mark: &str) -> Result<(), StoreError> {
    if file.trim_start().starts_with("-----BEGIN") {
        return Ok(());
    }
    let bytes = read_limited(Path::new(file), CERTIFICATES_MAX)
        .map_err(|e| invalid_url(&format!("its {parameter}, {file}, cannot be read: {e}")))?;
    if String::from_utf8_lossy(&bytes).contains(mark) {
        return Ok(());
    }
    Err(invalid_url(&format!("its {parameter}, {file}, holds no line {mark:?}: it should be a PEM file")))
}

/// A failed connection's error, with what to do where encryption was at fault.
pub(crate) fn with_advice(error: sqlx::Error) -> sqlx::Error {
    let text = error.to_string();
    let advice = if text.contains("server does not support TLS") {
        "the server, or something in between, offers no encryption: turn ssl on there, or say sslmode=disable to send everything in clear"
    } else if text.contains("UnknownIssuer") || text.contains("BadSignature") {
        "its certificate is of no authority that this machine knows: name the authority's file as sslrootcert"
    } else if text.contains("not valid for name") || text.contains("NotValidForName") {
        "its certificate is another host's: connect by the name that it is for"
    } else if text.contains("CaUsedAsEndEntity") {
        "its certificate is an authority's own: let the server have one that an authority signed"
    } else {
        return error;
    };
    sqlx::Error::Tls(format!("{text}; {advice}").into())
}

/// The last value of a parameter, as the driver takes it.
pub(crate) fn parameter(url: &Url, name: &str) -> Option<String> {
    url.query_pairs().filter(|(key, _)| key == name).last().map(|(_, value)| value.into_owned())
}

/// Refuses the URL that this is part of, which the message does not repeat.
pub(crate) fn invalid_url(reason: &str) -> StoreError {
    StoreError::Invalid(format!("the database URL is not valid: {reason}"))
}
