//! The roles as processes of their own: configuration, telemetry, signals, the ready line.

use tidegate_chassis::{
    shutdown,
    telemetry::{self, TelemetryOptions},
};
use tidegate_controller::{ControllerArgs, ControllerConfig};
use tidegate_router::{RouterArgs, RouterConfig};
use tidegate_worker::{WorkerArgs, WorkerConfig};

use crate::output;

pub async fn router(args: &RouterArgs) -> anyhow::Result<()> {
    let config = RouterConfig::load(args)?.value.router;
    let telemetry = telemetry::init("tidegate-router", TelemetryOptions::default())?;
    let stop = shutdown::token_on_signals();
    let ended = tidegate_router::run(config, telemetry.metrics(), stop, output::line).await;
    telemetry.shutdown().await;
    Ok(ended?)
}

pub async fn controller(args: &ControllerArgs) -> anyhow::Result<()> {
    let config = ControllerConfig::load(args)?.value.controller;
    let telemetry = telemetry::init("tidegate-controller", TelemetryOptions::default())?;
    let stop = shutdown::token_on_signals();
    let ended = tidegate_controller::run(config, telemetry.metrics(), stop, output::line).await;
    telemetry.shutdown().await;
    Ok(ended?)
}

pub async fn worker(args: &WorkerArgs) -> anyhow::Result<()> {
    let config = WorkerConfig::load(args)?.value.worker;
    let telemetry = telemetry::init("tidegate-worker", TelemetryOptions::default())?;
    let stop = shutdown::token_on_signals();
    let ended = tidegate_worker::run(config, telemetry.metrics(), stop, output::line).await;
    telemetry.shutdown().await;
    Ok(ended?)
}
