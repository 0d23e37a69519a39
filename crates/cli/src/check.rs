//! `tidegate check`: named checks of a fleet, or with `--pre` of the ground it is to stand on. Each has an id that stays,
//! says what it found, and what to do about it.
//!
//! What is found out (here) and what is thought of it (`judge` in each part) are apart: the judgements are pure.

mod fleet;
mod local;
mod postgres;
mod report;
mod store;

use std::path::PathBuf;

use tidegate_router::{RouterArgs, RouterConfig};

use self::report::Report;
use crate::{args::Common, exit::Failed};

#[derive(clap::Args)]
pub struct CheckArgs {
    /// Before anything runs: configuration, ports, limits, store and database
    #[arg(long)]
    pre: bool,
    /// The controller of the fleet
    #[arg(
        long,
        value_name = "URL",
        env = "TIDEGATE_CONTROLLER",
        default_value = "http://127.0.0.1:7601"
    )]
    controller: String,
    /// Job store to look at, as the router takes it [default: the configuration's, if it is a Redis]
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// Postgres that jobs or the controller use, to look at
    #[arg(long, value_name = "URL", env = "DATABASE_URL", hide_env_values = true)]
    postgres: Option<String>,
    /// Configuration file [default: ./tidegate.toml, then /etc/tidegate/tidegate.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub async fn run(common: &Common, args: CheckArgs) -> anyhow::Result<()> {
    let mut report = Report::default();
    if args.pre {
        local::check(&mut report, args.config.as_deref()).await;
    }
    if let Some(url) = store_of(&args) {
        store::check(&mut report, &url).await;
    }
    if let Some(url) = &args.postgres {
        postgres::check(&mut report, url).await;
    }
    if !args.pre {
        fleet::check(&mut report, common, &args.controller).await?;
    }
    report.print(common.output);
    match report.failed() {
        0 => Ok(()),
        1 => Err(Failed("1 check failed".to_owned()).into()),
        failed => Err(Failed(format!("{failed} checks failed")).into()),
    }
}

/// The one named, or the configuration's. An embedded one belongs to its router and is not opened beside it.
fn store_of(args: &CheckArgs) -> Option<String> {
    let configured = || {
        let router = RouterArgs {
            config: args.config.clone(),
            ..RouterArgs::default()
        };
        // What is wrong with the configuration is told by a check of its own.
        let config = RouterConfig::load(&router).ok()?.value.router;
        let store = config.store.expose().to_owned();
        (args.pre || store.starts_with("redis")).then_some(store)
    };
    args.store.clone().or_else(configured)
}
