//! This machine, before anything runs on it.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use tidegate_controller::{ControllerArgs, ControllerConfig};
use tidegate_protocol::policy_file;
use tidegate_router::{RouterArgs, RouterConfig};
use tidegate_worker::{WorkerArgs, WorkerConfig};
use tokio::net::{TcpListener, TcpStream};

use super::report::{Report, Status, unless};

/// A router holds a descriptor for every worker and producer.
const FILES_MIN: u64 = 4_096;
const CONNECT_MAX: Duration = Duration::from_secs(2);

pub(super) async fn check(report: &mut Report, config: Option<&Path>) {
    file_limit(report);
    kernel(report);
    let Some((router, controller, worker)) = load(report, config) else {
        return;
    };
    for (id, key, file) in [
        ("config.policies", "[router] policies", &router.policies),
        ("config.policies", "[controller] policies", &controller.policies),
    ] {
        if let Some(file) = file {
            policies(report, id, key, file);
        }
    }
    let ports = [
        ("port.router", router.listen),
        ("port.router_metrics", router.metrics_listen),
        ("port.controller", controller.listen),
        ("port.controller_metrics", controller.metrics_listen),
        ("port.worker_metrics", worker.metrics_listen),
    ];
    for (id, address) in ports {
        port(report, id, address).await;
    }
    if !worker.app.is_empty() {
        app(report, &worker.app).await;
    }
}

fn load(
    report: &mut Report,
    config: Option<&Path>,
) -> Option<(RouterConfig, ControllerConfig, WorkerConfig)> {
    let config = config.map(Path::to_owned);
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
    let loaded = RouterConfig::load(&router).and_then(|router| {
        let controller = ControllerConfig::load(&controller)?.value.controller;
        let worker = WorkerConfig::load(&worker)?.value.worker;
        Ok((router.value.router, controller, worker))
    });
    match loaded {
        Ok(loaded) => {
            report.ok("config.valid", "every section can be read");
            Some(loaded)
        }
        Err(error) => {
            report.failed_check(
                "config.valid",
                error.to_string(),
                "correct it; `tidegate config print --origin` shows the rest",
            );
            None
        }
    }
}

fn policies(report: &mut Report, id: &'static str, key: &str, file: &Path) {
    let read = fs::read_to_string(file).map_err(|error| error.to_string());
    let parsed = read.and_then(|text| policy_file::parse(&text).map_err(|error| error.to_string()));
    match parsed {
        Ok(_) => report.ok(id, format!("{} ({key}) can be read", file.display())),
        Err(error) => report.failed_check(
            id,
            format!("{} ({key}): {error}", file.display()),
            "correct the file: no role starts with it as it is",
        ),
    }
}

async fn port(report: &mut Report, id: &'static str, address: SocketAddr) {
    match TcpListener::bind(address).await {
        Ok(_) => report.ok(id, format!("{address} is free")),
        Err(error) => report.failed_check(
            id,
            format!("{address}: {error}"),
            "stop what listens there (ss -ltnp), or choose another address in the role's section",
        ),
    }
}

async fn app(report: &mut Report, url: &str) {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or_default();
    let host = match host.contains(':') {
        true => host.to_owned(),
        false if url.starts_with("https") => format!("{host}:443"),
        false => format!("{host}:80"),
    };
    let connected = tokio::time::timeout(CONNECT_MAX, TcpStream::connect(&host)).await;
    let is_there = matches!(connected, Ok(Ok(_)));
    report.judge(
        "worker.app",
        format!(
            "{host} {}",
            if is_there {
                "takes connections"
            } else {
                "does not take connections"
            }
        ),
        unless(
            !is_there,
            Status::Warning,
            "jobs will wait until the app is there (worker.app)",
        ),
    );
}

fn file_limit(report: &mut Report) {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let limit = limit.unwrap_or(u64::MAX);
    report.judge(
        "limits.files",
        format!("{limit} open files"),
        unless(
            limit < FILES_MIN,
            Status::Warning,
            "a router needs one for each worker and producer: raise it (ulimit -n, LimitNOFILE=)",
        ),
    );
}

/// What matters where a Redis runs on the same machine.
fn kernel(report: &mut Report) {
    if let Ok(text) = fs::read_to_string("/proc/sys/vm/overcommit_memory") {
        let value = text.trim();
        report.judge(
            "kernel.overcommit",
            format!("vm.overcommit_memory {value}"),
            unless(
                value == "2",
                Status::Warning,
                "a Redis on this machine cannot fork to save: sysctl vm.overcommit_memory=1",
            ),
        );
    }
    if let Ok(text) = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled") {
        report.judge(
            "kernel.hugepages",
            format!("transparent hugepages {}", text.trim()),
            unless(
                text.contains("[always]"),
                Status::Warning,
                "a Redis on this machine stalls and grows when it saves: echo madvise to that file",
            ),
        );
    }
}
