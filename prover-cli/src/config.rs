//! `config`: what holds, and who says so.

use crate::Output;
use cli_support::{Effective, ProofSystems, effective_settings};
use std::{fmt::Write, path::Path};

pub(crate) fn show(
    systems: &ProofSystems,
    file: Option<&Path>,
    database_url: Option<&str>,
    output: Output,
) -> anyhow::Result<()> {
    let mut settings = effective_settings(systems, file)?;
    // The one setting that a flag of this command can give.
    if let Some(given) = database_url
        && let Some(setting) = settings.iter_mut().find(|setting| setting.key == "database_url")
        && setting.value.as_deref() != Some(given)
    {
        (setting.value, setting.source) = (Some(given.to_owned()), "the command line".to_owned());
    }
    settings.iter_mut().for_each(Effective::hide_secret);
    let mut text = format!("{:<42}{:<34}  source\n", "setting", "value");
    for Effective { section, key, value, source } in &settings {
        let name = if section.is_empty() { (*key).to_owned() } else { format!("{section}.{key}") };
        let value = value.as_deref().unwrap_or("–");
        writeln!(text, "{name:<42}{value:<34}  {source}")?;
    }
    output.print(&settings, &text)
}
