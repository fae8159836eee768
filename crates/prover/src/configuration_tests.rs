//! `docs/configuration.md` against the flags and the keys that there are.

use crate::Cli;
use clap::{Arg, Command};
use cli_support::{DefaultValue, ProofSystems, SETTINGS};
use std::{fmt::Write, fs, path::PathBuf};

const BEGIN: &str = "<!-- settings: begin -->\n";
const END: &str = "<!-- settings: end -->";

fn docs() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md")
}

/// Every flag that the environment can set, of all commands, each once.
fn settable(command: &Command, found: &mut Vec<Arg>) {
    for arg in command.get_arguments().filter(|arg| arg.get_env().is_some() && !arg.is_positional()) {
        if !found.iter().any(|known| known.get_id() == arg.get_id()) {
            found.push(arg.clone());
        }
    }
    command.get_subcommands().for_each(|below| settable(below, found));
}

fn flags() -> Vec<Arg> {
    let mut found = Vec::new();
    settable(&cli_support::command::<Cli>(&ProofSystems::shipped()), &mut found);
    found
}

fn row(section: &str, key: &str, arg: &Arg) -> String {
    let long = arg.get_long().unwrap_or_default();
    let flag = match arg.get_short() {
        Some(short) => format!("`-{short}`, `--{long}`"),
        None => format!("`--{long}`"),
    };
    let file = match (key, section) {
        ("config", _) => String::new(),
        (key, "") => format!("`{key}`"),
        (key, section) => format!("`{section}.{key}`"),
    };
    let defaults: Vec<String> =
        arg.get_default_values().iter().map(|value| format!("`{}`", value.to_string_lossy())).collect();
    let environment = arg.get_env().unwrap_or_default().to_string_lossy();
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default().replace('|', "\\|");
    format!("| {flag} | `{environment}` | {file} | {} | {help} |", defaults.join(", "))
}

fn table() -> String {
    let flags = flags();
    let mut text = String::from("| flag | environment | file | default | what |\n|---|---|---|---|---|\n");
    let config = flags.iter().find(|arg| arg.get_id() == "config").unwrap();
    writeln!(text, "{}", row("", "config", config)).unwrap();
    for setting in SETTINGS {
        let arg = flags.iter().find(|arg| arg.get_id() == setting.key);
        let arg =
            arg.unwrap_or_else(|| panic!("the key {} has a flag with an environment variable", setting.key));
        writeln!(text, "{}", row(setting.section, setting.key, arg)).unwrap();
    }
    text
}

#[test]
fn the_configuration_table_is_what_help_says() {
    let text = fs::read_to_string(docs()).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (found, after) = rest.split_once(END).unwrap();
    let expected = table();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(docs(), format!("{before}{BEGIN}{expected}{END}{after}")).unwrap();
    } else {
        assert_eq!(found, expected, "UPDATE_DOCS=1 cargo test -p prover --lib configuration");
    }
}

#[test]
fn every_flag_of_the_environment_is_a_key_of_the_configuration_file_and_names_itself() {
    for arg in flags().iter().filter(|arg| arg.get_id() != "config") {
        let id = arg.get_id().as_str();
        assert!(SETTINGS.iter().any(|setting| setting.key == id), "{id} is not in cli_support::SETTINGS");
        assert_eq!(arg.get_long(), Some(id.replace('_', "-").as_str()), "the key is the flag's name");
        let environment = arg.get_env().unwrap().to_string_lossy().into_owned();
        let expected = format!("ROUNDHOUSE_{}", id.to_uppercase());
        assert!(environment == expected || environment == "DATABASE_URL", "{environment}");
    }
}

#[test]
fn the_defaults_that_config_shows_are_those_of_the_flags() {
    let flags = flags();
    for setting in SETTINGS {
        let arg = flags.iter().find(|arg| arg.get_id() == setting.key).unwrap();
        let defaults = arg.get_default_values().iter().map(|value| value.to_string_lossy());
        let of_the_flag = defaults.collect::<Vec<_>>().join(",");
        let shown = match setting.default {
            DefaultValue::Value(value) => value,
            DefaultValue::Words(_) => "",
        };
        assert_eq!(shown, of_the_flag, "{}", setting.key);
    }
}

#[test]
fn the_sample_configuration_is_one_that_the_program_takes() {
    let text = fs::read_to_string(docs()).unwrap();
    let sample = text.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sample.toml");
    fs::write(&path, sample).unwrap();
    let arguments = ["prover", "run", "--config", path.to_str().unwrap(), "--listen=127.0.0.1:1"];
    let cli: Cli = cli_support::parse_from(&arguments.map(Into::into), &ProofSystems::shipped()).unwrap();
    let crate::Command::Run(run) = cli.command else { panic!("run") };
    let shown = format!("{run:?}");
    // The flag goes before the file, the file before the default, and no secret is shown.
    for part in [
        "127.0.0.1:1",
        "generator_count: 2",
        "[\"basic-circuits\", \"leaf-aggregation\"]",
        "poll_interval_ms: 5000",
    ] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    assert!(!shown.contains("db.internal"), "{shown}");
}

#[test]
fn a_flag_goes_before_what_it_excludes_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("simple.toml");
    fs::write(&path, "[circuit_prover]\nthreads = 4\n").unwrap();
    let run = |flags: &[&str]| {
        let arguments = [&["prover", "run", "--config", path.to_str().unwrap()], flags].concat();
        let arguments: Vec<_> = arguments.into_iter().map(Into::into).collect();
        format!("{:?}", cli_support::parse_from::<Cli>(&arguments, &ProofSystems::shipped()).unwrap().command)
    };
    assert!(run(&[]).contains("threads: Some(4)"));
    let generators = run(&["-l", "3"]);
    assert!(
        generators.contains("threads: None") && generators.contains("light_wvg_count: 3"),
        "{generators}"
    );
}

#[test]
fn mistakes_in_the_configuration_file_are_refused_with_their_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wrong.toml");
    for (content, words) in [
        ("listen = \"127.0.0.1:1\"\nlisten_on = 3", ["line 2", "listen_on"]),
        ("[circuit_prover]\n\nlight_wvg_count = \"many\"", ["line 3", "--light-wvg-count"]),
        ("[circuit_prover]\nthreads = 0", ["line 2", "--threads"]),
        ("[provers]\nthreads = 1", ["line 2", "[provers]"]),
        ("component = [\"gpu\"]", ["line 1", "gpu"]),
        ("listen = { port = 3 }", ["line 1", "port"]),
        ("listen = [", ["wrong.toml", "line 1"]),
        ("log_format = \"text\"\nlog_format = \"json\"", ["line 2", "duplicate"]),
    ] {
        fs::write(&path, content).unwrap();
        let arguments = ["prover", "run", "--config", path.to_str().unwrap()];
        let error =
            cli_support::parse_from::<Cli>(&arguments.map(Into::into), &ProofSystems::shipped()).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let text = error.to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{words:?} are not in: {text}");
        assert!(text.contains("wrong.toml"), "{text}");
    }
}
