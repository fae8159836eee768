//! `prover gpu`: the devices of this machine.

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum GpuCommand {
    /// Look for CUDA's driver, and show the devices that it sees. Circuits are proven on the CPU in this version, whatever is found.
    Check(CheckArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(command: &GpuCommand) -> anyhow::Result<()> {
    let GpuCommand::Check(CheckArgs { json }) = command;
    check(*json)
}

#[cfg(not(feature = "gpu"))]
fn check(_json: bool) -> anyhow::Result<()> {
    anyhow::bail!(
        "this program was built without devices; build it with the feature `gpu`, which is there by default"
    )
}

#[cfg(feature = "gpu")]
fn check(json: bool) -> anyhow::Result<()> {
    use anyhow::Context;
    use std::fmt::Write as _;
    use std::io::Write as _;

    let found = gpu_prover::driver::devices()?;
    let text = if json {
        let devices: Vec<_> = found
            .devices
            .iter()
            .map(|device| {
                serde_json::json!({
                    "ordinal": device.ordinal,
                    "name": device.name,
                    "memory_bytes": device.memory_bytes,
                    "compute_capability": format!("{}.{}", device.compute_capability.0, device.compute_capability.1),
                    "multiprocessors": device.multiprocessors,
                })
            })
            .collect();
        serde_json::json!({ "cuda_version": found.driver.to_string(), "devices": devices }).to_string()
    } else {
        let mut text = format!("the driver supports CUDA {}", found.driver);
        for device in &found.devices {
            let (major, minor) = device.compute_capability;
            let _ = write!(
                text,
                "\ndevice {}: {}, {:.1} GiB, compute capability {major}.{minor}, {} multiprocessors",
                device.ordinal,
                device.name,
                device.memory_bytes as f64 / f64::from(1 << 30),
                device.multiprocessors
            );
        }
        text
    };
    writeln!(std::io::stdout(), "{text}").context("cannot print what was found")
}
