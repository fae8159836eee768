//! One file from a release server, within limits of size and time.

use crate::limits::{Limits, Step};
use sha2::{Digest, Sha256};
use std::{
    fmt::Write as _,
    fs::File,
    io::{ErrorKind, Read, Write},
    sync::Arc,
};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Error, Timeout};

/// A release server may send us on, to where its files lie.
const REDIRECTS_MAX: u32 = 5;
const BUFFER_BYTES: usize = 1 << 16;

/// Writes what the URL gives to the file, and returns its SHA-256 in hexadecimal digits; or why not.
pub(crate) fn download(
    url: &str,
    file: &mut File,
    limits: &Limits,
    progress: &dyn Fn(Step<'_>),
) -> Result<String, String> {
    let in_words = |error| in_words(error, limits);
    let response = agent(url, limits).get(url).call().map_err(in_words)?;
    let total = response.body().content_length();
    if let Some(bytes) = total.filter(|bytes| *bytes > limits.archive_bytes) {
        return Err(format!("it has {bytes} bytes, and {} are allowed", limits.archive_bytes));
    }
    let mut body = response.into_body().into_reader();
    let mut buffer = vec![0; BUFFER_BYTES];
    let (mut hasher, mut received) = (Sha256::new(), 0);
    progress(Step::Downloading { url, received, total });
    loop {
        let read = match body.read(&mut buffer) {
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => 0,
            read => read.map_err(|e| in_words(e.into()))?,
        };
        if read == 0 {
            break;
        }
        received += read as u64;
        if received > limits.archive_bytes {
            return Err(format!("it has more than the {} bytes that are allowed", limits.archive_bytes));
        }
        hasher.update(&buffer[..read]);
        file.write_all(&buffer[..read]).map_err(|e| format!("it cannot be written: {e}"))?;
        progress(Step::Downloading { url, received, total });
    }
    if let Some(bytes) = total.filter(|bytes| *bytes != received) {
        return Err(format!("the connection ended after {received} of {bytes} bytes"));
    }
    Ok(hasher.finalize().iter().fold(String::new(), |mut digits, byte| {
        // Writing to a string cannot fail.
        let _ = write!(digits, "{byte:02x}");
        digits
    }))
}

/// The client. It trusts the authorities that the system trusts, and uses the proxy of `HTTPS_PROXY`, as other programs do: what it brings is
/// checked by its checksum.
fn agent(url: &str, limits: &Limits) -> Agent {
    let authorities = rustls_native_certs::load_native_certs().certs;
    let authorities = authorities.iter().map(|found| Certificate::from_der(found).to_owned());
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::Specific(Arc::new(authorities.collect())))
        // Another crate of the program may bring a second one, and then there is no default.
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build();
    Agent::config_builder()
        .https_only(url.starts_with("https:"))
        .max_redirects(REDIRECTS_MAX)
        .timeout_resolve(Some(limits.silence))
        .timeout_connect(Some(limits.silence))
        .timeout_send_request(Some(limits.silence))
        .timeout_recv_response(Some(limits.silence))
        .timeout_per_read(Some(limits.silence))
        .timeout_global(Some(limits.total))
        .user_agent(concat!("roundhouse/", env!("CARGO_PKG_VERSION")))
        .tls_config(tls)
        .build()
        .into()
}

fn in_words(error: Error, limits: &Limits) -> String {
    match error {
        Error::StatusCode(404) => "the server has no such file (status 404)".to_owned(),
        Error::StatusCode(status) => format!("the server answers with status {status}"),
        Error::Timeout(Timeout::Global) => format!("it takes longer than {} s", limits.total.as_secs()),
        Error::Timeout(_) => format!("the server was silent for {} s", limits.silence.as_secs()),
        Error::TooManyRedirects => format!("the server redirects more than {REDIRECTS_MAX} times"),
        Error::RequireHttpsOnly(_) => {
            "the server redirects from https to a URL without encryption".to_owned()
        }
        Error::HostNotFound => "there is no host of this name".to_owned(),
        Error::Rustls(reason) => format!("the connection is not encrypted as it should be: {reason}"),
        Error::Protocol(reason) => format!("what the server answers is not HTTP: {reason}"),
        Error::Io(reason) => reason.to_string(),
        other => other.to_string(),
    }
}
