//! One circuit's proof, ours against the library's, and on a device, stage by stage; beside each stage the least that it could take.

use crate::{median, print, say};
use anyhow::{Context, ensure};
use clap::Args;
use plonk_prover::roofline::{Needs, Rates};
use plonk_prover::sample::{Sample, standard_config};
use plonk_prover::{Stage, Stages};
use serde::Serialize;
use std::{collections::BTreeMap, fmt::Write as _, ops::RangeInclusive, time::Instant};

#[derive(Debug, Args)]
pub(crate) struct CircuitArgs {
    /// The circuits' sizes, as powers of two of rows: one, some (12,14) or a range, both ends included (12..18).
    #[arg(long, default_value = "12..14", value_parser = log_sizes)]
    log_size: LogSizes,
    /// How often each is measured.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// A device's number, to measure it beside the CPU in the same rounds.
    #[cfg(feature = "gpu")]
    #[arg(long)]
    device: Option<u32>,
    /// Bytes of the device's memory that may be taken [default: all that is free but 512 MiB].
    #[cfg(feature = "gpu")]
    #[arg(short, long, requires = "device")]
    max_allocation: Option<usize>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Powers of two of rows.
#[derive(Debug, Clone, PartialEq, Eq)]
struct LogSizes(Vec<u8>);

/// What plonky2 builds, and a large machine's memory holds.
const LOG_SIZES: RangeInclusive<u8> = 5..=20;

fn log_sizes(text: &str) -> Result<LogSizes, String> {
    let one = |text: &str| {
        let size = text.trim().parse().ok().filter(|size| LOG_SIZES.contains(size));
        size.ok_or_else(|| format!("{text:?} is not in {}..{}", LOG_SIZES.start(), LOG_SIZES.end()))
    };
    let mut sizes = Vec::new();
    for part in text.split(',') {
        match part.split_once("..") {
            None => sizes.push(one(part)?),
            Some((first, last)) => {
                let range = one(first)?..=one(last)?;
                if range.is_empty() {
                    return Err(format!("{part:?} ends before it begins"));
                }
                sizes.extend(range);
            }
        }
    }
    Ok(LogSizes(sizes))
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
    /// The least that each could take on this machine, in seconds: its bytes through the memory, or its hashes, whichever is longer.
    rooflines: BTreeMap<&'static str, f64>,
    /// What generating the witness took, in seconds of one core.
    synthesis_seconds: f64,
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
    /// The least that each could take, by what the driver tells of the device's clocks.
    #[serde(skip_serializing_if = "Option::is_none")]
    rooflines: Option<BTreeMap<&'static str, f64>>,
    /// Witness vectors that it takes a second, while there are always some that wait.
    vectors_per_second: f64,
    /// The share of that time in which it worked on one.
    busy: f64,
    /// Cores that generate as many.
    generator_cores: f64,
    /// The most of its memory that was taken at a time, in bytes.
    memory_bytes: usize,
}

#[derive(Debug, Serialize)]
struct Figures {
    cores: usize,
    /// Bytes a second that they copy, and Poseidon permutations that they make.
    copied_bytes_per_second: f64,
    permutations_per_second: f64,
    circuits: Vec<Figure>,
}

pub(crate) async fn run(args: CircuitArgs) -> anyhow::Result<()> {
    let json = args.json;
    let figures = tokio::task::spawn_blocking(move || measure(&args)).await??;
    if json { print(true, &figures, "") } else { Ok(()) }
}

/// Measures one size after the other. For people each one's lines are printed as soon as they are known.
fn measure(args: &CircuitArgs) -> anyhow::Result<Figures> {
    let cores = cli_support::machine_threads();
    let rates = Rates::of_this_machine();
    let Rates { bytes, permutations, .. } = rates;
    let mut figures = Figures {
        cores,
        copied_bytes_per_second: bytes,
        permutations_per_second: permutations,
        circuits: Vec::new(),
    };
    if !args.json {
        say(&heading(&figures))?;
    }
    for &log_size in &args.log_size.0 {
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
        let figure = Figure {
            log_size,
            library_seconds: median(&library),
            seconds: median(&ours),
            ratio: median(&ratios),
            stages: means(&stages, rounds),
            rooflines: rooflines(&sample, &rates),
            synthesis_seconds: sample.synthesis.as_secs_f64(),
            permutations: stages.permutations / args.rounds as usize,
            permutation_nanoseconds: stages.of(Stage::Hashing).as_nanos() as f64 * cores as f64
                / stages.permutations as f64,
            device: on_device.figure(args, &sample, &ours)?,
        };
        if !args.json {
            say(&lines(&figure))?;
        }
        figures.circuits.push(figure);
    }
    Ok(figures)
}

fn rooflines(sample: &Sample, rates: &Rates) -> BTreeMap<&'static str, f64> {
    let roofline = |stage: &Stage| {
        let needs = Needs::of(*stage, &sample.circuit.common);
        (stage.name(), needs.roofline(*stage, rates).as_secs_f64())
    };
    Stage::ALL.iter().map(roofline).collect()
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

        pub(super) fn figure(
            self,
            _: &CircuitArgs,
            _: &Sample,
            _: &[f64],
        ) -> anyhow::Result<Option<DeviceFigure>> {
            Ok(None)
        }
    }
}

#[cfg(feature = "gpu")]
mod devices {
    use super::{
        CircuitArgs, DeviceFigure, Instant, Rates, Sample, Stages, ensure, means, median, rooflines,
    };
    use gpu_prover::circuit::DeviceCircuit;
    use gpu_prover::device::Device;
    use gpu_prover::pool::{Pool, PoolSettings};
    use plonk_prover::{CircuitProver, Proof};

    /// Threads that wait with a witness for a device, at most: each has some of them in memory.
    const GENERATORS_MAX: usize = 8;

    /// What a device took, where one is asked for.
    pub(super) struct Measured {
        on: Option<(Device, DeviceCircuit, Option<Rates>)>,
        seconds: Vec<f64>,
        stages: Stages,
    }

    impl Measured {
        pub(super) fn of(args: &CircuitArgs, sample: &Sample) -> anyhow::Result<Self> {
            let open = |ordinal| -> anyhow::Result<_> {
                let device = Device::open(ordinal, args.max_allocation)?;
                let rates = device.rates()?;
                let circuit = DeviceCircuit::new(&device, &sample.circuit)?;
                Ok((device, circuit, rates))
            };
            let on = args.device.map(open).transpose()?;
            Ok(Self { on, seconds: Vec::new(), stages: Stages::default() })
        }

        pub(super) fn round(&mut self, sample: &Sample, expected: &Proof) -> anyhow::Result<()> {
            let Some((_, circuit, _)) = &self.on else { return Ok(()) };
            let witness = sample.witness();
            let begun = Instant::now();
            let proof = circuit.prove(&witness, &mut self.stages)?;
            self.seconds.push(begun.elapsed().as_secs_f64());
            ensure!(proof == *expected, "the device's proof is not the CPU's");
            Ok(())
        }

        pub(super) fn figure(
            self,
            args: &CircuitArgs,
            sample: &Sample,
            cpu: &[f64],
        ) -> anyhow::Result<Option<DeviceFigure>> {
            let Some((device, circuit, rates)) = self.on else { return Ok(None) };
            let ratios: Vec<f64> = cpu.iter().zip(&self.seconds).map(|(cpu, device)| cpu / device).collect();
            let (ordinal, memory_bytes) = (device.ordinal(), device.arena().most_used);
            // The pool takes the device's memory anew.
            drop((circuit, device));
            let (vectors_per_second, busy) = with_a_queue(ordinal, args, sample)?;
            Ok(Some(DeviceFigure {
                seconds: median(&self.seconds),
                speedup: median(&ratios),
                stages: means(&self.stages, f64::from(args.rounds)),
                rooflines: rates.as_ref().map(|rates| rooflines(sample, rates)),
                vectors_per_second,
                busy,
                generator_cores: sample.synthesis.as_secs_f64() * vectors_per_second,
                memory_bytes,
            }))
        }
    }

    /// Proofs a second of a device for which witnesses wait, and its busy share.
    fn with_a_queue(ordinal: u32, args: &CircuitArgs, sample: &Sample) -> anyhow::Result<(f64, f64)> {
        let CircuitArgs { rounds, max_allocation, .. } = *args;
        let pool = Pool::open(&[ordinal], PoolSettings { max_allocation, ..PoolSettings::default() })?;
        let prove = |values| pool.prove(&sample.circuit, values);
        // The circuit goes to the device, and the witnesses' memory is page-locked.
        prove(sample.values())?;
        // As many more than it has places for as there are cores to generate witnesses; what they generate is there already.
        let threads = pool.places() + cli_support::machine_threads().min(GENERATORS_MAX);
        let values: Vec<_> = (0..threads).map(|_| vec![sample.values(); rounds as usize]).collect();
        let (begun, busy) = (Instant::now(), pool.busy());
        let prove_all = |values: Vec<_>| values.into_iter().try_for_each(|values| prove(values).map(drop));
        std::thread::scope(|scope| {
            let proving: Vec<_> =
                values.into_iter().map(|values| scope.spawn(|| prove_all(values))).collect();
            proving.into_iter().try_for_each(|thread| {
                thread.join().map_err(|_| anyhow::anyhow!("a thread that wanted proofs panicked"))??;
                anyhow::Ok(())
            })
        })?;
        ensure!(pool.in_service() == 1, "device {ordinal} is out of service: see the log");
        let took = begun.elapsed().as_secs_f64();
        Ok((threads as f64 * f64::from(rounds) / took, (pool.busy() - busy).as_secs_f64() / took))
    }
}

fn heading(figures: &Figures) -> String {
    let mut heading = format!(
        "one proof on {} cores, which copy {:.1} GB/s and make {:.1} M permutations/s; seconds, and below the least that each stage could take\n\
         {:>6} {:>8} {:>8} {:>6}",
        figures.cores,
        figures.copied_bytes_per_second / 1e9,
        figures.permutations_per_second / 1e6,
        "rows",
        "library",
        "ours",
        "ratio"
    );
    for stage in Stage::ALL {
        let _ = write!(heading, " {:>13}", stage.name());
    }
    let _ = writeln!(heading, " {:>17}", "ns a permutation");
    heading
}

fn lines(figure: &Figure) -> String {
    let Figure { log_size, library_seconds, seconds, ratio, stages, rooflines, device, .. } = figure;
    let rows = format!("2^{log_size}");
    let mut lines = format!("{rows:>6} {library_seconds:8.2} {seconds:8.2} {ratio:6.2}");
    write_stages(&mut lines, stages, 2);
    let _ = writeln!(lines, " {:17.0}", figure.permutation_nanoseconds);
    write_rooflines(&mut lines, rooflines, 2);
    if let Some(device) = device {
        let DeviceFigure { seconds, speedup, vectors_per_second, busy, generator_cores, .. } = device;
        let _ = write!(lines, "{:>6} {:>8} {seconds:8.4} {speedup:5.1}x", "device", "");
        write_stages(&mut lines, &device.stages, 4);
        let _ = writeln!(
            lines,
            "  {vectors_per_second:.1} vectors/s, which {generator_cores:.1} cores generate; busy {:.0} %; {} MiB",
            busy * 100.0,
            device.memory_bytes >> 20
        );
        if let Some(rooflines) = &device.rooflines {
            write_rooflines(&mut lines, rooflines, 4);
        }
    }
    lines
}

fn write_stages(lines: &mut String, stages: &BTreeMap<&'static str, f64>, digits: usize) {
    for stage in Stage::ALL {
        let _ = write!(lines, " {:13.digits$}", stages[stage.name()]);
    }
}

fn write_rooflines(lines: &mut String, rooflines: &BTreeMap<&'static str, f64>, digits: usize) {
    let _ = write!(lines, "{:>6} {:>8} {:8.digits$} {:>6}", "roof", "", rooflines.values().sum::<f64>(), "");
    write_stages(lines, rooflines, digits);
    let _ = writeln!(lines);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_given_one_by_one_or_from_to() {
        let sizes = |text| log_sizes(text).map(|LogSizes(sizes)| sizes);
        assert_eq!(sizes("12"), Ok(vec![12]));
        assert_eq!(sizes("11,13..15"), Ok(vec![11, 13, 14, 15]));
        assert_eq!(sizes("18..12"), Err("\"18..12\" ends before it begins".to_owned()));
        for refused in ["", "4", "12..21", "twelve", "12,", "..", "12...14"] {
            assert!(sizes(refused).is_err(), "{refused}");
        }
    }
}
