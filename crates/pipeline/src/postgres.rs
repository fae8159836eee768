//! The programs of a private PostgreSQL: the machine's own, or fetched once into the cache, with a bar.

use crate::local::cluster_error;
use clap::Args;
use embedded_postgres::{Fetch, Limits, PostgresError, Programs, Release, Releases, Step};
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    cell::Cell,
    io::IsTerminal,
    path::{Path, PathBuf},
};

/// Where the programs of a private PostgreSQL come from.
#[derive(Debug, Clone, Args)]
pub struct PostgresArgs {
    /// Take PostgreSQL's server programs from this folder, and fetch none [default: the first in PATH, or in the usual folders].
    #[arg(long, env = "ROUNDHOUSE_POSTGRES_BIN", value_name = "FOLDER")]
    pub postgres_bin: Option<PathBuf>,
    /// Fetch PostgreSQL, where it is not installed, from this release server, a URL, and only once; with none, fetch nothing.
    #[arg(
        long,
        env = "ROUNDHOUSE_POSTGRESQL_RELEASES",
        value_name = "URL",
        default_value = embedded_postgres::RELEASES
    )]
    pub postgresql_releases: Releases,
}

impl PostgresArgs {
    /// The server programs for a server in this data folder. Fetching them takes as long as the line does for some 20 MB; a signal ends the process meanwhile, and nothing of
    /// it counts then.
    ///
    /// # Errors
    /// [`cli_support::BadInput`] when a folder is no place for them, or for the server; else as [`PostgresError`] says.
    pub async fn programs(&self, data: &Path) -> anyhow::Result<Programs> {
        let (args, data) = (self.clone(), data.to_owned());
        tokio::task::spawn_blocking(move || args.find_or_fetch(&data)).await?.map_err(cluster_error)
    }

    fn find_or_fetch(&self, data: &Path) -> Result<Programs, PostgresError> {
        let found = match &self.postgres_bin {
            Some(folder) => return embedded_postgres::programs_in(folder),
            None => embedded_postgres::find_programs(),
        };
        if !matches!(found, Err(PostgresError::NotInstalled)) {
            return found;
        }
        // Nothing is fetched for a server that could not start.
        embedded_postgres::check_passage(data)?;
        let (release, cache) = (Release::for_this_machine()?, cache_folder());
        let progress = Progress::new();
        let fetch = Fetch {
            releases: &self.postgresql_releases,
            release: &release,
            cache: &cache,
            limits: Limits::default(),
            progress: &|step| progress.show(step),
        };
        let result = fetch.programs();
        progress.bar.finish_and_clear();
        result
    }
}

/// The cache folder: root's own is closed to the user that root's server runs as, so that root takes the system's.
fn cache_folder() -> PathBuf {
    // A relative one says nothing, by the rules for this variable.
    let given = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = std::env::var_os("HOME").filter(|_| !rustix::process::geteuid().is_root());
    let home = home.map(|home| PathBuf::from(home).join(".cache"));
    given.or(home).unwrap_or_else(|| PathBuf::from("/var/cache"))
}

/// A bar, or lines where there is no terminal.
struct Progress {
    bar: ProgressBar,
    is_terminal: bool,
    /// The tenths of the archive that were told of, and one more; 0 before the first.
    tenths: Cell<u64>,
}

impl Progress {
    fn new() -> Self {
        let style = ProgressStyle::with_template("{prefix:>17} {bar:40} {bytes}/{total_bytes} {msg}");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::no_length().with_style(style).with_prefix("PostgreSQL");
        let bar = cli_support::bars().add(bar);
        Self { bar, is_terminal: std::io::stderr().is_terminal(), tenths: Cell::new(0) }
    }

    fn show(&self, step: Step<'_>) {
        match step {
            Step::Waiting => {
                tracing::info!("PostgreSQL is not installed here; another process is fetching it: waiting");
            }
            Step::Downloading { url, received, total } => self.show_download(url, received, total),
            Step::Unpacking => self.bar.set_message("unpacking"),
            Step::Done { folder } => {
                tracing::info!("PostgreSQL is in {}, and is not fetched again", folder.display());
            }
        }
    }

    fn show_download(&self, url: &str, received: u64, total: Option<u64>) {
        if let Some(total) = total {
            self.bar.set_length(total);
        }
        self.bar.set_position(received);
        if self.tenths.get() == 0 {
            tracing::info!("PostgreSQL is not installed here: fetching {url}");
            self.tenths.set(1);
        }
        let tenths = total.filter(|total| *total > 0).map_or(0, |total| received * 10 / total);
        if !self.is_terminal && tenths >= self.tenths.get() {
            tracing::info!("fetched {} % of PostgreSQL", tenths * 10);
            self.tenths.set(tenths + 1);
        }
    }
}
