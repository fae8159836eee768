//! `prover database`: a private PostgreSQL, and the schema of any.

use clap::Subcommand;
use cli_support::{BadInput, DatabaseArgs};
use embedded_postgres::{EmbeddedPostgres, Options};
use job_store::database::roles::RoleNames;
use job_store::{DatabaseUrl, JobStore};
use pipeline::local::cluster_error;
use pipeline::postgres::PostgresArgs;
use std::{io::Write, path::PathBuf};

#[derive(Debug, Subcommand)]
pub(crate) enum DatabaseCommand {
    /// Serve a private PostgreSQL in a folder, with the schema, until SIGTERM or Ctrl-C; prints its URL.
    Serve {
        /// Where the cluster lies, in a subfolder `postgres`; created where it is not yet, and else left as it is.
        #[arg(long)]
        data: PathBuf,
        #[command(flatten)]
        postgres: PostgresArgs,
    },
    /// Bring a database's schema up to date.
    Migrate(DatabaseArgs),
    /// Print the roles that share a database, and their grants, as SQL; or apply them.
    Roles {
        #[command(flatten)]
        database: DatabaseArgs,
        /// Apply them to the database, as its owner, instead of printing them. Once more changes nothing.
        #[arg(long)]
        apply: bool,
        /// The roles are PREFIX_owner, PREFIX_component and PREFIX_reader.
        #[arg(long, default_value = "roundhouse", value_name = "PREFIX")]
        prefix: String,
        /// Other applications use this database: everybody keeps the right to connect to it.
        #[arg(long)]
        shared: bool,
        /// Give the component's rights to this user, who is there already; more than one with commas.
        #[arg(long, value_name = "USER", value_delimiter = ',')]
        member: Vec<String>,
    },
}

pub(crate) async fn run(command: DatabaseCommand) -> anyhow::Result<()> {
    match command {
        DatabaseCommand::Serve { data, postgres } => serve(data, &postgres).await,
        DatabaseCommand::Migrate(database) => migrate(&database.url()?).await,
        DatabaseCommand::Roles { database, apply, prefix, shared, member } => {
            let names = RoleNames::new(&prefix, shared)
                .and_then(|names| names.with_members(member))
                .map_err(|e| BadInput(e.to_string()))?;
            if apply {
                let store = JobStore::connect(&database.url()?).await?;
                store.apply_roles(&names).await?;
                store.close().await;
            } else {
                std::io::stdout().write_all(names.sql().as_bytes())?;
            }
            Ok(())
        }
    }
}

async fn serve(data: PathBuf, postgres: &PostgresArgs) -> anyhow::Result<()> {
    // Before the first signal asks for an orderly end: what is being fetched has none.
    let options = Options { programs: Some(postgres.programs(&data).await?), ..Options::default() };
    let shutdown = cli_support::shutdown_on_signal(Some(cli_support::DRAINING))?;
    let server = tokio::task::spawn_blocking(move || EmbeddedPostgres::start(&data, &options))
        .await?
        .map_err(cluster_error)?;
    let url = server.url("postgres");
    migrate(&DatabaseUrl::new(&url)?).await?;
    let mut output = std::io::stdout();
    writeln!(output, "{url}").and_then(|()| output.flush())?;
    shutdown.drain_begins().cancelled().await;
    tokio::task::spawn_blocking(move || server.stop()).await?;
    Ok(())
}

async fn migrate(url: &DatabaseUrl) -> anyhow::Result<()> {
    let store = JobStore::connect(url).await?;
    store.migrate().await?;
    store.close().await;
    Ok(())
}
