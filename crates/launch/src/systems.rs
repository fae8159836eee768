//! Which proof system, with which keys.

use crate::BadInput;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use ledger_circuits::{CircuitProver, LedgerProofSystem};
use proof_system::mock::{MockConfig, MockProofSystem};
use proof_system::{KeyPurpose, ProofSystem};
use std::{io::IsTerminal, path::PathBuf, sync::Arc};

/// A proof system that this program has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SystemName {
    /// Double-entry ledger, proven with recursive proofs.
    Ledger,
    /// Proves nothing, with costs and failures set in a file: for drills and load tests.
    Mock,
}

/// The proof system and its keys.
#[derive(Debug, Clone, Args)]
pub struct ProofSystemArgs {
    /// The proof system.
    #[arg(long, value_enum, default_value = "ledger", env = "ROUNDHOUSE_PROOF_SYSTEM")]
    pub proof_system: SystemName,
    /// The mock's costs, sizes and failures, a TOML file.
    #[arg(long, env = "ROUNDHOUSE_MOCK_FILE")]
    pub mock_file: Option<PathBuf>,
    /// The key folder [default: the user's cache folder].
    #[arg(long, env = "ROUNDHOUSE_KEYS")]
    pub keys: Option<PathBuf>,
}

impl ProofSystemArgs {
    /// The proof system; no key is loaded yet.
    ///
    /// # Errors
    /// [`BadInput`] when the arguments do not fit together or a file is wrong.
    pub fn open(&self) -> anyhow::Result<Arc<dyn ProofSystem>> {
        self.open_proven_by(None)
    }

    /// As [`ProofSystemArgs::open`], with devices to prove on; without any the CPU does.
    ///
    /// # Errors
    /// As [`ProofSystemArgs::open`].
    pub fn open_proven_by(
        &self,
        devices: Option<Arc<dyn CircuitProver>>,
    ) -> anyhow::Result<Arc<dyn ProofSystem>> {
        let mock = |config| Ok(Arc::new(MockProofSystem::new(config)) as Arc<dyn ProofSystem>);
        match (self.proof_system, &self.mock_file) {
            (SystemName::Ledger, Some(_)) => {
                Err(BadInput("--mock-file is for --proof-system=mock".to_owned()).into())
            }
            (SystemName::Ledger, None) => {
                let ledger = LedgerProofSystem::shipped(&self.keys_folder())?;
                Ok(match devices {
                    Some(devices) => Arc::new(ledger.proven_by(devices)),
                    None => Arc::new(ledger),
                })
            }
            (SystemName::Mock, _) if devices.is_some() => {
                Err(BadInput("the mock proves nothing, on no device: leave --device out".to_owned()).into())
            }
            (SystemName::Mock, None) => mock(MockConfig::default()),
            (SystemName::Mock, Some(path)) => {
                mock(MockConfig::from_file(path).map_err(|e| BadInput(e.to_string()))?)
            }
        }
    }

    /// The key folder: the given one, the user's cache, or the system's where there is no user's.
    #[must_use]
    pub fn keys_folder(&self) -> PathBuf {
        let cache = std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
            .unwrap_or_else(|| PathBuf::from("/var/cache"));
        self.keys.clone().unwrap_or_else(|| cache.join("roundhouse").join("keys"))
    }
}

/// The proof system that a verifier trusts. Only the flag chooses it: with an environment variable or a file that says
/// `mock`, a proof of nothing would pass.
#[derive(Debug, Clone, Args)]
pub struct VerifierArgs {
    /// Accept proofs of this proof system. Only this flag chooses it: no environment variable and no file does.
    #[arg(
        id = "accepted_proof_system",
        long = "proof-system",
        value_name = "PROOF_SYSTEM",
        value_enum,
        default_value = "ledger"
    )]
    pub proof_system: SystemName,
    /// The mock's costs, sizes and failures, a TOML file.
    #[arg(long, env = "ROUNDHOUSE_MOCK_FILE")]
    pub mock_file: Option<PathBuf>,
}

impl VerifierArgs {
    /// The proof system, with the verification key that this program ships.
    ///
    /// # Errors
    /// As [`ProofSystemArgs::open`].
    pub fn open(&self) -> anyhow::Result<Arc<dyn ProofSystem>> {
        let is_mock = self.proof_system == SystemName::Mock;
        if is_mock {
            tracing::warn!("the mock's proofs prove nothing");
        }
        let mock_file = self.mock_file.clone().filter(|_| is_mock);
        ProofSystemArgs { proof_system: self.proof_system, mock_file, keys: None }.open()
    }
}

/// Names the verifier in one line: proof system, version, and the verification key's BLAKE3 digest.
#[must_use]
pub fn verifier_in_words(system: &dyn ProofSystem) -> String {
    let key = system.final_verification_key_digest().map_or_else(
        || "no verification key".to_owned(),
        |digest| format!("verification key {digest} (BLAKE3), the one that this program ships"),
    );
    format!("proof system {}, version {}, {key}", system.name(), system.protocol_version())
}

/// Loads the keys for a purpose. Generating them the first time takes a minute: a bar, or a line each.
///
/// # Errors
/// The proof system's.
pub fn load_keys(system: &dyn ProofSystem, purpose: KeyPurpose) -> anyhow::Result<()> {
    let style = ProgressStyle::with_template("{prefix:>17} {bar:40} {pos}/{len} {msg}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = crate::bars().add(ProgressBar::no_length().with_style(style).with_prefix("keys"));
    let is_terminal = std::io::stderr().is_terminal();
    let result = system.load_keys(purpose, &|done, total, name| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
        bar.set_message(name.to_owned());
        if done < total && !is_terminal {
            tracing::info!("generating key {} of {total}: {name}", done + 1);
        }
    });
    bar.finish_and_clear();
    Ok(result?)
}
