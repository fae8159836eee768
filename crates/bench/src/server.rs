//! What benchmarks run on: a server of their own with its safe defaults, or a given one, and a fresh database on it.

use clap::Args;
use embedded_postgres::{EmbeddedPostgres, Options};
use job_store::{DatabaseUrl, JobStore};
use pipeline::local::{cluster_error, data_folder, open_work_folder};
use pipeline::postgres::PostgresArgs;
use private_folder::PrivateFolder;
use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

#[derive(Debug, Clone, Args)]
pub(crate) struct ServerArgs {
    /// A PostgreSQL server to measure, in databases that are created and dropped [default: a private one, with its durability
    /// as PostgreSQL ships it].
    #[arg(long)]
    database_url: Option<String>,
    /// Where the private one lies [default: the data folder].
    #[arg(long, env = "ROUNDHOUSE_DATA")]
    data: Option<PathBuf>,
    #[command(flatten)]
    postgres: PostgresArgs,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// A server to measure.
pub(crate) struct Server {
    admin: DatabaseUrl,
    postgres: Option<EmbeddedPostgres>,
    /// For files beside the server's, such as artifacts.
    pub(crate) folder: PrivateFolder,
    databases: AtomicU32,
}

impl Server {
    /// Opens it; `settings` are the private server's beside its defaults.
    pub(crate) async fn open(args: &ServerArgs, settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let folder = data_folder(args.data.clone()).join(format!("bench-{}", std::process::id()));
        let programs = match args.database_url {
            Some(_) => None,
            None => Some(args.postgres.programs(&folder).await?),
        };
        let folder = open_work_folder(&folder)?;
        let (admin, postgres) = if let Some(url) = &args.database_url {
            (DatabaseUrl::new(url)?, None)
        } else {
            let work = folder.path().to_owned();
            let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            let options = Options { settings: settings.collect(), programs, ..Options::default() };
            let postgres = tokio::task::spawn_blocking(move || EmbeddedPostgres::start(&work, &options))
                .await?
                .map_err(cluster_error)?;
            (DatabaseUrl::new(&postgres.url("postgres"))?, Some(postgres))
        };
        Ok(Self { admin, postgres, folder, databases: AtomicU32::new(0) })
    }

    fn database_name(number: u32) -> String {
        format!("roundhouse_bench_{}_{number}", std::process::id())
    }

    /// A fresh database.
    pub(crate) async fn database(&self) -> anyhow::Result<DatabaseUrl> {
        let name = Self::database_name(self.databases.fetch_add(1, Ordering::Relaxed));
        JobStore::create_database(&self.admin, &name).await?;
        Ok(self.admin.with_database(&name)?)
    }

    /// The private server's socket.
    pub(crate) fn socket(&self) -> Option<PathBuf> {
        self.postgres.as_ref().map(EmbeddedPostgres::socket)
    }

    /// The private server's first process, the parent of all others.
    pub(crate) fn postmaster(&self) -> Option<u32> {
        self.postgres.as_ref().and_then(EmbeddedPostgres::postmaster)
    }

    /// Removes what was made.
    pub(crate) async fn close(self) -> anyhow::Result<()> {
        for number in 0..self.databases.load(Ordering::Relaxed) {
            JobStore::drop_database(&self.admin, &Self::database_name(number)).await?;
        }
        if let Some(postgres) = self.postgres {
            tokio::task::spawn_blocking(move || postgres.stop()).await?;
        }
        Ok(self.folder.remove()?)
    }
}

/// The processes of a server, from /proc.
#[derive(Debug, Default)]
pub(crate) struct ServerLoad {
    pub(crate) processes: usize,
    pub(crate) private_kib: f64,
    pub(crate) cpu_ms: f64,
}

impl ServerLoad {
    pub(crate) fn of(postmaster: u32) -> Self {
        let mut load = Self::default();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(stat) = fs::read_to_string(path.join("stat")) else { continue };
            // The name, in parentheses, may hold spaces; state and parent follow it.
            let Some((_, rest)) = stat.rsplit_once(") ") else { continue };
            let fields: Vec<&str> = rest.split(' ').collect();
            if fields.get(1).and_then(|parent| parent.parse().ok()) != Some(postmaster) {
                continue;
            }
            load.processes += 1;
            let ticks: f64 = [11, 12].iter().filter_map(|i| fields.get(*i)?.parse::<f64>().ok()).sum();
            // Linux counts in hundredths of a second here, whatever the kernel's own clock.
            load.cpu_ms += ticks * 10.0;
            let memory = fs::read_to_string(path.join("smaps_rollup")).unwrap_or_default();
            for line in memory.lines().filter(|line| line.starts_with("Private_Dirty:")) {
                load.private_kib +=
                    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0.0);
            }
        }
        load
    }
}
