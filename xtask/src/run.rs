//! `demo`, `load`, `bench` and `scenario`: build what they need, then run it.

use std::{
    ffi::OsString,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result};

use crate::workspace;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Passed on; --help lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// The load is small: the quick build shows the same.
pub(crate) fn demo(args: &Args) -> Result<ExitCode> {
    build_and_run("debug", "demo", &["--bin", "tidegate", "--bin", "demo"], args)
}

/// It has a goal in milliseconds.
pub(crate) fn load(args: &Args) -> Result<ExitCode> {
    let what = ["--release", "--bin", "load", "--bin", "tidegate"];
    build_and_run("release", "load", &what, args)
}

pub(crate) fn bench(args: &Args) -> Result<ExitCode> {
    let what = [
        "--release",
        "--bin",
        "bench",
        "--bin",
        "tidegate",
        "--bin",
        "tidegate-peer",
    ];
    build_and_run("release", "bench", &what, args)
}

pub(crate) fn scenario(args: &Args) -> Result<ExitCode> {
    let bins = ["--bin", "scenario", "--bin", "test-worker", "--bin", "tidegate"];
    build_and_run("release", "scenario", &[&["--release"], &bins[..]].concat(), args)
}

fn build_and_run(profile: &str, name: &str, what: &[&str], args: &Args) -> Result<ExitCode> {
    let root = workspace::root();
    let mut build = Command::new(env!("CARGO"));
    build
        .args([
            "build",
            "--quiet",
            "--package",
            "tidegate",
            "--package",
            "tidegate-tests",
        ])
        .args(what);
    if !build
        .current_dir(&root)
        .status()
        .context("cargo does not start")?
        .success()
    {
        return Ok(ExitCode::FAILURE);
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), Into::into);
    let program = target.join(profile).join(name);
    let mut run = Command::new(&program);
    let status = run
        .args(&args.args)
        .status()
        .with_context(|| format!("{} does not start", program.display()))?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
