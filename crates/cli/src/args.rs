//! The command line: nouns and verbs, each with an example.

use clap::{Parser, Subcommand, ValueEnum};
use tidegate_client::{Client, ClientError};
use tidegate_controller::ControllerArgs;
use tidegate_router::RouterArgs;
use tidegate_worker::WorkerArgs;

use crate::{
    check::CheckArgs, config::ConfigCommand, control::ControlArgs, dev::DevArgs, job::JobCommand,
    queue::QueueCommand, submit::SubmitArgs,
};

/// Background jobs whose concurrency is found at run time.
///
/// Example: tidegate dev
#[derive(Parser)]
#[command(
    name = "tidegate",
    version,
    verbatim_doc_comment,
    disable_help_subcommand = true
)]
pub struct Cli {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub command: Command,
}

/// What every command that talks to routers takes.
#[derive(clap::Args)]
pub struct Common {
    /// A router; repeat for several
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "TIDEGATE_ENDPOINT",
        value_delimiter = ','
    )]
    pub endpoint: Vec<String>,
    /// How to print
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum Format {
    Table,
    Json,
}

impl Common {
    pub fn client(&self) -> Result<Client, ClientError> {
        Client::connect(self.routers())
    }

    /// Those that were named, or this machine's.
    pub fn routers(&self) -> Vec<String> {
        const LOCAL: &str = "http://127.0.0.1:7600";
        match self.endpoint.is_empty() {
            true => vec![LOCAL.to_owned()],
            false => self.endpoint.clone(),
        }
    }
}

#[derive(Subcommand)]
pub enum Command {
    /// Run router, worker and an echo app in one process, on SQLite
    ///
    /// Example: tidegate dev --app http://127.0.0.1:9000/ --queue email
    #[command(verbatim_doc_comment)]
    Dev(DevArgs),
    /// Run a router
    ///
    /// Example: tidegate router --store redis://127.0.0.1:6379/0
    #[command(verbatim_doc_comment)]
    Router(RouterArgs),
    /// Run a controller, which decides how much runs
    ///
    /// Example: tidegate controller --policies policies.toml
    #[command(verbatim_doc_comment)]
    Controller(ControllerArgs),
    /// Run a worker that delivers jobs to an HTTP app or a command
    ///
    /// Examples:
    ///   tidegate worker --router http://127.0.0.1:7600 --app http://127.0.0.1:9000/ --queue email
    ///   tidegate worker --queue thumbnails --exec-memory 512MiB --exec ./resize.sh --width 200
    #[command(verbatim_doc_comment)]
    Worker(WorkerArgs),
    /// Enter a job
    ///
    /// Example: tidegate submit email '{"to":"ada@example.org"}' --key inv-17 --wait
    #[command(verbatim_doc_comment)]
    Submit(SubmitArgs),
    /// Look at jobs and steer them
    ///
    /// Example: tidegate job list --queue email --state dead
    #[command(subcommand, verbatim_doc_comment)]
    Job(JobCommand),
    /// Look at queues and pause them
    ///
    /// Example: tidegate queue get email
    #[command(subcommand, verbatim_doc_comment)]
    Queue(QueueCommand),
    /// Look at the configuration
    ///
    /// Example: tidegate config print --origin
    #[command(subcommand, verbatim_doc_comment)]
    Config(ConfigCommand),
    /// Look at the controller and tune it
    ///
    /// Example: tidegate control status
    #[command(verbatim_doc_comment)]
    Control(ControlArgs),
    /// Check a fleet, or with --pre what it is to stand on; every finding says what to do
    ///
    /// Example: tidegate check --pre -o json
    #[command(verbatim_doc_comment)]
    Check(CheckArgs),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
