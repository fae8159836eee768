//! Which components a process runs, and how much of each.

use circuit_prover::Layout;
use clap::ValueEnum;
use cli_support::{Memory, machine_memory};
use job_monitor::MonitorConfig;
use proof_system::ProofSystem;
use proving_model::AggregationRound;
use std::time::Duration;
use witness_generator::WitnessGeneratorConfig;

/// A part of the pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Component {
    /// Turns inputs and proofs into circuits.
    WitnessGenerator,
    /// Synthesises and proves circuits.
    CircuitProver,
    /// Makes the small final proof.
    Compressor,
    /// Puts back the jobs of dead workers, archives, collects artifacts, reports; serves a live page.
    ProverJobMonitor,
    /// All of them.
    All,
}

impl Component {
    fn includes(self, part: Self) -> bool {
        self == Self::All || self == part
    }

    /// Its name on the command line and in the workers' table.
    #[must_use]
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// Times that all components share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How long running jobs may take to finish after the signal to drain.
    pub drain_timeout: Duration,
    /// Between two heartbeats, which prolong leases.
    pub heartbeat_interval: Duration,
    /// How long a lease lasts without a heartbeat.
    pub lease_duration: Duration,
    /// After which a picker looks for jobs although no wake-up came.
    pub poll_interval: Duration,
    /// How long an attempt may take.
    pub job_timeout: Duration,
}

impl Timing {
    /// What holds where nothing is said.
    pub const DEFAULT: Self = Self {
        drain_timeout: Duration::from_secs(60),
        heartbeat_interval: Duration::from_secs(5),
        lease_duration: Duration::from_secs(20),
        poll_interval: Duration::from_secs(5),
        job_timeout: Duration::from_secs(3_600),
    };
}

impl Default for Timing {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Which components, and how much of each.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The components.
    pub components: Vec<Component>,
    /// Rounds and workers of the witness generator.
    pub generator: WitnessGeneratorConfig,
    /// How the circuit prover divides its work.
    pub layout: Layout,
    /// The job monitor's intervals.
    pub monitor: MonitorConfig,
    /// Times that all components share.
    pub timing: Timing,
    /// Bytes of memory that circuits may take at the same time; `None` is no limit.
    pub memory_budget: Option<u64>,
    /// Whether the log has a line for each attempt's end: for those who follow a fleet, and not beside bars.
    pub logs_ends: bool,
}

impl Plan {
    /// All components on one machine, for one batch after the other.
    #[must_use]
    pub fn one_machine(drain_timeout: Duration) -> Self {
        let interval = Duration::from_millis(500);
        Self {
            components: vec![Component::All],
            generator: WitnessGeneratorConfig { rounds: AggregationRound::ALL.to_vec(), workers: 1 },
            layout: Layout::Chained { light_wvg_count: 1, heavy_wvg_count: 1, provers: 1 },
            monitor: MonitorConfig {
                rescue_interval: interval,
                retry_interval: interval,
                ..MonitorConfig::DEFAULT
            },
            timing: Timing { drain_timeout, ..Timing::DEFAULT },
            memory_budget: memory_budget(None),
            logs_ends: false,
        }
    }

    /// With this many jobs of witness generation at the same time.
    #[must_use]
    pub fn with_generators(mut self, workers: usize) -> Self {
        self.generator.workers = workers;
        self
    }

    /// With this many circuits being proven at the same time.
    #[must_use]
    pub fn with_provers(mut self, count: usize) -> Self {
        if let Layout::Chained { provers, .. } = &mut self.layout {
            *provers = count;
        }
        self
    }

    /// With so much of the host's memory for circuits, in bytes; `None` is no limit.
    #[must_use]
    pub fn with_memory_budget(mut self, bytes: Option<u64>) -> Self {
        self.memory_budget = bytes;
        self
    }

    /// Logs what circuits may take, and who says so: a limit of a container or a unit is seldom the machine's.
    pub fn say_limits(&self) {
        let (Some(budget), Some(memory)) = (self.memory_budget, machine_memory()) else { return };
        if self.has(Component::CircuitProver) {
            let Memory { bytes, limited_by } = memory;
            let (budget, bytes, threads) = (budget >> 20, bytes >> 20, rayon::current_num_threads());
            tracing::info!(
                "memory for circuits: {budget} MiB, of {bytes} MiB that {limited_by} allows; threads for proving: {threads}"
            );
        }
    }

    /// The components' names, parted by commas.
    #[must_use]
    pub fn names(&self) -> String {
        self.components.iter().map(|component| component.name()).collect::<Vec<_>>().join(",")
    }

    /// Whether a component is part of the plan.
    #[must_use]
    pub fn has(&self, part: Component) -> bool {
        self.components.iter().any(|component| component.includes(part))
    }

    /// Jobs at the same time, in all components.
    #[must_use]
    pub fn capacity(&self) -> usize {
        let parts = [
            (Component::WitnessGenerator, self.generator.workers),
            (Component::CircuitProver, self.layout.circuits_in_memory()),
            (Component::Compressor, 1),
        ];
        parts.into_iter().filter(|(part, _)| self.has(*part)).map(|(_, jobs)| jobs).sum()
    }

    /// A circuit that the layout takes and the memory budget never admits, with its bytes and the budget's: it would wait for ever.
    #[must_use]
    pub fn circuit_beyond_budget(&self, system: &dyn ProofSystem) -> Option<(String, u64, u64)> {
        let (name, needed) = self.layout.largest_circuit(system.circuit_table())?;
        let allowed = self.memory_budget.filter(|allowed| needed > *allowed)?;
        self.has(Component::CircuitProver).then(|| (name.to_string(), needed, allowed))
    }
}

/// What circuits may take of the host's memory, in bytes: what is given, else three quarters of what the machine and this process's control
/// groups allow. The rest is for the keys, artifacts on their way, and everything else that is in the same group. More than is
/// allowed may be given, and is warned of.
#[must_use]
pub fn memory_budget(given: Option<u64>) -> Option<u64> {
    let memory = machine_memory();
    let Some(given) = given else { return memory.map(|memory| memory.bytes / 4 * 3) };
    if let Some(Memory { bytes, limited_by }) = memory
        && given > *bytes
    {
        tracing::warn!(
            "--max-allocation lets circuits take {given} bytes, and {limited_by} allows this process {bytes}: the kernel kills it when \
             they do; give less, or leave the flag out for three quarters of that"
        );
    }
    Some(given)
}
