//! The layers of ARCHITECTURE.md, as cargo sees them: what may depend on what.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Command,
};

/// Every crate of ours, and those of ours that it may depend on, outside tests. The order is that of the layers: each names
/// only crates above it.
const LAYERS: &[(&str, &[&str])] = &[
    ("outside", &[]),
    ("job-runner", &[]),
    ("proving-model", &[]),
    ("private-folder", &[]),
    ("artifact-store", &["outside", "private-folder", "proving-model"]),
    ("job-store", &["job-runner", "outside", "proving-model"]),
    ("proof-system", &["outside", "proving-model"]),
    ("keystore", &["outside", "private-folder"]),
    ("plonk-prover", &[]),
    ("gpu-prover", &["plonk-prover"]),
    ("ledger-circuits", &["keystore", "outside", "plonk-prover", "proof-system", "proving-model"]),
    ("proving-component", &["artifact-store", "job-runner", "job-store", "proof-system", "proving-model"]),
    ("witness-generator", COMPONENT),
    ("circuit-prover", COMPONENT),
    ("proof-compressor", COMPONENT),
    ("job-monitor", &["artifact-store", "job-store", "proving-model"]),
    ("embedded-postgres", &["private-folder"]),
    (
        "cli-support",
        &[
            "artifact-store",
            "job-runner",
            "job-store",
            "ledger-circuits",
            "outside",
            "private-folder",
            "proof-system",
            "proving-model",
        ],
    ),
    (
        "pipeline",
        &[
            "artifact-store",
            "circuit-prover",
            "cli-support",
            "embedded-postgres",
            "job-monitor",
            "job-runner",
            "job-store",
            "private-folder",
            "proof-compressor",
            "proof-system",
            "proving-component",
            "proving-model",
            "witness-generator",
        ],
    ),
    (
        "bench",
        &[
            "artifact-store",
            "circuit-prover",
            "cli-support",
            "embedded-postgres",
            "gpu-prover",
            "job-monitor",
            "job-runner",
            "job-store",
            "pipeline",
            "plonk-prover",
            "private-folder",
            "proof-system",
            "proving-model",
        ],
    ),
    (
        "prover",
        &[
            "bench",
            "circuit-prover",
            "cli-support",
            "embedded-postgres",
            "gpu-prover",
            "job-monitor",
            "job-store",
            "ledger-circuits",
            "outside",
            "pipeline",
            "plonk-prover",
            "proof-system",
            "proving-model",
            "witness-generator",
        ],
    ),
    (
        "prover-cli",
        &["artifact-store", "job-store", "cli-support", "outside", "proof-system", "proving-model"],
    ),
    ("test-support", &["embedded-postgres", "job-store", "proving-model"]),
];

const COMPONENT: &[&str] =
    &["artifact-store", "job-runner", "job-store", "proof-system", "proving-component", "proving-model"];

/// Crates of others that only these of ours may name.
const RESERVED: &[(&str, &[&str])] = &[
    ("sqlx", &["job-store"]),
    ("object_store", &["artifact-store"]),
    ("qp-plonky2", &["ledger-circuits", "plonk-prover", "gpu-prover"]),
    ("cust", &["gpu-prover"]),
    ("nvml-wrapper", &["gpu-prover"]),
    // For binaries and what is only theirs; plonky2 speaks it, so what wraps plonky2 hears it.
    ("anyhow", &["cli-support", "pipeline", "bench", "prover", "prover-cli", "ledger-circuits"]),
];

/// Dependencies by crate, without those of tests.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap().iter().map(|package| {
        let normal = package["dependencies"].as_array().unwrap().iter().filter(|d| d["kind"] != "dev");
        let names = normal.map(|d| d["name"].as_str().unwrap().to_owned()).collect();
        (package["name"].as_str().unwrap().to_owned(), names)
    });
    packages.collect()
}

#[test]
fn crates_depend_only_on_the_layers_above_them() {
    let dependencies = dependencies();
    let ours: BTreeSet<&str> = LAYERS.iter().map(|(name, _)| *name).collect();
    let found: BTreeSet<&str> = dependencies.keys().map(String::as_str).collect();
    assert_eq!(found, ours, "every crate has its place in the layers");
    for (place, (name, allowed)) in LAYERS.iter().enumerate() {
        for dependency in dependencies[*name].iter().filter(|d| ours.contains(d.as_str())) {
            assert!(allowed.contains(&dependency.as_str()), "{name} must not depend on {dependency}");
            let above = LAYERS.iter().position(|(other, _)| other == dependency).unwrap();
            assert!(above < place, "{dependency} stands below {name}");
        }
    }
}

#[test]
fn what_is_reserved_for_one_crate_is_named_by_no_other() {
    for (name, dependencies) in dependencies() {
        for (reserved, owners) in RESERVED {
            let is_named = dependencies.contains(*reserved);
            assert!(!is_named || owners.contains(&name.as_str()), "{name} must not depend on {reserved}");
        }
    }
}

/// Every test that these pages name, as `name` or as `file.rs::name`.
#[test]
fn the_tests_that_the_docs_name_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let sources = sources(&root);
    for page in ["docs/faults.md", "docs/security.md"] {
        let text = std::fs::read_to_string(root.join(page)).unwrap();
        for quoted in text.split('`').skip(1).step_by(2) {
            let (file, name) = quoted.rsplit_once("::").unwrap_or(("", quoted));
            // Test names have many words; flags, files and types in the text do not.
            if name.matches('_').count() < 4 {
                continue;
            }
            let exists = sources
                .iter()
                .any(|(path, source)| path.ends_with(file) && source.contains(&format!("fn {name}(")));
            assert!(exists, "{page} names {quoted}, which is not there");
        }
    }
}

/// Every file and folder that ARCHITECTURE.md names.
#[test]
fn the_files_that_the_architecture_names_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = std::fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let sources = sources(&root);
    for quoted in text.split('`').skip(1).step_by(2) {
        let is_path = quoted.ends_with(".rs") || quoted.contains('/') && !quoted.contains([' ', '\n']);
        let names_a_source = || sources.iter().any(|(path, _)| path.ends_with(&format!("/{quoted}")));
        let exists =
            root.join(quoted).exists() || root.join("crates").join(quoted).exists() || names_a_source();
        assert!(!is_path || exists, "ARCHITECTURE.md names {quoted}, which is not there");
    }
}

/// Every Rust file of ours, by its path.
fn sources(root: &Path) -> Vec<(String, String)> {
    let mut sources = Vec::new();
    let mut folders = vec![root.join("crates"), root.join("prover-cli")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let source = std::fs::read_to_string(&path).unwrap();
                sources.push((path.display().to_string(), source));
            }
        }
    }
    sources
}
