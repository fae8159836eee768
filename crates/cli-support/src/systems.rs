//! Which proof systems a program has; which one a call means, with which keys.

use crate::BadInput;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use ledger_circuits::{CircuitProver, LedgerProofSystem};
use proof_system::mock::{MockConfig, MockProofSystem};
use proof_system::{KeyPurpose, ProofSystem};
use std::{fmt, io::IsTerminal, path::PathBuf, sync::Arc};

/// The proof system where the call names none, if the program has it.
const USUAL_SYSTEM: &str = "ledger";

/// What a proof system is opened with.
#[derive(Clone)]
#[non_exhaustive]
pub struct Opening {
    /// The key folder; it need not exist.
    pub keys_folder: PathBuf,
    /// `--mock-file`.
    pub mock_file: Option<PathBuf>,
    /// Devices to prove on; `None` where the CPU proves.
    pub devices: Option<Arc<dyn CircuitProver>>,
}

/// Opens a proof system; loads no key.
type Opener = Box<dyn Fn(Opening) -> anyhow::Result<Arc<dyn ProofSystem>> + Send + Sync>;

struct Registered {
    name: &'static str,
    about: &'static str,
    open: Opener,
}

/// The proof systems that a program offers as `--proof-system`. A program of your own adds one with [`ProofSystems::with`].
#[derive(Default)]
pub struct ProofSystems(Vec<Registered>);

impl fmt::Debug for ProofSystems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|system| system.name)).finish()
    }
}

impl ProofSystems {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Those that the project ships: the ledger and the mock.
    #[must_use]
    pub fn shipped() -> Self {
        Self::new().with("ledger", "Double-entry ledger, proven with recursive proofs", open_ledger).with(
            "mock",
            "Proves nothing; a file sets costs and failures: for drills and load tests",
            open_mock,
        )
    }

    /// Adds a proof system under the name that `--proof-system` takes. A name that is there already gets the new one.
    #[must_use]
    pub fn with(
        mut self,
        name: &'static str,
        about: &'static str,
        open: impl Fn(Opening) -> anyhow::Result<Arc<dyn ProofSystem>> + Send + Sync + 'static,
    ) -> Self {
        self.0.retain(|system| system.name != name);
        self.0.push(Registered { name, about, open: Box::new(open) });
        self
    }

    /// The values that the command line takes, with a line of help each.
    pub(crate) fn values(&self) -> Vec<clap::builder::PossibleValue> {
        self.0
            .iter()
            .map(|system| clap::builder::PossibleValue::new(system.name).help(system.about))
            .collect()
    }

    /// The name of the proof system where the call names none.
    pub(crate) fn default_name(&self) -> Option<&'static str> {
        let usual = self.0.iter().find(|system| system.name == USUAL_SYSTEM);
        usual.or_else(|| self.0.first()).map(|system| system.name)
    }

    fn open(&self, name: &str, opening: Opening) -> anyhow::Result<Arc<dyn ProofSystem>> {
        let Some(system) = self.0.iter().find(|system| system.name == name) else {
            return Err(BadInput(format!("--proof-system: this program has no proof system {name:?}")).into());
        };
        (system.open)(opening)
    }
}

fn open_ledger(opening: Opening) -> anyhow::Result<Arc<dyn ProofSystem>> {
    if opening.mock_file.is_some() {
        return Err(BadInput("--mock-file is for --proof-system=mock".to_owned()).into());
    }
    let ledger = LedgerProofSystem::shipped(&opening.keys_folder)?;
    Ok(match opening.devices {
        Some(devices) => Arc::new(ledger.proven_by(devices)),
        None => Arc::new(ledger),
    })
}

#[expect(clippy::needless_pass_by_value, reason = "an opener takes its opening")]
fn open_mock(opening: Opening) -> anyhow::Result<Arc<dyn ProofSystem>> {
    if opening.devices.is_some() {
        return Err(BadInput("the mock proves nothing, on no device: leave --device out".to_owned()).into());
    }
    let config = match &opening.mock_file {
        Some(path) => MockConfig::from_file(path).map_err(|e| BadInput(e.to_string()))?,
        None => MockConfig::default(),
    };
    Ok(Arc::new(MockProofSystem::new(config)))
}

/// The proof system and its keys.
#[derive(Debug, Clone, Args)]
pub struct ProofSystemArgs {
    /// The proof system.
    #[arg(long, default_value = USUAL_SYSTEM, env = "ROUNDHOUSE_PROOF_SYSTEM")]
    pub proof_system: String,
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
    pub fn open(&self, systems: &ProofSystems) -> anyhow::Result<Arc<dyn ProofSystem>> {
        self.open_proven_by(systems, None)
    }

    /// As [`ProofSystemArgs::open`], with devices to prove on; without any the CPU does.
    ///
    /// # Errors
    /// As [`ProofSystemArgs::open`].
    pub fn open_proven_by(
        &self,
        systems: &ProofSystems,
        devices: Option<Arc<dyn CircuitProver>>,
    ) -> anyhow::Result<Arc<dyn ProofSystem>> {
        let (keys_folder, mock_file) = (self.keys_folder(), self.mock_file.clone());
        systems.open(&self.proof_system, Opening { keys_folder, mock_file, devices })
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
        default_value = USUAL_SYSTEM
    )]
    pub proof_system: String,
    /// The mock's costs, sizes and failures, a TOML file.
    #[arg(long, env = "ROUNDHOUSE_MOCK_FILE")]
    pub mock_file: Option<PathBuf>,
}

impl VerifierArgs {
    /// The proof system, with the verification key that this program ships.
    ///
    /// # Errors
    /// As [`ProofSystemArgs::open`].
    pub fn open(&self, systems: &ProofSystems) -> anyhow::Result<Arc<dyn ProofSystem>> {
        self.open_with_keys(systems, None)
    }

    /// As [`VerifierArgs::open`], with a folder of the other keys.
    ///
    /// # Errors
    /// As [`ProofSystemArgs::open`].
    pub fn open_with_keys(
        &self,
        systems: &ProofSystems,
        keys: Option<PathBuf>,
    ) -> anyhow::Result<Arc<dyn ProofSystem>> {
        let is_mock = self.proof_system == "mock";
        if is_mock {
            tracing::warn!("the mock's proofs prove nothing");
        }
        let mock_file = self.mock_file.clone().filter(|_| is_mock);
        ProofSystemArgs { proof_system: self.proof_system.clone(), mock_file, keys }.open(systems)
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
