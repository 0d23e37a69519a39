//! `cargo xtask test`: everything that must hold, in one command, quiet when it does.
//!
//! The stages run in order of how fast they find a mistake. Output is kept back and shown only for a stage that fails.

mod needs;
mod stage;

use std::process::ExitCode;

use anyhow::Result;

use self::stage::{Counts, Stage};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run one stage: format, clippy, tidy, build, test or doc
    #[arg(long)]
    only: Option<String>,
    /// Show the output of every stage
    #[arg(long)]
    verbose: bool,
}

/// In order. `build` comes before `test` because the end-to-end tests start the built binary.
const STAGES: &[Stage] = &[
    Stage::new("format", &["fmt", "--all", "--check"]),
    Stage::new(
        "clippy",
        &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"],
    ),
    Stage::new("tidy", &[]),
    Stage::new("build", &["build", "--workspace", "--bins"]),
    Stage::tests(
        "test",
        &[
            "test",
            "--workspace",
            "--lib",
            "--bins",
            "--tests",
            "--no-fail-fast",
        ],
    ),
    Stage::tests("doc", &["test", "--workspace", "--doc", "--no-fail-fast"]),
];

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if let Some(only) = &args.only
        && !STAGES.iter().any(|stage| stage.name == only)
    {
        let names: Vec<_> = STAGES.iter().map(|stage| stage.name).collect();
        anyhow::bail!("no stage {only:?}; there are {}", names.join(", "));
    }
    if let Err(missing) = needs::provide() {
        eprintln!("{missing}");
        return Ok(ExitCode::from(2));
    }
    let mut counts = Counts::default();
    let mut ok = true;
    for stage in STAGES
        .iter()
        .filter(|stage| args.only.as_deref().is_none_or(|only| only == stage.name))
    {
        let outcome = stage.run(args.verbose);
        counts.add(&outcome.counts);
        ok &= outcome.ok;
        // A tree that does not compile fails every later stage with the same message.
        if !outcome.ok && outcome.counts.failed == 0 {
            counts.failed += 1;
            break;
        }
    }
    println!("{} passed, {} failed", counts.passed, counts.failed);
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
