//! How the binaries start and end: settings, logs, signals, exit statuses. What they have in common, and nothing of what
//! they do.

mod control_groups;
mod first_process;
mod keys;
mod limits;
mod machine;
mod outputs;
mod password_file;
mod settings;
mod signals;
mod systems;

pub use first_process::as_first_process;
pub use keys::{MovedKeys, fetch_keys, key_files, publish_keys};
pub use limits::{days, hours, milliseconds, places, seconds};
pub use machine::{Memory, machine_memory, machine_threads, size_thread_pool};
pub use outputs::{check_output_folder, default_output_folder, write_outputs};
pub use private_folder::keep_files_private;
pub use settings::{
    DefaultValue, Effective, SETTINGS, Setting, command, effective_settings, parse, parse_from,
};
pub use signals::{DRAINING, shutdown_on_signal};
pub use systems::{Opening, ProofSystemArgs, ProofSystems, VerifierArgs, load_keys, verifier_in_words};

use anyhow::Context;
use artifact_store::ArtifactStore;
use clap::Args;
use job_store::{DatabaseUrl, JobStore};
use outside::printable_log_line;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{
    convert::Infallible, fmt, io::Write, path::PathBuf, process::ExitCode, str::FromStr, sync::LazyLock,
};

/// Exit status when the work failed, or a proof is refused.
const FAILED: u8 = 1;
/// Exit status when the input or the call is wrong; nothing was done.
const BAD_INPUT: u8 = 2;
/// Exit status after a second signal: that of a shell's Ctrl-C.
const STOPPED_AT_ONCE: i32 = 130;

/// The user's input or call is wrong, as opposed to something around it: exit status 2, nothing was changed.
#[derive(Debug)]
pub struct BadInput(pub String);

impl fmt::Display for BadInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadInput {}

/// A text that may hold a password; it is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text, for the one who needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

impl FromStr for Secret {
    /// Any text is taken, so that no error message can repeat it.
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

/// Where the database is.
#[derive(Debug, Clone, Args)]
pub struct DatabaseArgs {
    /// The database's URL, postgres://USER:PASSWORD@HOST:PORT/DATABASE. Holds a password: prefer the environment or the
    /// file.
    #[arg(long, env = "DATABASE_URL")]
    pub database_url: Option<Secret>,
}

impl DatabaseArgs {
    /// The URL.
    ///
    /// # Errors
    /// [`BadInput`] when there is none, or it is not valid, or `PGPASSFILE` names a file that would not be used.
    pub fn url(&self) -> anyhow::Result<DatabaseUrl> {
        database_url(self.database_url.as_ref())
    }
}

/// Where artifacts are.
#[derive(Debug, Clone, Args)]
pub struct ObjectStoreArgs {
    /// The object store: a folder, or a URL (file:, s3:, gs:, az:).
    #[arg(long, env = "ROUNDHOUSE_OBJECT_STORE")]
    pub object_store: Option<String>,
}

impl ObjectStoreArgs {
    /// Opens the store.
    ///
    /// # Errors
    /// [`BadInput`] when none is named, or what is named is none.
    pub fn open(&self) -> anyhow::Result<ArtifactStore> {
        let url = self.object_store.as_deref().ok_or_else(|| {
            BadInput("no object store is named: set --object-store to a folder or a URL".to_owned())
        })?;
        ArtifactStore::open(url).map_err(|e| BadInput(e.to_string()).into())
    }
}

/// What every program takes, at any level of its commands.
#[derive(Debug, Clone, Args)]
pub struct CommonArgs {
    /// A TOML file of settings; flags and environment variables go before it. See docs/configuration.md.
    #[arg(long, global = true, env = "ROUNDHOUSE_CONFIG")]
    pub config: Option<PathBuf>,
    /// How logs are written, to standard error; RUST_LOG filters them.
    #[arg(long, global = true, value_enum, default_value = "text", env = "ROUNDHOUSE_LOG_FORMAT")]
    pub log_format: LogFormat,
}

/// Checks a URL that may not have been given.
///
/// # Errors
/// [`BadInput`] when there is none, or it is not valid.
pub fn database_url(given: Option<&Secret>) -> anyhow::Result<DatabaseUrl> {
    // An empty variable is how a shell leaves one out.
    let url = given.filter(|url| !url.expose().is_empty()).ok_or_else(|| {
        BadInput(
            "no database is named: set DATABASE_URL, or database_url in the configuration file".to_owned(),
        )
    })?;
    password_file::check_password_file(std::env::var_os("PGPASSFILE").as_deref())?;
    Ok(DatabaseUrl::new(url.expose()).map_err(|e| BadInput(e.to_string()))?)
}

/// Connects, and checks that the schema is this program's.
///
/// # Errors
/// Says what is missing and what to do.
pub async fn connect(url: &DatabaseUrl) -> anyhow::Result<JobStore> {
    let store = JobStore::connect(url)
        .await
        .context("is PostgreSQL running, and is the database URL the right one?")?;
    store.check_schema().await?;
    Ok(store)
}

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The progress bars of this process: drawn where there is a terminal, with log lines above them.
pub fn bars() -> &'static indicatif::MultiProgress {
    static BARS: LazyLock<indicatif::MultiProgress> = LazyLock::new(indicatif::MultiProgress::new);
    &BARS
}

/// Standard error, with the bars out of the way while a line is written. Rows, files and programs have a say in what a line holds: it stays
/// one line, and a terminal obeys nothing in it.
struct AboveBars;

impl Write for AboveBars {
    /// Takes one event at a time, which is how the subscriber writes.
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let (event, end) = text.strip_suffix('\n').map_or((&*text, ""), |event| (event, "\n"));
        let shown = format!("{}{end}", printable_log_line(event));
        bars().suspend(|| std::io::stderr().write_all(shown.as_bytes()))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

/// The driver quotes the lines of a password file that it cannot read; the HTTP client names a connection by its URL's user and password.
const SECRETIVE: [&str; 2] = ["sqlx_postgres::options::pgpass", "hyper_util::client::legacy::pool"];

/// Starts logging to standard error; `RUST_LOG` filters.
pub fn init_logging(format: LogFormat) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,sqlx=warn"));
    // Libraries that log what may hold a password. Of the directives the most exact one holds, whatever RUST_LOG says.
    let filter = SECRETIVE.iter().fold(filter, |filter, library| {
        // Unwrap safety: the texts are constants, and directives.
        #[expect(clippy::expect_used, reason = "the texts are constants")]
        filter.add_directive(format!("{library}=off").parse().expect("a directive"))
    });
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| AboveBars);
    match format {
        LogFormat::Text => {
            builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).with_target(false).init();
        }
        LogFormat::Json => builder.json().init(),
    }
}

/// Runs a future on a runtime of its own.
///
/// # Errors
/// The future's.
pub fn with_runtime<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    raise_descriptor_limit();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = machine::threads_beside_its_own_count("TOKIO_WORKER_THREADS") {
        runtime.worker_threads(threads);
    }
    let runtime = runtime.enable_all().build()?;
    let result = runtime.block_on(work);
    // An execution that outlasted the drain timeout is released already; its thread is not waited for.
    runtime.shutdown_background();
    result
}

/// Raises the limit of open descriptors to what the system allows. The default of 1,024 is for programs that use `select`.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    if let Err(e) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::debug!("the limit of open descriptors stays {:?}: {e}", limit.current);
    }
}

/// The exit status of a result, whose error is logged.
#[must_use]
pub fn exit_code(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            let is_bad_input = error.chain().any(<dyn std::error::Error>::is::<BadInput>);
            ExitCode::from(if is_bad_input { BAD_INPUT } else { FAILED })
        }
    }
}
