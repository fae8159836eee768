//! `insert-version`.

use crate::Output;
use clap::Args;
use cli_support::{BadInput, ProofSystemArgs, ProofSystems};
use job_store::DatabaseUrl;
use proof_system::ProofSystem;
use proving_model::ProtocolVersion;
use schemars::JsonSchema;
use serde::Serialize;

/// A protocol version, as flags name it: 0.MINOR.PATCH.
#[derive(Debug, Args)]
pub(crate) struct VersionArgs {
    /// The protocol version's minor number [default: this program's].
    #[arg(long)]
    version: Option<u16>,
    /// Its patch number [default: this program's].
    #[arg(long)]
    patch: Option<u16>,
}

impl VersionArgs {
    /// The version, which must be the one that this program proves: only its own keys and inputs are known to it.
    pub(crate) fn check(&self, system: &dyn ProofSystem) -> anyhow::Result<ProtocolVersion> {
        let ours = system.protocol_version();
        let asked = ProtocolVersion {
            minor: self.version.unwrap_or(ours.minor),
            patch: self.patch.unwrap_or(ours.patch),
        };
        if asked == ours {
            return Ok(ours);
        }
        Err(BadInput(format!(
            "this prover_cli knows protocol version {ours} of {}, not {asked}: use the prover_cli of that version",
            system.name()
        ))
        .into())
    }
}

#[derive(Debug, Args)]
pub(crate) struct InsertVersionArgs {
    #[command(flatten)]
    version: VersionArgs,
    #[command(flatten)]
    system: ProofSystemArgs,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct InsertedVersion {
    protocol_version: String,
    proof_system: &'static str,
    verification_keys_digest: String,
}

pub(crate) async fn insert(
    url: &DatabaseUrl,
    args: InsertVersionArgs,
    systems: &ProofSystems,
    output: Output,
) -> anyhow::Result<()> {
    let system = args.system.open(systems)?;
    let version = args.version.check(&*system)?;
    let store = cli_support::connect(url).await?;
    let digest = system.verification_keys_digest();
    store.insert_protocol_version(version, system.name(), &digest).await?;
    store.close().await;
    let text = format!("protocol version {version} of {}, keys {digest}\n", system.name());
    let inserted = InsertedVersion {
        protocol_version: version.to_string(),
        proof_system: system.name(),
        verification_keys_digest: digest,
    };
    output.print(&inserted, &text)
}
