//! One circuit's proof, ours against the library's, and on a device, stage by stage.

use crate::bench::{median, print};
use anyhow::{Context, ensure};
use clap::Args;
use plonk_prover::sample::{Sample, standard_config};
use plonk_prover::{Stage, Stages};
use serde::Serialize;
use std::{collections::BTreeMap, fmt::Write as _, time::Instant};

#[derive(Debug, Args)]
pub(crate) struct CircuitArgs {
    /// The circuits' sizes: powers of two, of rows; more than one figure with commas.
    #[arg(long, value_delimiter = ',', default_value = "12,13,14", value_parser = clap::value_parser!(u8).range(5..=20))]
    log_size: Vec<u8>,
    /// How often each is measured.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// A device's number, to measure it beside the CPU in the same rounds.
    #[cfg(feature = "gpu")]
    #[arg(long)]
    device: Option<u32>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Figure {
    log_size: u8,
    /// Medians.
    library_seconds: f64,
    seconds: f64,
    /// The median of the rounds' ratios, ours to the library's.
    ratio: f64,
    /// Seconds of each stage, means over the rounds.
    stages: BTreeMap<&'static str, f64>,
    /// Poseidon permutations of the Merkle trees.
    permutations: usize,
    /// Time of one of them, on one of the cores.
    permutation_nanoseconds: f64,
    /// The same on the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<DeviceFigure>,
}

#[derive(Debug, Serialize)]
struct DeviceFigure {
    /// The median.
    seconds: f64,
    /// The median of the rounds' ratios, the CPU's (ours) to the device's.
    speedup: f64,
    /// Seconds of each stage, means over the rounds.
    stages: BTreeMap<&'static str, f64>,
    /// Witness vectors that it takes a second: so many have generators to make.
    vectors_per_second: f64,
    /// The most of its memory that was taken at a time, in bytes.
    memory_bytes: usize,
}

#[derive(Debug, Serialize)]
struct Figures {
    cores: usize,
    circuits: Vec<Figure>,
}

pub(crate) async fn run(args: CircuitArgs) -> anyhow::Result<()> {
    let json = args.json;
    let figures = tokio::task::spawn_blocking(move || measure(&args)).await??;
    print(json, &figures, &lines(&figures))
}

fn measure(args: &CircuitArgs) -> anyhow::Result<Figures> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut circuits = Vec::new();
    for &log_size in &args.log_size {
        // One row more than half of it, and the library fills it up.
        let rows = (1 << (log_size - 1)) + 1;
        let sample = Sample::new(standard_config(), rows).map_err(anyhow::Error::msg)?;
        let built = sample.circuit.common.degree_bits();
        ensure!(built == usize::from(log_size), "the circuit has 2^{built} rows and not 2^{log_size}");
        let (mut library, mut ours, mut stages) = (Vec::new(), Vec::new(), Stages::default());
        let mut on_device = devices::Measured::of(args, &sample)?;
        for round in 1..=args.rounds {
            let begun = Instant::now();
            sample.prove_by_library().map_err(anyhow::Error::msg)?;
            library.push(begun.elapsed().as_secs_f64());
            let begun = Instant::now();
            let proof = sample.prove(&mut stages).context("cannot prove the sample")?;
            ours.push(begun.elapsed().as_secs_f64());
            on_device.round(&sample, &proof)?;
            ensure!(sample.verifies(proof), "the proof of 2^{log_size} rows does not verify");
            tracing::info!("2^{log_size} rows: round {round} of {} is measured", args.rounds);
        }
        let ratios: Vec<f64> = ours.iter().zip(&library).map(|(ours, library)| ours / library).collect();
        let rounds = f64::from(args.rounds);
        circuits.push(Figure {
            log_size,
            library_seconds: median(&library),
            seconds: median(&ours),
            ratio: median(&ratios),
            stages: means(&stages, rounds),
            permutations: stages.permutations / args.rounds as usize,
            permutation_nanoseconds: stages.of(Stage::Hashing).as_nanos() as f64 * cores as f64
                / stages.permutations as f64,
            device: on_device.figure(&ours, rounds),
        });
    }
    Ok(Figures { cores, circuits })
}

fn means(stages: &Stages, rounds: f64) -> BTreeMap<&'static str, f64> {
    Stage::ALL.iter().map(|stage| (stage.name(), stages.of(*stage).as_secs_f64() / rounds)).collect()
}

#[cfg(not(feature = "gpu"))]
mod devices {
    use super::{CircuitArgs, DeviceFigure, Sample};
    use plonk_prover::Proof;

    pub(super) struct Measured;

    impl Measured {
        pub(super) fn of(_: &CircuitArgs, _: &Sample) -> anyhow::Result<Self> {
            Ok(Self)
        }

        pub(super) fn round(&mut self, _: &Sample, _: &Proof) -> anyhow::Result<()> {
            Ok(())
        }

        pub(super) fn figure(&self, _: &[f64], _: f64) -> Option<DeviceFigure> {
            None
        }
    }
}

#[cfg(feature = "gpu")]
mod devices {
    use super::{CircuitArgs, DeviceFigure, Instant, Sample, Stages, ensure, means, median};
    use gpu_prover::circuit::DeviceCircuit;
    use gpu_prover::device::Device;
    use plonk_prover::Proof;

    /// What a device took, where one is asked for.
    pub(super) struct Measured {
        on: Option<(Device, DeviceCircuit)>,
        seconds: Vec<f64>,
        stages: Stages,
    }

    impl Measured {
        pub(super) fn of(args: &CircuitArgs, sample: &Sample) -> anyhow::Result<Self> {
            let open = |ordinal| -> anyhow::Result<_> {
                let device = Device::open(ordinal, None)?;
                let circuit = DeviceCircuit::new(&device, &sample.circuit)?;
                Ok((device, circuit))
            };
            let on = args.device.map(open).transpose()?;
            Ok(Self { on, seconds: Vec::new(), stages: Stages::default() })
        }

        pub(super) fn round(&mut self, sample: &Sample, expected: &Proof) -> anyhow::Result<()> {
            let Some((_, circuit)) = &self.on else { return Ok(()) };
            let witness = sample.witness();
            let begun = Instant::now();
            let proof = circuit.prove(&witness, &mut self.stages)?;
            self.seconds.push(begun.elapsed().as_secs_f64());
            ensure!(proof == *expected, "the device's proof is not the CPU's");
            Ok(())
        }

        pub(super) fn figure(&self, cpu: &[f64], rounds: f64) -> Option<DeviceFigure> {
            let (device, _) = self.on.as_ref()?;
            let ratios: Vec<f64> = cpu.iter().zip(&self.seconds).map(|(cpu, device)| cpu / device).collect();
            let seconds = median(&self.seconds);
            Some(DeviceFigure {
                seconds,
                speedup: median(&ratios),
                stages: means(&self.stages, rounds),
                vectors_per_second: 1.0 / seconds,
                memory_bytes: device.arena().most_used,
            })
        }
    }
}

fn lines(figures: &Figures) -> String {
    let mut lines = format!(
        "one proof on {} cores, seconds\n{:>6} {:>8} {:>8} {:>6}",
        figures.cores, "rows", "library", "ours", "ratio"
    );
    for stage in Stage::ALL {
        let _ = write!(lines, " {:>13}", stage.name());
    }
    let _ = writeln!(lines, " {:>17}", "ns a permutation");
    for figure in &figures.circuits {
        let Figure { log_size, library_seconds, seconds, ratio, device, .. } = figure;
        let _ =
            write!(lines, "{:>6} {library_seconds:8.2} {seconds:8.2} {ratio:6.2}", format!("2^{log_size}"));
        for stage in Stage::ALL {
            let _ = write!(lines, " {:13.2}", figure.stages[stage.name()]);
        }
        let _ = writeln!(lines, " {:17.0}", figure.permutation_nanoseconds);
        if let Some(DeviceFigure { seconds, speedup, stages, vectors_per_second, memory_bytes }) = device {
            let _ = write!(lines, "{:>6} {:>8} {seconds:8.4} {speedup:5.1}x", "device", "");
            for stage in Stage::ALL {
                let _ = write!(lines, " {:13.4}", stages[stage.name()]);
            }
            let _ = writeln!(lines, "  {vectors_per_second:.1} vectors/s, {} MiB", memory_bytes >> 20);
        }
    }
    lines
}
