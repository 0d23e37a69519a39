//! `cargo xtask codegen`: `proto/` to committed Rust, without a build script.
//!
//! The generated code is committed so that a build needs no code generator, a review shows what a change of the
//! contract does to callers, and IDEs find the types. The price is that it can go stale: `--check` (run by `tidy`)
//! regenerates beside it and compares.

use crate::workspace;
use anyhow::{Context, Result, ensure};
use prost::Message;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// The packages by their folders below `proto/`: ours, and KEDA's, which we serve. The files' names are prost's.
const PACKAGES: [(&str, &str); 2] = [
    ("tidegate/v1", "tidegate.v1.rs"),
    ("externalscaler", "externalscaler.rs"),
];
const DESCRIPTOR: &str = "descriptor.bin";
const OUT_DIR: &str = "crates/protocol/src/gen";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Write nothing; fail when the committed files differ from what proto/ says
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let root = workspace::root();
    if args.check {
        let stale = stale_files(&root)?;
        for path in &stale {
            eprintln!("{path}: stale: run cargo xtask codegen");
        }
        return Ok(if stale.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        });
    }
    let out_dir = root.join(OUT_DIR);
    fs::create_dir_all(&out_dir).with_context(|| format!("create {OUT_DIR}"))?;
    for (name, content) in generate(&root)? {
        let path = out_dir.join(name);
        // An unchanged file keeps its time stamp, so cargo does not rebuild everything above protocol.
        if fs::read(&path).ok().as_deref() != Some(content.as_slice()) {
            fs::write(&path, &content).with_context(|| format!("write {OUT_DIR}/{name}"))?;
            println!("wrote {OUT_DIR}/{name}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Committed files (relative to the root) that differ from what `proto/` generates now.
pub(crate) fn stale_files(root: &Path) -> Result<Vec<String>> {
    let generated = generate(root)?;
    let differs = |name: &str, content: &[u8]| {
        let committed = fs::read(root.join(OUT_DIR).join(name)).ok();
        committed.as_deref() != Some(content)
    };
    let stale = generated.iter().filter(|(name, content)| differs(name, content));
    Ok(stale.map(|(name, _)| format!("{OUT_DIR}/{name}")).collect())
}

fn generate(root: &Path) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let include = root.join("proto");
    let mut protos = Vec::new();
    for (folder, _) in PACKAGES {
        protos.extend(proto_files(&include.join(folder))?);
    }
    let mut descriptors = protox::compile(&protos, [&include]).context("compile proto/")?;

    let scratch = tempfile::tempdir().context("create a scratch directory")?;
    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        // Payloads are slices of the received frame, not copies of it.
        .bytes(".")
        .codec_path("crate::codec::Messages")
        .emit_rerun_if_changed(false)
        .out_dir(scratch.path())
        .compile_fds(descriptors.clone())
        .context("generate Rust from the descriptors")?;
    let mut files = Vec::new();
    for (_, name) in PACKAGES {
        let generated = scratch.path().join(name);
        rustfmt(root, &generated)?;
        files.push((
            name,
            fs::read(&generated).with_context(|| format!("read the generated {name}"))?,
        ));
    }

    // Reflection serves names and types. Comments and line numbers would triple the size of every binary's copy, and
    // make the file change when only a comment did.
    for file in &mut descriptors.file {
        file.source_code_info = None;
    }
    files.push((DESCRIPTOR, descriptors.encode_to_vec()));
    Ok(files)
}

/// Sorted, so that the output does not depend on the file system's order.
fn proto_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let path = entry.context("read a directory entry")?.path();
        if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    files.sort();
    ensure!(!files.is_empty(), "no .proto file in {}", dir.display());
    Ok(files)
}

fn rustfmt(root: &Path, file: &Path) -> Result<()> {
    let mut command = Command::new("rustfmt");
    command
        .args(["--edition", "2024", "--config-path"])
        .arg(root.join("rustfmt.toml"))
        .arg(file);
    workspace::output_of(&mut command).context("format the generated code (rustup component add rustfmt)")?;
    Ok(())
}
