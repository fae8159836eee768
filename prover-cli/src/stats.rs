//! `stats`.

use crate::{Output, words::duration};
use clap::{Args, ValueEnum};
use job_store::DatabaseUrl;
use job_store::reports::history::{Period, Statistics};
use proving_model::AggregationRound;
use std::{fmt::Write, time::Duration};

#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    /// How many hours of the past.
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u64).range(1..=87_600))]
    hours: u64,
    /// How batches are counted together.
    #[arg(long, value_enum, default_value_t = By::Day)]
    by: By,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum By {
    Day,
    Week,
}

pub(crate) async fn show(url: &DatabaseUrl, args: StatsArgs, output: Output) -> anyhow::Result<()> {
    let store = cli_support::connect(url).await?;
    let period = match args.by {
        By::Day => Period::Day,
        By::Week => Period::Week,
    };
    let statistics = store.statistics(Duration::from_secs(args.hours * 3_600), period).await;
    store.close().await;
    let statistics = statistics?;
    output.print(&statistics, &text(&statistics, args.hours)?)
}

fn text(statistics: &Statistics, hours: u64) -> Result<String, std::fmt::Error> {
    if statistics.circuits.is_empty() && statistics.batches.is_empty() {
        return Ok(format!("nothing ended in the last {hours} hours\n"));
    }
    let mut text = format!(
        "the last {hours} hours: {:.1} circuits proven an hour, over the {} in which a batch was being proven\n{:<19}{:<18}{:>7}{:>8}{:>11}{:>11}{:>12}{:>10}{:>8}\n",
        statistics.proofs_per_hour,
        duration(statistics.working_seconds),
        "stage",
        "round",
        "circuit",
        "jobs",
        "p50",
        "p95",
        "peak",
        "failures",
        "deaths"
    );
    for circuit in &statistics.circuits {
        let round = AggregationRound::from_number(circuit.round).map_or("?", AggregationRound::as_str);
        let peak =
            circuit.peak_memory_bytes.map_or(String::new(), |bytes| format!("{} MiB", bytes.max(0) >> 20));
        writeln!(
            text,
            "{:<19}{round:<18}{:>7}{:>8}{:>9.2} s{:>9.2} s{peak:>12}{:>10}{:>8}",
            circuit.stage,
            circuit.circuit_id,
            circuit.jobs,
            circuit.p50_seconds,
            circuit.p95_seconds,
            circuit.failures,
            circuit.worker_deaths
        )?;
    }
    writeln!(
        text,
        "{:<12}{:>8}{:>8}{:>11}{:>11}{:>11}",
        "from", "proven", "failed", "cancelled", "p50", "p95"
    )?;
    for period in &statistics.batches {
        let seconds =
            |seconds: Option<f64>| seconds.map_or(String::new(), |seconds| format!("{seconds:.1} s"));
        writeln!(
            text,
            "{:<12}{:>8}{:>8}{:>11}{:>11}{:>11}",
            period.begins,
            period.successful,
            period.failed,
            period.cancelled,
            seconds(period.p50_seconds),
            seconds(period.p95_seconds)
        )?;
    }
    Ok(text)
}
