//! `prover database`: a private PostgreSQL, and the schema of any.

use crate::local::cluster_error;
use clap::Subcommand;
use embedded_postgres::{EmbeddedPostgres, Options};
use job_store::{DatabaseUrl, JobStore};
use launch::DatabaseArgs;
use std::{io::Write, path::PathBuf};

#[derive(Debug, Subcommand)]
pub(crate) enum DatabaseCommand {
    /// Serve a private PostgreSQL in a folder, with the schema, until SIGTERM or Ctrl-C; prints its URL.
    Serve {
        /// Where the cluster lies, in a subfolder `postgres`; created where it is not yet, and else left as it is.
        #[arg(long)]
        data: PathBuf,
    },
    /// Bring a database's schema up to date.
    Migrate(DatabaseArgs),
}

pub(crate) async fn run(command: DatabaseCommand) -> anyhow::Result<()> {
    match command {
        DatabaseCommand::Serve { data } => serve(data).await,
        DatabaseCommand::Migrate(database) => migrate(&database.url()?).await,
    }
}

async fn serve(data: PathBuf) -> anyhow::Result<()> {
    let shutdown = launch::shutdown_on_signal(Some(launch::DRAINING))?;
    let server = tokio::task::spawn_blocking(move || EmbeddedPostgres::start(&data, &Options::default()))
        .await?
        .map_err(cluster_error)?;
    let url = server.url("postgres");
    migrate(&DatabaseUrl::new(&url)?).await?;
    let mut output = std::io::stdout();
    writeln!(output, "{url}").and_then(|()| output.flush())?;
    shutdown.cancelled().await;
    tokio::task::spawn_blocking(move || server.stop()).await?;
    Ok(())
}

async fn migrate(url: &DatabaseUrl) -> anyhow::Result<()> {
    let store = JobStore::connect(url).await?;
    store.migrate().await?;
    store.close().await;
    Ok(())
}
