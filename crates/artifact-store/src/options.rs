//! Which environment variables an object store takes.
//!
//! The library that speaks to the stores knows its options under short names too (`token`, `endpoint`, `timeout`), and would
//! take each from a variable of that name, which other programs set for themselves. So only what is in [`VARIABLES`] reaches
//! it. Nothing in it turns off a check of certificates.

/// An environment variable that an object store takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variable {
    /// Its name, in upper case as it must be written.
    pub name: &'static str,
    /// What it is for, behind the provider that takes it.
    pub purpose: &'static str,
}

const fn variable(name: &'static str, purpose: &'static str) -> Variable {
    Variable { name, purpose }
}

/// Every variable that an object store takes; `docs/object-store.md` shows the same table.
pub const VARIABLES: &[Variable] = &[
    variable("AWS_ACCESS_KEY_ID", "S3: the key's id"),
    variable("AWS_SECRET_ACCESS_KEY", "S3: the key's secret"),
    variable("AWS_SESSION_TOKEN", "S3: the token of temporary credentials"),
    variable("AWS_REGION", "S3: the bucket's region"),
    variable("AWS_DEFAULT_REGION", "S3: the region where AWS_REGION is not set"),
    variable("AWS_ENDPOINT", "S3: another server than Amazon's"),
    variable("AWS_ENDPOINT_URL", "S3: the same, under the name that Amazon's tools use"),
    variable("AWS_ENDPOINT_URL_S3", "S3: the same, for S3 alone"),
    variable("AWS_ENDPOINT_URL_STS", "S3: another server for temporary credentials"),
    variable("AWS_ALLOW_HTTP", "S3: true allows a server without TLS"),
    variable("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "S3: true puts the bucket into the host's name"),
    variable("AWS_WEB_IDENTITY_TOKEN_FILE", "S3: a file with the token of a web identity"),
    variable("AWS_ROLE_ARN", "S3: the role of the web identity"),
    variable("AWS_ROLE_SESSION_NAME", "S3: the name of the role's session"),
    variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "S3: where a container gets its credentials"),
    variable("AWS_CONTAINER_CREDENTIALS_FULL_URI", "S3: the same, as a whole URL"),
    variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "S3: a file with the token for that URL"),
    variable("AWS_METADATA_ENDPOINT", "S3: another server for the machine's own credentials"),
    variable("AWS_IMDSV1_FALLBACK", "S3: true allows version 1 of that server"),
    variable("AWS_SKIP_SIGNATURE", "S3: true sends requests without a signature"),
    variable("AWS_UNSIGNED_PAYLOAD", "S3: true leaves bodies out of signatures"),
    variable("AWS_CHECKSUM_ALGORITHM", "S3: the checksum of what is written"),
    variable("AWS_S3_EXPRESS", "S3: true for a bucket of the express class"),
    variable("AWS_REQUEST_PAYER", "S3: true has the requester pay"),
    variable("AWS_SERVER_SIDE_ENCRYPTION", "S3: how the server encrypts"),
    variable("AWS_SSE_KMS_KEY_ID", "S3: the key that it encrypts with"),
    variable("AWS_SSE_BUCKET_KEY_ENABLED", "S3: true for the bucket's own key"),
    variable("AWS_SSE_CUSTOMER_KEY_BASE64", "S3: a key of the customer's"),
    variable("AWS_TIMEOUT", "S3: the longest time of a request, with its unit, such as 30s"),
    variable("AWS_CONNECT_TIMEOUT", "S3: the longest time of connecting, with its unit"),
    variable("GOOGLE_SERVICE_ACCOUNT", "Google: the file of a service account"),
    variable("GOOGLE_SERVICE_ACCOUNT_PATH", "Google: the same"),
    variable("GOOGLE_SERVICE_ACCOUNT_KEY", "Google: that file's content"),
    variable("GOOGLE_APPLICATION_CREDENTIALS", "Google: the file of application credentials"),
    variable("GOOGLE_BEARER_TOKEN", "Google: a token"),
    variable("GOOGLE_BASE_URL", "Google: another server than Google's"),
    variable("GOOGLE_ALLOW_HTTP", "Google: true allows a server without TLS"),
    variable("GOOGLE_SKIP_SIGNATURE", "Google: true sends requests without credentials"),
    variable("GOOGLE_TIMEOUT", "Google: the longest time of a request, with its unit"),
    variable("GOOGLE_CONNECT_TIMEOUT", "Google: the longest time of connecting, with its unit"),
    variable("AZURE_STORAGE_ACCOUNT_NAME", "Azure: the account"),
    variable("AZURE_STORAGE_ACCOUNT_KEY", "Azure: its key"),
    variable("AZURE_STORAGE_SAS_TOKEN", "Azure: a shared access signature"),
    variable("AZURE_STORAGE_SAS_KEY", "Azure: the same"),
    variable("AZURE_STORAGE_TOKEN", "Azure: a token"),
    variable("AZURE_CLIENT_ID", "Azure: the client's id"),
    variable("AZURE_CLIENT_SECRET", "Azure: its secret"),
    variable("AZURE_TENANT_ID", "Azure: the tenant"),
    variable("AZURE_AUTHORITY_HOST", "Azure: another server for tokens"),
    variable("AZURE_FEDERATED_TOKEN_FILE", "Azure: a file with the token of a workload's identity"),
    variable("AZURE_MSI_ENDPOINT", "Azure: the server of a managed identity"),
    variable("AZURE_IDENTITY_ENDPOINT", "Azure: the same"),
    variable("AZURE_OBJECT_ID", "Azure: the managed identity's object"),
    variable("AZURE_MSI_RESOURCE_ID", "Azure: the managed identity's resource"),
    variable("AZURE_CREDENTIAL_TYPE", "Azure: which kind of credentials to take"),
    variable("AZURE_USE_AZURE_CLI", "Azure: true takes the token of the tool az"),
    variable("AZURE_STORAGE_ENDPOINT", "Azure: another server than Azure's"),
    variable("AZURE_ENDPOINT", "Azure: the same"),
    variable("AZURE_STORAGE_USE_EMULATOR", "Azure: true for the local emulator"),
    variable("AZURE_STORAGE_ENCRYPTION_KEY", "Azure: a key of the customer's"),
    variable("AZURE_ALLOW_HTTP", "Azure: true allows a server without TLS"),
    variable("AZURE_SKIP_SIGNATURE", "Azure: true sends requests without a signature"),
    variable("AZURE_TIMEOUT", "Azure: the longest time of a request, with its unit"),
    variable("AZURE_CONNECT_TIMEOUT", "Azure: the longest time of connecting, with its unit"),
];

/// The variables whose value is the address of a server.
const SERVERS: &[&str] = &[
    "AWS_ENDPOINT",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL_STS",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_METADATA_ENDPOINT",
    "GOOGLE_BASE_URL",
    "AZURE_AUTHORITY_HOST",
    "AZURE_MSI_ENDPOINT",
    "AZURE_IDENTITY_ENDPOINT",
    "AZURE_STORAGE_ENDPOINT",
    "AZURE_ENDPOINT",
];

/// The one variable that holds a text of several lines.
const OF_LINES: &str = "GOOGLE_SERVICE_ACCOUNT_KEY";

/// The options that the environment gives, under the library's names, which are the variables' in lower case.
///
/// # Errors
/// What is wrong with which variable; its value is not shown.
pub(crate) fn from_environment() -> Result<Vec<(&'static str, String)>, String> {
    options_of(|name| std::env::var(name).ok())
}

fn options_of(value: impl Fn(&str) -> Option<String>) -> Result<Vec<(&'static str, String)>, String> {
    let given = VARIABLES.iter().filter_map(|variable| Some((variable.name, value(variable.name)?)));
    // An empty variable is how a shell leaves one out.
    given
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| check(name, &value).map(|()| (name, value)))
        .collect()
}

/// That the library can use a value. It would stop the process where not.
fn check(name: &str, value: &str) -> Result<(), String> {
    if name != OF_LINES && value.contains(|c: char| !matches!(c, ' '..='~')) {
        return Err(format!(
            "{name} holds a line's end or another character that a request cannot carry: set it again without, such as by \
             {name}=$(cat FILE), which drops the line's end"
        ));
    }
    if !SERVERS.contains(&name) {
        return Ok(());
    }
    let url =
        url::Url::parse(value).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    match url {
        None => Err(format!(
            "{name} is not the address of a server: it must begin with http:// or https:// and name a host"
        )),
        Some(url) if !url.username().is_empty() || url.password().is_some() => {
            Err(format!("{name} holds a user or a password: credentials have variables of their own"))
        }
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use object_store::{
        ClientConfigKey, aws::AmazonS3ConfigKey, azure::AzureConfigKey, gcp::GoogleConfigKey,
    };

    #[test]
    fn only_the_providers_variables_are_taken_and_the_library_knows_each() {
        for Variable { name, .. } in VARIABLES {
            let key = name.to_ascii_lowercase();
            let is_known = match name.split('_').next().unwrap() {
                "AWS" => key.parse::<AmazonS3ConfigKey>().is_ok(),
                "GOOGLE" => key.parse::<GoogleConfigKey>().is_ok(),
                "AZURE" => key.parse::<AzureConfigKey>().is_ok(),
                _ => false,
            };
            assert!(is_known, "{name}");
        }
    }

    #[test]
    fn no_variable_turns_a_check_of_certificates_off_or_sends_requests_elsewhere_by_a_proxy() {
        for Variable { name, .. } in VARIABLES {
            let key = name.to_ascii_lowercase();
            let forbidden = [
                ClientConfigKey::AllowInvalidCertificates,
                ClientConfigKey::ProxyUrl,
                ClientConfigKey::ProxyCaCertificate,
            ];
            for forbidden in forbidden {
                assert_ne!(key.parse().ok(), Some(AmazonS3ConfigKey::Client(forbidden)), "{name}");
                assert_ne!(key.parse().ok(), Some(GoogleConfigKey::Client(forbidden)), "{name}");
                assert_ne!(key.parse().ok(), Some(AzureConfigKey::Client(forbidden)), "{name}");
            }
        }
    }

    #[test]
    fn an_environment_where_everything_is_set_gives_these_alone() {
        let everything = |name: &str| Some(format!("https://{name}"));
        let given = options_of(everything).unwrap();
        assert_eq!(given.len(), VARIABLES.len());
        assert!(given.iter().all(|(name, value)| *value == format!("https://{name}")));
        assert!(options_of(|_| Some(String::new())).unwrap().is_empty());
    }

    #[test]
    fn a_value_that_would_stop_the_library_is_refused_by_its_name_alone() {
        for Variable { name, .. } in VARIABLES {
            for value in ["swordfish\n", "sword\rfish", "schwertfisch\u{df}", "\u{0}swordfish"] {
                let refused = options_of(|asked| (asked == *name).then(|| value.to_owned()));
                match refused {
                    Ok(_) => assert_eq!(*name, OF_LINES),
                    Err(words) => assert!(words.contains(name) && !words.contains("fish"), "{words}"),
                }
            }
        }
        for name in SERVERS {
            assert!(VARIABLES.iter().any(|variable| variable.name == *name), "{name}");
            for value in ["minio:9000", "minio", "http://", "ftp://minio", "http://me:swordfish@minio:9000"] {
                let words = options_of(|asked| (asked == *name).then(|| value.to_owned())).unwrap_err();
                assert!(words.contains(name) && !words.contains("swordfish"), "{words}");
            }
            options_of(|asked| (asked == *name).then(|| "http://minio:9000/".to_owned())).unwrap();
        }
    }

    #[test]
    fn the_table_in_the_docs_is_that_of_the_code() {
        let mut table = "| variable | what it is for |\n|---|---|\n".to_owned();
        for Variable { name, purpose } in VARIABLES {
            table += &format!("| `{name}` | {purpose} |\n");
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/object-store.md");
        let found = std::fs::read_to_string(path).unwrap();
        let (head, _) = found.split_once("| variable |").unwrap();
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, format!("{head}{table}")).unwrap();
            return;
        }
        assert!(
            found == format!("{head}{table}"),
            "docs/object-store.md is out of date: UPDATE_DOCS=1 cargo test -p artifact-store"
        );
    }
}
