//! What files may import: no circles within a crate, and the store's layers.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Folders of the store, lowest first; those of one line stand side by side. A file names only files of its own folder and of those
/// before it.
const STORE_LAYERS: &[&[&str]] = &[
    &["model"],
    &["database"],
    &["batches"],
    &["leases"],
    &["runner", "duties", "operator", "reports", "measure"],
    // Puts a store together.
    &["connect"],
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The modules of a crate by their path (`database::url`; the crate's root is empty), with their source: without comments and tests.
fn modules(source_folder: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![source_folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let relative = path.strip_prefix(source_folder).unwrap().with_extension("");
            let mut parts: Vec<&str> = relative.iter().map(|part| part.to_str().unwrap()).collect();
            let is_tests = parts.iter().any(|part| part.ends_with("tests"));
            if path.extension().is_none_or(|extension| extension != "rs") || is_tests {
                continue;
            }
            if matches!(parts.last(), Some(&("mod" | "lib" | "main"))) {
                parts.pop();
            }
            let source = fs::read_to_string(&path).unwrap();
            let source = source.split("#[cfg(test)]\nmod tests").next().unwrap();
            let lines = source.lines().map(|line| line.split("//").next().unwrap_or_default());
            found.insert(parts.join("::"), lines.collect::<Vec<_>>().join("\n"));
        }
    }
    found
}

/// Every path that the source names from the crate's root on, `{…}` spread out.
fn crate_paths(source: &str) -> Vec<String> {
    let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let mut paths = Vec::new();
    for (at, _) in source.match_indices("crate::") {
        if source[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &source[at + "crate::".len()..];
        let path = &rest[..rest.find(|c| !is_path(c)).unwrap_or(rest.len())];
        match rest[path.len()..].strip_prefix('{') {
            Some(group) => {
                let names = group.split('}').next().unwrap().split(',').map(str::trim);
                paths.extend(names.filter(|name| !name.is_empty()).map(|name| format!("{path}{name}")));
            }
            None => paths.push(path.to_owned()),
        }
    }
    paths
}

/// The modules that each names, the crate's root apart: it holds what all of them share.
fn imports(modules: &BTreeMap<String, String>) -> BTreeMap<&str, BTreeSet<&str>> {
    let module_of = |path: &str| {
        let parts: Vec<&str> = path.split("::").collect();
        let known = (1..=parts.len()).rev().find_map(|length| {
            modules.get_key_value(&parts[..length].join("::")).map(|(name, _)| name.as_str())
        });
        known.filter(|name| !name.is_empty())
    };
    modules
        .iter()
        .filter(|(name, _)| !name.is_empty())
        .map(|(name, source)| {
            let named =
                crate_paths(source).iter().filter_map(|path| module_of(path)).collect::<BTreeSet<_>>();
            (name.as_str(), named.into_iter().filter(|other| other != name).collect())
        })
        .collect()
}

/// A circle that begins and ends at this module.
fn circle<'a>(imports: &BTreeMap<&'a str, BTreeSet<&'a str>>, start: &'a str) -> Option<Vec<&'a str>> {
    let mut ways = vec![vec![start]];
    let mut seen = BTreeSet::new();
    while let Some(way) = ways.pop() {
        for next in imports.get(way.last()?).into_iter().flatten() {
            if *next == start {
                return Some(way);
            }
            if seen.insert(*next) {
                ways.push(way.iter().copied().chain([*next]).collect());
            }
        }
    }
    None
}

fn crates() -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> =
        fs::read_dir(root().join("crates")).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.push(root().join("prover-cli"));
    all
}

#[test]
fn no_two_files_of_a_crate_import_each_other_in_a_circle() {
    for folder in crates() {
        let modules = modules(&folder.join("src"));
        let imports = imports(&modules);
        for name in imports.keys() {
            let found = circle(&imports, name);
            assert!(
                found.is_none(),
                "{}: {} import each other",
                folder.display(),
                found.unwrap().join(" → ")
            );
        }
    }
}

#[test]
fn the_stores_layers_name_only_those_below() {
    let modules = modules(&root().join("crates/job-store/src"));
    let layer = |name: &str| {
        let folder = name.split("::").next().unwrap();
        let found = STORE_LAYERS.iter().position(|layer| layer.contains(&folder));
        (found.unwrap_or_else(|| panic!("{name} is in no layer")), folder.to_owned())
    };
    for (name, others) in imports(&modules) {
        let (height, folder) = layer(name);
        for other in others {
            let (other_height, other_folder) = layer(other);
            assert!(
                other_height < height || folder == other_folder,
                "{name} names {other}, which is not below it"
            );
        }
    }
}

#[test]
fn the_stores_modules_are_imported_by_their_path() {
    for (name, source) in modules(&root().join("crates/job-store/src")) {
        for path in crate_paths(&source) {
            let is_by_path = path.starts_with(|c: char| c.is_lowercase());
            assert!(is_by_path, "{name} names crate::{path}: name the module that it is in");
        }
    }
}

/// What several operations do stands in one of them; a change of it is one change.
#[test]
fn what_the_stores_operations_share_stands_once() {
    let all = modules(&root().join("crates/job-store/src"));
    for shared in ["INSERT INTO job_attempts", "ORDER BY priority DESC, deadline", "least(regenerations + $2"]
    {
        let times: usize = all.values().map(|source| source.matches(shared).count()).sum();
        assert_eq!(times, 1, "{shared}");
    }
}
