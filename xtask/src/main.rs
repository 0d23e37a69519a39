//! Repository chores in plain Rust, so that the only tool a contributor needs is cargo.
//!
//! One file per command. Nothing here is linked by the product, and nothing here links the product: `codegen` must run
//! when the other crates do not compile, because a broken generated file is what stops them from compiling.
#![allow(
    clippy::disallowed_methods,
    reason = "a command-line tool reads the environment and the clock directly"
)]

mod codegen;
mod run;
mod test;
mod tidy;
mod workspace;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Chores of the Tidegate repository.
#[derive(Parser)]
#[command(bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Generate the protocol code from proto/ (no protoc needed)
    ///
    /// Example: cargo xtask codegen --check
    Codegen(codegen::Args),
    /// Check the repository's own rules: layers, file sizes, links, generated code
    ///
    /// Example: cargo xtask tidy
    Tidy,
    /// Format check, lints, rules and every test; installs what the tests need where it can
    ///
    /// Example: cargo xtask test --only clippy
    Test(test::Args),
    /// Fixed against adaptive concurrency on the same arrivals, live
    ///
    /// Example: cargo xtask demo --seconds 30
    #[command(disable_help_flag = true)]
    Demo(run::Args),
    /// The load test of the article's checklist: baseline, three times of it, a slow database
    ///
    /// Example: cargo xtask load --report target/load
    #[command(disable_help_flag = true)]
    Load(run::Args),
    /// Speed of the job stores or of everything together: cargo xtask bench store | router | controller
    ///
    /// Example: cargo xtask bench router --json router.json
    #[command(disable_help_flag = true)]
    Bench(run::Args),
    /// Failures that fixed concurrency does not survive, on real servers, several ways to decide side by side
    ///
    /// Example: cargo xtask scenario 2 --report report/
    #[command(disable_help_flag = true)]
    Scenario(run::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Codegen(args) => codegen::run(&args),
        Command::Tidy => tidy::run(),
        Command::Test(args) => test::run(&args),
        Command::Demo(args) => run::demo(&args),
        Command::Load(args) => run::load(&args),
        Command::Bench(args) => run::bench(&args),
        Command::Scenario(args) => run::scenario(&args),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
