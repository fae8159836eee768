//! URLs in messages: without user, password and query.

use url::Url;

/// What stands where a part is left out that may hold a secret.
const HIDDEN: &str = "(hidden)";

/// A URL as a message may show it: scheme, host, port and path. User and password, query and fragment are left out, since each may
/// hold a secret. A text that is no URL, such as a path, is shown as far as it can hold none.
#[must_use]
pub fn shown(url: &str) -> String {
    let text = crate::printable(url);
    // A plain path has neither.
    if !text.contains(':') {
        return text.into_owned();
    }
    let (base, rest) = text.split_once(['?', '#']).unwrap_or((&text, ""));
    let Some((scheme, after)) = base.split_once("://") else {
        return base.rsplit_once('@').map_or_else(
            || if rest.contains('@') { HIDDEN.to_owned() } else { base.to_owned() },
            |(_, after)| format!("{HIDDEN}@{after}"),
        );
    };
    // An unescaped '/', '?' or '#' in a password moves what a parser takes for the host, so an '@' anywhere counts.
    let parsed = Url::parse(base).ok();
    let authority = after.split('/').next().unwrap_or_default();
    let is_plain = parsed.is_some_and(|url| {
        let has_user = !url.username().is_empty() || url.password().is_some() || authority.contains('@');
        // Ports are the web's: elsewhere what looks like one may be the begin of a password.
        !has_user && (url.port().is_none() || matches!(scheme, "http" | "https"))
    });
    match after.rsplit_once('@') {
        _ if is_plain && (after.contains('/') || !rest.contains('@')) => format!("{scheme}://{after}"),
        Some((_, host)) => format!("{scheme}://{host}"),
        None if rest.contains('@') => format!("{scheme}://{HIDDEN}"),
        None => {
            // What looks like a port and is no number may be a password.
            let (authority, path) = after.split_once('/').map_or((after, ""), |(host, path)| (host, path));
            let slash = if after.contains('/') { "/" } else { "" };
            match authority.rsplit_once(':') {
                Some((host, port)) if !authority.ends_with(']') && port.parse::<u16>().is_err() => {
                    format!("{scheme}://{host}:{HIDDEN}{slash}{path}")
                }
                _ => format!("{scheme}://{after}"),
            }
        }
    }
}

/// A library's words about a URL, in which it may have quoted the URL or parts of it: these are shown as [`shown`] does.
#[must_use]
pub fn without_secrets(words: &str, url: &str) -> String {
    let plain = shown(url);
    let mut words = words.replace(url, &plain);
    if let Ok(parsed) = Url::parse(url) {
        words = words.replace(parsed.as_str(), &plain);
        if let Some(query) = parsed.query().filter(|query| !query.is_empty()) {
            words = words.replace(&format!("?{query}"), "");
        }
        if let Some(password) = parsed.password().filter(|password| !password.is_empty()) {
            words = words.replace(&format!("{}:{password}@", parsed.username()), "");
            words = words.replace(&format!(":{password}"), &format!(":{HIDDEN}"));
        } else if !parsed.username().is_empty() {
            words = words.replace(&format!("{}@", parsed.username()), "");
        }
    }
    if let Some(user) =
        url.split_once("://").and_then(|(_, rest)| rest.rsplit_once('@')).map(|(user, _)| user)
    {
        words = words.replace(&format!("{user}@"), "");
    }
    if let Some((_, query)) = url.split_once('?').filter(|(_, query)| !query.is_empty()) {
        words = words.replace(&format!("?{query}"), "");
    }
    with_urls_shown(&words)
}

/// A library's words, in which it may have quoted URLs that we did not give it, such as that of an endpoint: each is shown as [`shown`]
/// does.
#[must_use]
pub fn with_urls_shown(words: &str) -> String {
    let mut out = String::with_capacity(words.len());
    let mut rest = words;
    while let Some(colon) = rest.find("://") {
        let is_scheme = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
        let begin = rest[..colon].trim_end_matches(is_scheme).len();
        let is_end = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`' | '<' | '>' | '(' | ')');
        let end = rest[colon..].find(is_end).map_or(rest.len(), |length| colon + length);
        let url = rest[begin..end].trim_end_matches([':', ',', '.', ';']);
        out.push_str(&rest[..begin]);
        out.push_str(&shown(url));
        out.push_str(&rest[begin + url.len()..end]);
        rest = &rest[end..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_what_may_be_secret() {
        for (url, expected) in [
            ("s3://bucket/prefix", "s3://bucket/prefix"),
            ("s3://bucket/a@b/c", "s3://bucket/a@b/c"),
            ("https://example.org:8443/a@b.csv", "https://example.org:8443/a@b.csv"),
            ("s3://KEY:swordfish@bucket/prefix", "s3://bucket/prefix"),
            ("s3://KEY:sword/swordfish@bucket/prefix", "s3://bucket/prefix"),
            ("s3://KEY:sword?swordfish@bucket/prefix", "s3://(hidden)"),
            ("s3://KEY:sword#swordfish@bucket", "s3://(hidden)"),
            ("s3://KEY:12/swordfish@bucket", "s3://bucket"),
            ("s3://KEY:sword/sword?swordfish@bucket", "s3://(hidden)"),
            ("https://me:sword/swordfish@host/x", "https://host/x"),
            ("https://swordfish@host/x", "https://host/x"),
            ("https://host/x?sig=swordfish", "https://host/x"),
            ("https://host/x#swordfish", "https://host/x"),
            ("postgres://me:swordfish@[::1]:5432/db?password=swordfish", "postgres://[::1]:5432/db"),
            ("s3:?secret=swordfish", "s3:"),
            ("az://account:swordfish", "az://account:(hidden)"),
            ("s3://bucket:swordfish/x", "s3://bucket:(hidden)/x"),
            ("mailto:swordfish@host", "(hidden)@host"),
            ("/a/path@home/x?y#z", "/a/path@home/x?y#z"),
            ("s3://bu\u{1b}[2Jcket/x", r"s3://bu\u001b[2Jcket/x"),
        ] {
            let found = shown(url);
            assert_eq!(found, expected, "{url}");
            assert!(!found.contains("swordfish"), "{found}");
        }
    }

    #[test]
    fn what_a_library_quotes_is_hidden() {
        let url = "https://me:sword fish@host/x y?sig=a b";
        for quoted in
            [url, "https://me:sword%20fish@host/x%20y?sig=a%20b", "https://me:sword%20fish@host/other"]
        {
            let words = without_secrets(&format!("cannot get {quoted}: refused"), url);
            assert!(!words.contains("fish") && !words.contains("sig="), "{words}");
            assert!(words.contains("host"), "{words}");
        }
    }

    #[test]
    fn urls_that_a_library_quotes_of_its_own_are_shown_without_secrets() {
        let words = "Error performing PUT https://me:swordfish@minio:9000/b/x?sig=swordfish in 1ms (http://a:swordfish@b), s3://c.";
        let expected = "Error performing PUT https://minio:9000/b/x in 1ms (http://b), s3://c.";
        assert_eq!(with_urls_shown(words), expected);
        for plain in ["", "no URL", "a :// b", "é://x", "://"] {
            assert_eq!(with_urls_shown(plain), plain);
        }
    }
}
