//! `docs/metrics.md` is what the code registers.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, fmt::Write};
use vise::MetricsCollection;

/// Every metric that a process of ours can have, by its name as Prometheus stores it: type, and what it says.
fn all() -> BTreeMap<String, (String, String)> {
    let registry = MetricsCollection::default().collect();
    let metrics = registry.descriptors().groups().flat_map(|group| group.metrics);
    metrics
        .map(|metric| {
            let unit = metric.unit.as_ref().map(|unit| format!("_{}", unit.as_str())).unwrap_or_default();
            let kind = format!("{:?}", metric.metric_type).to_lowercase();
            let total = if kind == "counter" { "_total" } else { "" };
            (format!("{}{unit}{total}", metric.name), (kind, metric.help.trim_end_matches('.').to_owned()))
        })
        .collect()
}

#[test]
fn the_table_in_the_docs_is_that_of_the_code() {
    let mut text = "# Metrics\n\nWhat `/metrics` of each process shows, in the OpenMetrics text format; a process has those of what it \
                    runs. Made from the code: `UPDATE_DOCS=1 cargo test -p prover --lib metrics`.\n\nNo label grows with chains, \
                    batches, jobs or workers. `job_monitor_*` gauges tell of the whole system, and every monitor tells the same: take \
                    the maximum over monitors, not the sum.\n\n| metric | type | what it says |\n|---|---|---|\n"
        .to_owned();
    for (name, (kind, help)) in all() {
        writeln!(text, "| `{name}` | {kind} | {help} |").unwrap();
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        found == text,
        "docs/metrics.md is out of date: UPDATE_DOCS=1 cargo test -p prover --lib metrics"
    );
}
