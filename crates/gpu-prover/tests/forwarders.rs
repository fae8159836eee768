//! The forwarders are those of `cust`'s declarations: `UPDATE_FORWARDERS=1 cargo test -p gpu-prover --test forwarders`
//! writes them anew.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The source of a package that this one is built with.
fn source_of(package: &str) -> PathBuf {
    // Of packages for other platforms there may be no copy here.
    let version = Command::new("rustc").arg("-vV").output().unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--offline", "--all-features", "--filter-platform", host])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let found = metadata["packages"].as_array().unwrap().iter().find(|p| p["name"] == package).unwrap();
    Path::new(found["manifest_path"].as_str().unwrap()).with_file_name("src")
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Names of the driver's functions: `cu` and a capital.
fn driver_names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|w| w.strip_prefix("cu").is_some_and(|rest| rest.starts_with(char::is_uppercase))).collect()
}

/// Each declared function's parameters, by name.
fn declarations(bindings: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for declaration in bindings.split("pub fn ").skip(1) {
        let (signature, _) = declaration.split_once(';').unwrap();
        let Some(signature) = signature.trim().strip_suffix("-> CUresult") else { continue };
        let (name, parameters) = signature.split_once('(').unwrap();
        let parameters = parameters.trim().strip_suffix(')').unwrap();
        let parameters =
            parameters.replace("::std::os::raw::", "").split_whitespace().collect::<Vec<_>>().join(" ");
        found.insert(name.to_owned(), parameters.trim_end_matches(',').to_owned());
    }
    found
}

/// The enumeration's codes.
fn codes(bindings: &str) -> BTreeSet<i32> {
    let (_, body) = bindings.split_once("pub enum cudaError_enum {").unwrap();
    let (body, _) = body.split_once('}').unwrap();
    body.split(',')
        .filter_map(|line| line.split_once('='))
        .map(|(_, code)| code.trim().parse().unwrap())
        .collect()
}

fn generated() -> String {
    let mut files = Vec::new();
    rust_files(&source_of("cust"), &mut files);
    let used: Vec<String> = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    let used: BTreeSet<&str> = used.iter().flat_map(|text| driver_names(text)).collect();
    let bindings = fs::read_to_string(source_of("cust_raw").join("cuda.rs")).unwrap();
    let declared = declarations(&bindings);
    let mut text = String::from(
        "//! The driver's functions that `cust` calls. Written by `tests/forwarders.rs` from `cust_raw`'s declarations.\n\n\
         #![allow(non_snake_case, clippy::too_many_arguments, reason = \"the names and parameters are CUDA's\")]\n\n\
         use super::library::{Function, known};\n\
         use cust::sys::*;\n\
         use std::ffi::{c_char, c_int, c_uchar, c_uint, c_ushort, c_void};\n\n\
         /// The codes that `cust` knows.\n\
         pub(super) const KNOWN: &[c_int] = &[",
    );
    let codes: Vec<String> = codes(&bindings).iter().map(ToString::to_string).collect();
    let _ = write!(text, "{}", codes.join(", "));
    text.push_str(
        "];\n\n\
         macro_rules! forward {\n    \
             ($(fn $name:ident($($parameter:ident: $type:ty),*);)*) => {$(\n        \
                 #[unsafe(no_mangle)]\n        \
                 unsafe extern \"C\" fn $name($($parameter: $type),*) -> c_int {\n            \
                     static FUNCTION: Function = Function::named(stringify!($name));\n            \
                     match FUNCTION.address() {\n                \
                         Ok(address) => {\n                    \
                             // SAFETY: the driver's function of this name has this type, and the caller keeps its contract.\n                    \
                             unsafe {\n                        \
                                 let function: unsafe extern \"C\" fn($($type),*) -> c_int = std::mem::transmute(address);\n                        \
                                 known(function($($parameter),*))\n                    \
                             }\n                \
                         }\n                \
                         Err(code) => code,\n            \
                     }\n        \
                 }\n    \
             )*};\n\
         }\n\n\
         forward! {\n",
    );
    for (name, parameters) in declared.iter().filter(|(name, _)| used.contains(name.as_str())) {
        let _ = writeln!(text, "    fn {name}({parameters});");
    }
    text.push_str("}\n");
    text
}

#[test]
fn the_forwarders_are_those_of_the_declarations() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/driver/forwarders.rs");
    let generated = generated();
    assert!(generated.matches("\n    fn cu").count() > 80, "{generated}");
    if std::env::var_os("UPDATE_FORWARDERS").is_some() {
        fs::write(&path, &generated).unwrap();
        Command::new("rustfmt").arg("--edition=2024").arg(&path).status().unwrap();
    }
    let words = |text: &str| {
        text.replace(",)", ")").split_whitespace().collect::<String>().replace(",)", ")").replace(",]", "]")
    };
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(words(&written) == words(&generated), "{} is not current: see this test's file", path.display());
}
