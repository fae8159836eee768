//! NVIDIA devices: what proves on them, and `prover gpu`, which looks after them.

use clap::{Args, Subcommand};
use cli_support::BadInput;
use ledger_circuits::CircuitProver;
use std::str::FromStr;
use std::sync::Arc;

/// What proves circuits.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Choice {
    /// The host's processors.
    Cpu,
    /// Every device that there is.
    All,
    /// These.
    Numbers(Vec<u32>),
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "cpu" => Ok(Self::Cpu),
            "all" => Ok(Self::All),
            numbers => {
                let wrong = || format!("{text:?} is neither cpu nor all, nor devices' numbers with commas");
                let mut numbers = numbers
                    .split(',')
                    .map(str::parse)
                    .collect::<Result<Vec<u32>, _>>()
                    .map_err(|_| wrong())?;
                numbers.sort_unstable();
                numbers.dedup();
                Ok(Self::Numbers(numbers))
            }
        }
    }
}

#[derive(Debug, Clone, Args)]
pub(crate) struct DeviceArgs {
    /// What proves circuits: cpu; all, for every NVIDIA device of the machine; or devices' numbers, with commas. What does not fit a device,
    /// or fails there, is proven by the CPU.
    #[arg(long, default_value = "cpu", env = "ROUNDHOUSE_DEVICE")]
    device: Choice,
    /// Bytes of each device's memory (of the host's, for cpu) that circuits may take at the same time. A device's are taken at the start
    /// [default: all that is free but 512 MiB]. On the CPU a circuit is taken only when what it is expected to need is free; what it needed
    /// is measured [default: three quarters of the memory that the machine and its control groups allow this process].
    #[arg(short = 'm', long, value_parser = clap::builder::RangedU64ValueParser::<u64>::new().range(1..), env = "ROUNDHOUSE_MAX_ALLOCATION")]
    max_allocation: Option<u64>,
}

/// Devices that are open.
pub(crate) struct Devices {
    pub(crate) prover: Arc<dyn CircuitProver>,
    /// How many circuits they take at the same time.
    pub(crate) count: usize,
}

impl DeviceArgs {
    /// What circuits may take of the host's memory, where that is what is bounded.
    pub(crate) fn host_allocation(&self) -> Option<u64> {
        self.max_allocation.filter(|_| self.device == Choice::Cpu)
    }

    /// Opens the devices, and tests each; `None` when the CPU is to prove.
    ///
    /// # Errors
    /// [`BadInput`] when there are none, or one is not what it should be.
    pub(crate) fn open(&self) -> anyhow::Result<Option<Devices>> {
        match &self.device {
            Choice::Cpu => Ok(None),
            choice => open(choice, self.max_allocation).map(Some),
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum GpuCommand {
    /// Look for CUDA's driver, show the devices that it sees, and have each prove a small circuit, which must come out as the CPU's.
    Check(CheckArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Bytes of each device's memory to take [default: all that is free but 512 MiB].
    #[arg(short = 'm', long)]
    max_allocation: Option<usize>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[cfg(not(feature = "gpu"))]
mod cuda {
    use super::{BadInput, CheckArgs, Choice, Devices};

    fn none<T>() -> anyhow::Result<T> {
        let text = "this program was built without devices; build it with the feature `gpu`, which is there by default";
        Err(BadInput(text.to_owned()).into())
    }

    pub(super) fn open(_: &Choice, _: Option<u64>) -> anyhow::Result<Devices> {
        none()
    }

    pub(super) fn check(_: &CheckArgs) -> anyhow::Result<()> {
        none()
    }
}

#[cfg(feature = "gpu")]
mod cuda {
    use super::{Arc, BadInput, CheckArgs, Choice, Devices};
    use anyhow::Context;
    use gpu_prover::driver::{DeviceInfo, devices};
    use gpu_prover::pool::{Pool, PoolSettings, SelfTest, self_test};
    use plonk_prover::Stage;
    use std::fmt::Write as _;
    use std::io::Write as _;

    pub(super) fn open(choice: &Choice, max_allocation: Option<u64>) -> anyhow::Result<Devices> {
        let bad = |error: &dyn std::fmt::Display| BadInput(format!("--device: {error}"));
        let numbers = match choice {
            Choice::Numbers(numbers) => numbers.clone(),
            _ => devices().map_err(|e| bad(&e))?.devices.iter().map(|device| device.ordinal).collect(),
        };
        let max_allocation = max_allocation.map(usize::try_from).transpose()?;
        let settings = PoolSettings { max_allocation, ..PoolSettings::default() };
        let pool = Pool::open(&numbers, settings).map_err(|e| bad(&e))?;
        tracing::info!("circuits are proven on {} devices: {numbers:?}", pool.len());
        let count = pool.places();
        Ok(Devices { prover: Arc::new(pool), count })
    }

    pub(super) fn check(args: &CheckArgs) -> anyhow::Result<()> {
        let found = devices()?;
        let settings = PoolSettings { max_allocation: args.max_allocation, ..PoolSettings::default() };
        let tested: Vec<_> =
            found.devices.iter().map(|device| (device, self_test(device.ordinal, settings))).collect();
        let text = if args.json {
            let devices: Vec<_> = tested.iter().map(|(device, test)| json(device, test.as_ref())).collect();
            serde_json::json!({ "cuda_version": found.driver.to_string(), "devices": devices }).to_string()
        } else {
            let mut text = format!("the driver supports CUDA {}", found.driver);
            for (device, test) in &tested {
                describe(&mut text, device, test.as_ref());
            }
            text
        };
        writeln!(std::io::stdout(), "{text}").context("cannot print what was found")?;
        let failed = tested.into_iter().find_map(|(_, test)| test.err());
        failed.map_or(Ok(()), |error| Err(error.into()))
    }

    fn json<E: std::fmt::Display>(device: &DeviceInfo, test: Result<&SelfTest, &E>) -> serde_json::Value {
        let (major, minor) = device.compute_capability;
        let stages = test.ok().map(|test| {
            let times = Stage::ALL.iter().map(|stage| (stage.name(), test.stages.of(*stage).as_secs_f64()));
            times.collect::<std::collections::BTreeMap<_, _>>()
        });
        serde_json::json!({
            "ordinal": device.ordinal,
            "name": device.name,
            "memory_bytes": device.memory_bytes,
            "compute_capability": format!("{major}.{minor}"),
            "multiprocessors": device.multiprocessors,
            "arena_bytes": test.ok().map(|test| test.arena.size),
            "self_test": test.err().map_or("passed".to_owned(), ToString::to_string),
            "self_test_seconds": stages,
        })
    }

    fn describe<E: std::fmt::Display>(text: &mut String, device: &DeviceInfo, test: Result<&SelfTest, &E>) {
        let gibibytes = |bytes: usize| bytes as f64 / f64::from(1 << 30);
        let (major, minor) = device.compute_capability;
        let _ = write!(
            text,
            "\ndevice {}: {}, {:.1} GiB, compute capability {major}.{minor}, {} multiprocessors",
            device.ordinal,
            device.name,
            gibibytes(device.memory_bytes),
            device.multiprocessors
        );
        match test {
            Ok(SelfTest { stages, arena }) => {
                let _ = write!(text, "\n  arena of {:.2} GiB\n  self-test passed:", gibibytes(arena.size));
                for stage in Stage::ALL {
                    let _ = write!(text, " {} {:.2} ms", stage.name(), stages.of(stage).as_secs_f64() * 1e3);
                }
            }
            Err(error) => {
                let _ = write!(text, "\n  self-test failed: {error}");
            }
        }
    }
}

use cuda::{check, open};

pub(crate) fn run(command: &GpuCommand) -> anyhow::Result<()> {
    let GpuCommand::Check(args) = command;
    check(args)
}
