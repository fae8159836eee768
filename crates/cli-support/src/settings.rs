//! Settings: a flag goes before its environment variable, that before the configuration file, that before the default.
//!
//! The file is TOML and strict: a key that no program knows, or a value that its flag would refuse, is an error that names
//! file and line. [`SETTINGS`] says which key is which flag; `docs/configuration.md` shows the same as a table, and a test
//! holds the three together.

use crate::{BadInput, ProofSystems};
use clap::builder::PossibleValuesParser;
use clap::parser::ValueSource;
use clap::{ArgMatches, Command, CommandFactory, FromArgMatches};
use outside::{read_text_limited, shown};
use std::{ffi::OsString, path::Path};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Larger configuration files are refused unread.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// The flag that names the file.
const CONFIG_FLAG: &str = "config";
/// The flags that name a proof system.
const PROOF_SYSTEM_FLAGS: [&str; 2] = ["proof_system", "accepted_proof_system"];

/// A key of the configuration file and the flag that it sets.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// The section, empty for keys that stand at the top.
    pub section: &'static str,
    /// The key; with dashes for underscores it is the flag's name.
    pub key: &'static str,
    /// What holds where nobody gives a value.
    pub default: DefaultValue,
}

/// What holds where nobody gives a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultValue {
    /// This value.
    Value(&'static str),
    /// What these words say.
    Words(&'static str),
}

use DefaultValue::{Value, Words};

const fn shared(key: &'static str, default: DefaultValue) -> Setting {
    Setting { section: "", key, default }
}

const fn of(section: &'static str, key: &'static str, default: DefaultValue) -> Setting {
    Setting { section, key, default }
}

/// Every setting of every program.
pub const SETTINGS: &[Setting] = &[
    shared("component", Words("none; `prover run` must be told")),
    shared("database_url", Words("none; must be given")),
    shared("object_store", Words("none; must be given")),
    shared("proof_system", Value("ledger")),
    shared("mock_file", Words("none; the mock has its own costs")),
    shared("keys", Words("the user's cache folder")),
    shared("postgres_bin", Words("the first in PATH, or in the usual folders")),
    shared(
        "postgresql_releases",
        Value("https://github.com/theseus-rs/postgresql-binaries/releases/download"),
    ),
    shared("listen", Words("nothing is served")),
    shared("allowed_host", Words("addresses, and names without a dot")),
    shared("http_token_file", Words("none; no token is asked for")),
    shared("log_format", Value("text")),
    shared("drain_timeout_seconds", Value("60")),
    shared("heartbeat_interval_ms", Value("5000")),
    shared("lease_duration_ms", Value("20000")),
    shared("poll_interval_ms", Value("5000")),
    shared("job_timeout_seconds", Value("3600")),
    of("witness_generator", "round", Value("all-rounds")),
    of("witness_generator", "generator_count", Value("1")),
    of("circuit_prover", "light_wvg_count", Value("1")),
    of("circuit_prover", "heavy_wvg_count", Value("1")),
    of("circuit_prover", "threads", Words("the two counts above hold")),
    of("circuit_prover", "device", Value("cpu")),
    of(
        "circuit_prover",
        "max_allocation",
        Words("three quarters of what this process may take; of a device nearly all"),
    ),
    of("prover_job_monitor", "rescue_interval_ms", Value("1000")),
    of("prover_job_monitor", "retry_interval_ms", Value("500")),
    of("prover_job_monitor", "archive_after_seconds", Value("3600")),
    of("prover_job_monitor", "delete_after_days", Value("30")),
    of("prover_job_monitor", "collect_after_hours", Value("24")),
    of("prover_job_monitor", "report_interval_ms", Value("5000")),
    of("prove", "data", Words("the data folder")),
];

/// A setting as it holds, and who says so.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
pub struct Effective {
    /// Its section in the file, empty for settings that all programs share.
    pub section: &'static str,
    /// Its key.
    pub key: &'static str,
    /// Its value; `None` where nobody gives one, and its source says in words what holds.
    pub value: Option<String>,
    /// Who gives it: the environment, the file and its line, or the default.
    pub source: String,
}

impl Effective {
    /// Takes what may be a password out of the value.
    pub fn hide_secret(&mut self) {
        let Some(value) = &self.value else { return };
        let is_url = url::Url::parse(value).is_ok_and(|url| !url.cannot_be_a_base());
        self.value = Some(if self.key.ends_with("_url") && !is_url {
            "hidden: it is not a valid URL".to_owned()
        } else {
            shown(value)
        });
    }
}

/// Every setting of every program as it holds here, but for what flags say.
///
/// # Errors
/// [`BadInput`] with the file, the line and the mistake.
pub fn effective_settings(systems: &ProofSystems, file: Option<&Path>) -> Result<Vec<Effective>, BadInput> {
    let mut given = Vec::new();
    let mut text = String::new();
    if let Some(path) = file {
        let bad = |reason: String| BadInput(format!("the configuration file {}: {reason}", path.display()));
        text = read_text_limited(path, FILE_BYTES_MAX).map_err(|e| bad(e.to_string()))?;
        let table = DeTable::parse(&text).map_err(|e| bad(syntax_error(&e, &text)))?;
        given = read_values(table.get_ref()).map_err(|(_, reason)| bad(reason))?;
    }
    let effective = |setting: &Setting| {
        let variable = match setting.key {
            "database_url" => "DATABASE_URL".to_owned(),
            key => format!("ROUNDHOUSE_{}", key.to_uppercase()),
        };
        let from_file = given.iter().find(|value| value.key == setting.key);
        let (value, source) = match (std::env::var(&variable), from_file, setting.default) {
            (Ok(value), _, _) => (Some(value), format!("environment variable {variable}")),
            (_, Some(value), _) => {
                let line = text[..value.offset.min(text.len())].matches('\n').count() + 1;
                let path = file.map(|path| path.display().to_string()).unwrap_or_default();
                (Some(value.texts.join(",")), format!("{path}, line {line}"))
            }
            // A program of one's own may have another.
            (_, _, Value(_)) if setting.key == "proof_system" => {
                (systems.default_name().map(str::to_owned), "default".to_owned())
            }
            (_, _, Value(value)) => (Some(value.to_owned()), "default".to_owned()),
            (_, _, Words(words)) => (None, format!("default: {words}")),
        };
        Effective { section: setting.section, key: setting.key, value, source }
    };
    Ok(SETTINGS.iter().map(effective).collect())
}

/// Parses the command line, with what the configuration file says as defaults. Ends the process on a mistake, with exit
/// status 2, and after `--help`.
#[must_use]
pub fn parse<C: CommandFactory + FromArgMatches>(systems: &ProofSystems) -> C {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    match parse_from(&arguments, systems) {
        Ok(parsed) => parsed,
        Err(error) if error.use_stderr() => {
            // A URL in the wrong place is quoted, and may hold a password.
            let text = error.render();
            let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
            let text = if is_terminal { text.ansi().to_string() } else { text.to_string() };
            eprint!("{}", outside::with_urls_shown(&text));
            std::process::exit(error.exit_code());
        }
        Err(help) => help.exit(),
    }
}

/// As [`parse`], of these arguments, the first of which is the program's name.
///
/// # Errors
/// As clap reports them; [`clap::Error::exit`] prints them.
pub fn parse_from<C: CommandFactory + FromArgMatches>(
    arguments: &[OsString],
    systems: &ProofSystems,
) -> Result<C, clap::Error> {
    let command = command::<C>(systems);
    let mut matches = command.clone().try_get_matches_from(arguments)?;
    let path = config_path(&matches);
    if let Some(path) = path {
        let with_file = apply_file(command.clone(), &matches, Path::new(&path))
            .map_err(|e| command.clone().error(clap::error::ErrorKind::InvalidValue, e))?;
        matches = with_file.try_get_matches_from(arguments)?;
    }
    C::from_arg_matches(&matches)
}

/// The command, whose `--proof-system` takes the names of these systems.
#[must_use]
pub fn command<C: CommandFactory>(systems: &ProofSystems) -> Command {
    with_systems(C::command(), systems)
}

fn with_systems(command: Command, systems: &ProofSystems) -> Command {
    // The help would show what they hold, a password in a URL too.
    let command = command.mut_args(|arg| arg.hide_env_values(true));
    let command = PROOF_SYSTEM_FLAGS.iter().fold(command, |command, id| {
        if !command.get_arguments().any(|arg| arg.get_id() == id) {
            return command;
        }
        command.mut_arg(id, |arg| {
            let arg = arg.value_parser(PossibleValuesParser::new(systems.values()));
            match systems.default_name() {
                Some(name) => arg.default_value(name),
                None => arg,
            }
        })
    });
    let names: Vec<String> = command.get_subcommands().map(|below| below.get_name().to_owned()).collect();
    names
        .into_iter()
        .fold(command, |command, name| command.mut_subcommand(name, |below| with_systems(below, systems)))
}

/// The flag is global, so it may stand at any level.
fn config_path(matches: &ArgMatches) -> Option<OsString> {
    let here = matches.try_get_raw(CONFIG_FLAG).ok().flatten().and_then(|mut values| values.next());
    here.map(OsString::from).or_else(|| matches.subcommand().and_then(|(_, below)| config_path(below)))
}

/// The command with the file's values as its defaults. `given` is what flags and environment say by themselves.
fn apply_file(command: Command, given: &ArgMatches, path: &Path) -> Result<Command, BadInput> {
    let bad = |reason: String| BadInput(format!("the configuration file {}: {reason}", path.display()));
    let text = read_text_limited(path, FILE_BYTES_MAX).map_err(|e| bad(e.to_string()))?;
    let table = DeTable::parse(&text).map_err(|e| bad(syntax_error(&e, &text)))?;
    let values = read_values(table.get_ref()).map_err(|(offset, reason)| {
        let line = text[..offset.min(text.len())].matches('\n').count() + 1;
        bad(format!("line {line}: {reason}"))
    })?;
    let mut command = command;
    for value in values {
        if let Some(owner) = command_with(&command, value.key) {
            check_value(owner, &value).map_err(|reason| {
                let line = text[..value.offset.min(text.len())].matches('\n').count() + 1;
                bad(format!("line {line}: {reason}"))
            })?;
            // A flag goes before the file also where it excludes what the file says.
            let excluded = owner.get_arguments().filter(|arg| arg.get_id() == value.key);
            let mut excluding = excluded.flat_map(|arg| owner.get_arg_conflicts_with(arg));
            if excluding.any(|arg| is_given(given, arg.get_id().as_str())) {
                continue;
            }
        }
        command = set_default(command, &value);
    }
    Ok(command)
}

/// Whether a flag or the environment says something of this argument, here or in a subcommand.
fn is_given(matches: &ArgMatches, id: &str) -> bool {
    let is_known = matches.try_contains_id(id).is_ok();
    let is_here =
        is_known && matches.value_source(id).is_some_and(|source| source != ValueSource::DefaultValue);
    is_here || matches.subcommand().is_some_and(|(_, below)| is_given(below, id))
}

/// Where the file is no TOML, and why. The parser's own words quote the line, which may hold a password.
fn syntax_error(error: &toml::de::Error, text: &str) -> String {
    let offset = error.span().map_or(0, |span| span.start).min(text.len());
    let line = text.as_bytes()[..offset].iter().filter(|byte| **byte == b'\n').count() + 1;
    format!("line {line}: {}", error.message())
}

struct Given {
    key: &'static str,
    texts: Vec<String>,
    offset: usize,
}

/// All values of the file, or where the first mistake is.
fn read_values(table: &DeTable<'_>) -> Result<Vec<Given>, (usize, String)> {
    let mut values = Vec::new();
    for (key, value) in table {
        match value.get_ref() {
            DeValue::Table(section) => {
                for (inner, value) in section {
                    values.push(read_value(key.get_ref(), inner, value)?);
                }
            }
            _ => values.push(read_value("", key, value)?),
        }
    }
    Ok(values)
}

fn read_value(
    section: &str,
    key: &Spanned<std::borrow::Cow<'_, str>>,
    value: &Spanned<DeValue<'_>>,
) -> Result<Given, (usize, String)> {
    let offset = key.span().start;
    let setting = SETTINGS.iter().find(|s| s.section == section && s.key == key.get_ref());
    let Some(setting) = setting else {
        let place =
            if section.is_empty() { "the top".to_owned() } else { format!("[{}]", shown_name(section)) };
        let name = shown_name(key.get_ref());
        return Err((offset, format!("there is no setting {name} at {place}; see docs/configuration.md")));
    };
    let scalar = |value: &DeValue<'_>| match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.to_string()),
        DeValue::Float(number) => Some(number.to_string()),
        DeValue::Boolean(flag) => Some(flag.to_string()),
        _ => None,
    };
    let texts = match value.get_ref() {
        DeValue::Array(items) => items.iter().map(|item| scalar(item.get_ref())).collect(),
        single => scalar(single).map(|text| vec![text]),
    };
    let texts =
        texts.ok_or_else(|| (offset, format!("{} is neither a value nor a list of values", setting.key)))?;
    Ok(Given { key: setting.key, texts, offset })
}

/// A key of the file, where it looks like one: a URL in its place may hold a password.
fn shown_name(name: &str) -> &str {
    let is_name = name.len() <= 32 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
    if is_name { name } else { "of another form (hidden)" }
}

/// The command that has this argument: this one or one below it.
fn command_with<'a>(command: &'a Command, key: &str) -> Option<&'a Command> {
    if command.get_arguments().any(|arg| arg.get_id() == key) {
        return Some(command);
    }
    command.get_subcommands().find_map(|below| command_with(below, key))
}

/// Gives a value to its command alone, to hear what the argument thinks of it.
fn check_value(command: &Command, value: &Given) -> Result<(), String> {
    let argument = command.get_arguments().find(|arg| arg.get_id() == value.key);
    let takes_many = argument.is_some_and(|arg| {
        matches!(arg.get_action(), clap::ArgAction::Append) || arg.get_value_delimiter().is_some()
    });
    if value.texts.len() > 1 && !takes_many {
        return Err(format!("{} takes one value, not a list of {}", value.key, value.texts.len()));
    }
    let alone = Command::new("file")
        .no_binary_name(true)
        .args(command.get_arguments().map(|arg| arg.clone().required(false).env(None::<&str>)));
    let name = value.key.replace('_', "-");
    let is_positional = alone.get_arguments().any(|arg| arg.get_id() == value.key && arg.is_positional());
    let words =
        value.texts.iter().map(|text| if is_positional { text.clone() } else { format!("--{name}={text}") });
    // The first line says what is wrong; what follows is about the command line.
    alone.try_get_matches_from(words).map(drop).map_err(|e| {
        let text = e.to_string();
        let words = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        // It quotes the value.
        value.texts.iter().fold(words, |words, text| {
            let is_plain = shown_name(text) == text;
            if is_plain { words } else { words.replace(text.as_str(), "(hidden)") }
        })
    })
}

fn set_default(command: Command, value: &Given) -> Command {
    let has_arg = command.get_arguments().any(|arg| arg.get_id() == value.key);
    let command = if has_arg {
        command.mut_arg(value.key, |arg| arg.required(false).default_values(value.texts.clone()))
    } else {
        command
    };
    let names: Vec<String> = command.get_subcommands().map(|below| below.get_name().to_owned()).collect();
    names
        .into_iter()
        .fold(command, |command, name| command.mut_subcommand(name, |below| set_default(below, value)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Program {
        #[arg(env = "DATABASE_URL")]
        database_url: Option<String>,
        #[arg(long)]
        config: Option<std::path::PathBuf>,
        #[arg(long)]
        listen: Option<std::net::SocketAddr>,
        #[arg(long, value_delimiter = ',')]
        round: Vec<String>,
    }

    #[test]
    fn the_help_shows_no_value_of_an_environment_variable() {
        let command = command::<Program>(&ProofSystems::shipped());
        assert!(command.get_arguments().any(|arg| arg.get_env().is_some()));
        assert!(command.get_arguments().all(|arg| arg.get_env().is_none() || arg.is_hide_env_values_set()));
    }

    fn refused(content: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file.toml");
        std::fs::write(&path, content).unwrap();
        let arguments = ["program", "--config", path.to_str().unwrap()].map(OsString::from);
        parse_from::<Program>(&arguments, &ProofSystems::shipped()).unwrap_err().to_string()
    }

    #[test]
    fn a_mistake_in_the_file_is_named_without_what_may_be_a_password() {
        for (content, words) in [
            ("database_url = [\"a\", \"postgres://u:sw0rdfish@h/db\"]", "database_url takes one value"),
            ("listen = \"postgres://u:sw0rdfish@h/db\"", "--listen"),
            ("listen = [\"127.0.0.1:1\", \"postgres://u:sw0rdfish@h/db\"]", "listen takes one value"),
            ("\"postgres://u:sw0rdfish@h/db\" = 1", "there is no setting"),
            ("[\"postgres://u:sw0rdfish@h/db\"]\nlisten = 1", "there is no setting listen"),
            ("listen = \"postgres://u:sw0rdfish@h/db", "line 1"),
        ] {
            let text = refused(content);
            assert!(text.contains(words) && !text.contains("sw0rdfish"), "{content}: {text}");
        }
        assert!(refused("listen = \"nowhere\"").contains("nowhere"), "what is plain is quoted");
    }

    #[test]
    fn no_value_is_shown_with_what_may_be_its_password() {
        for value in [
            "postgres://u:sw0rdfish@h/db",
            "postgres://u:12/sw0rdfish@h/db",
            "postgres://u:1#sw0rdfish@h/db",
            "postgres://u@h/db?password=sw0rdfish",
            "postgres://h/db#sw0rdfish",
            "postgres:u:sw0rdfish@h/db",
            "postgres:sw0rdfish",
            "sw0rdfish",
        ] {
            let value = Some(value.to_owned());
            let mut setting = Effective { section: "", key: "database_url", value, source: String::new() };
            setting.hide_secret();
            assert!(!setting.value.as_ref().unwrap().contains("sw0rdfish"), "{setting:?}");
        }
        for value in
            ["s3://KEY:12/sw0rdfish@bucket", "s3://KEY:sw0rdfish@bucket", "https://h/x?sig=sw0rdfish"]
        {
            let value = Some(value.to_owned());
            let mut setting = Effective { section: "", key: "object_store", value, source: String::new() };
            setting.hide_secret();
            assert!(!setting.value.as_ref().unwrap().contains("sw0rdfish"), "{setting:?}");
        }
    }
}
