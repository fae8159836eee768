//! One circuit's proof, ours against the library's, stage by stage.

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
        for round in 1..=args.rounds {
            let begun = Instant::now();
            sample.prove_by_library().map_err(anyhow::Error::msg)?;
            library.push(begun.elapsed().as_secs_f64());
            let begun = Instant::now();
            let proof = sample.prove(&mut stages).context("cannot prove the sample")?;
            ours.push(begun.elapsed().as_secs_f64());
            ensure!(sample.verifies(proof), "the proof of 2^{log_size} rows does not verify");
            tracing::info!("2^{log_size} rows: round {round} of {} is measured", args.rounds);
        }
        let ratios: Vec<f64> = ours.iter().zip(&library).map(|(ours, library)| ours / library).collect();
        let rounds = f64::from(args.rounds);
        let seconds = |stage| stages.of(stage).as_secs_f64() / rounds;
        circuits.push(Figure {
            log_size,
            library_seconds: median(&library),
            seconds: median(&ours),
            ratio: median(&ratios),
            stages: Stage::ALL.iter().map(|stage| (stage.name(), seconds(*stage))).collect(),
            permutations: stages.permutations / args.rounds as usize,
            permutation_nanoseconds: stages.of(Stage::Hashing).as_nanos() as f64 * cores as f64
                / stages.permutations as f64,
        });
    }
    Ok(Figures { cores, circuits })
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
        let Figure { log_size, library_seconds, seconds, ratio, .. } = figure;
        let _ =
            write!(lines, "{:>6} {library_seconds:8.2} {seconds:8.2} {ratio:6.2}", format!("2^{log_size}"));
        for stage in Stage::ALL {
            let _ = write!(lines, " {:13.2}", figure.stages[stage.name()]);
        }
        let _ = writeln!(lines, " {:17.0}", figure.permutation_nanoseconds);
    }
    lines
}
