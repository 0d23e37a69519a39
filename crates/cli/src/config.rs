//! `tidegate config print`: what a role would run with, and where each value comes from.

use std::path::PathBuf;

use serde_json::{Value, json};
use tidegate_chassis::config::Origin;
use tidegate_controller::{ControllerArgs, ControllerConfig};
use tidegate_router::{RouterArgs, RouterConfig};
use tidegate_worker::{WorkerArgs, WorkerConfig};

use crate::{args::Common, args::Format, output};

#[derive(clap::Subcommand)]
pub enum ConfigCommand {
    /// Print every setting of the roles, secrets redacted
    ///
    /// Example: tidegate config print --origin --config ./tidegate.toml
    #[command(verbatim_doc_comment)]
    Print(PrintArgs),
}

#[derive(clap::Args)]
pub struct PrintArgs {
    /// Say where each value was written: default, file, environment
    #[arg(long)]
    origin: bool,
    /// Configuration file [default: ./tidegate.toml, then /etc/tidegate/tidegate.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub fn run(common: &Common, ConfigCommand::Print(args): ConfigCommand) -> anyhow::Result<()> {
    let settings = settings(args.config)?;
    if common.output == Format::Json {
        let value = |setting: &Origin| match args.origin {
            true => json!({ "value": setting.value, "origin": setting.source }),
            false => setting.value.clone(),
        };
        let all: serde_json::Map<String, Value> = settings
            .iter()
            .map(|setting| (setting.key.clone(), value(setting)))
            .collect();
        output::json_line(&all.into());
        return Ok(());
    }
    for setting in &settings {
        let Origin { key, value, source } = setting;
        match args.origin {
            true => output::line(format_args!("{key} = {value}  # {source}")),
            false => output::line(format_args!("{key} = {value}")),
        }
    }
    Ok(())
}

/// Of every role; each checks its own section of the file.
fn settings(config: Option<PathBuf>) -> anyhow::Result<Vec<Origin>> {
    let router = RouterArgs {
        config: config.clone(),
        ..RouterArgs::default()
    };
    let controller = ControllerArgs {
        config: config.clone(),
        ..ControllerArgs::default()
    };
    let worker = WorkerArgs {
        config,
        ..WorkerArgs::default()
    };
    let router = RouterConfig::load(&router)?.origins();
    let controller = ControllerConfig::load(&controller)?.origins();
    let worker = WorkerConfig::load(&worker)?.origins();
    let of = |settings: Vec<Origin>, section: &'static str| {
        settings
            .into_iter()
            .filter(move |setting| setting.key.starts_with(section))
    };
    let all = of(router, "router.")
        .chain(of(controller, "controller."))
        .chain(of(worker, "worker."));
    Ok(all.collect())
}
