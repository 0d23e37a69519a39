//! The command `tidegate`: drives everything.

mod args;
mod check;
mod config;
mod control;
mod dev;
mod echo;
mod exit;
mod job;
mod output;
mod queue;
mod roles;
mod submit;
mod time;

use std::{io, process::ExitCode};

use clap::Parser;
use tokio::runtime::{Builder, Runtime};

use args::{Cli, Command};

fn main() -> ExitCode {
    tidegate_worker::exec::init();
    let cli = Cli::parse();
    tidegate_chassis::tls_provider();
    let runtime = match runtime(&cli.command) {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        match cli.command {
            Command::Dev(args) => dev::run(args).await,
            Command::Router(args) => roles::router(&args).await,
            Command::Controller(args) => roles::controller(&args).await,
            Command::Worker(args) => roles::worker(&args).await,
            Command::Submit(args) => submit::run(&cli.common, args).await,
            Command::Job(command) => job::run(&cli.common, command).await,
            Command::Queue(command) => queue::run(&cli.common, command).await,
            Command::Config(command) => config::run(&cli.common, command),
            Command::Control(args) => control::run(&cli.common, args).await,
            Command::Check(args) => check::run(&cli.common, args).await,
        }
    });
    exit::report(result)
}

fn runtime(command: &Command) -> io::Result<Runtime> {
    match command {
        Command::Router(_) => tidegate_router::runtime(),
        _ => Builder::new_multi_thread().enable_all().build(),
    }
}
