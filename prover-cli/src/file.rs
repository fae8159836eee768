//! `file-info`: artifacts as they lie in a folder.

use crate::Output;
use anyhow::Context;
use artifact_store::Header;
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct FileInfoArgs {
    /// An artifact's file.
    file: PathBuf,
}

#[derive(Serialize)]
struct FileInfo {
    kind: &'static str,
    payload_bytes: u64,
    codec: u8,
    schema_version: u16,
    /// BLAKE3 of the payload, as the job store has it too.
    checksum: String,
}

pub(crate) fn info(args: &FileInfoArgs, output: Output) -> anyhow::Result<()> {
    let bytes = std::fs::read(&args.file).with_context(|| format!("cannot read {}", args.file.display()))?;
    let (header, _) = Header::check(&bytes)
        .map_err(|reason| anyhow::anyhow!("{} is not a whole artifact: {reason}", args.file.display()))?;
    let info = FileInfo {
        kind: header.kind.as_str(),
        payload_bytes: header.size_bytes,
        codec: header.codec,
        schema_version: header.schema_version,
        checksum: header.checksum.iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    let text = format!(
        "{}: a whole {}, {} bytes, schema version {}, BLAKE3 {}\n",
        args.file.display(),
        info.kind,
        info.payload_bytes,
        info.schema_version,
        info.checksum
    );
    output.print(&info, &text)
}
