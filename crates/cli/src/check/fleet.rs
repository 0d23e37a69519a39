//! A running fleet: its routers, its controller, its workers and queues.

use std::collections::BTreeSet;

use tidegate_client::{Client, ClientError, QueueView, endpoint};
use tidegate_protocol::v1::{self, tuning_service_client::TuningServiceClient};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::report::{Report, Status, unless};
use crate::args::Common;

/// Ask for the fleet and its queues within this.
const CALL_MAX: std::time::Duration = std::time::Duration::from_secs(5);
/// Nodes report each second; the controller calls one silent after three.
const REPORT_AGE_MS_MAX: u64 = 5_000;
/// A backlog of fewer comes and goes.
const BACKLOG_MIN: u64 = 10;
/// A job that is ready for longer than this waits too long, whatever it is for.
const AGE_MS_MAX: u64 = 5 * 60_000;
/// Above this share of its depth a queue is about to refuse.
const DEPTH_SHARE_MAX: f64 = 0.9;

pub(super) async fn check(report: &mut Report, common: &Common, controller: &str) -> Result<(), ClientError> {
    let mut answers = false;
    for url in common.routers() {
        let hint = "start it, or give its address with --endpoint; its log says why it does not answer";
        answers |= health(report, ["router.reachable", "router.health"], &url, hint).await?;
    }
    // Behind a router that answers nothing there is nothing to be seen.
    let queues = match answers {
        true => queues(report, common).await?,
        false => None,
    };
    let hint = "without one, workers use all slots and caps sink to safe values: start it, or give its address with \
                --controller";
    let ids = ["controller.reachable", "controller.health"];
    let fleet = match health(report, ids, controller, hint).await? {
        true => fleet(report, controller).await?,
        false => None,
    };
    if let Some(fleet) = &fleet {
        judge_fleet(report, fleet, env!("CARGO_PKG_VERSION"));
    }
    if let Some(queues) = &queues {
        judge_queues(report, queues);
        if let Some(fleet) = &fleet {
            judge_both(report, queues, fleet);
        }
    }
    Ok(())
}

async fn list(client: &Client) -> Result<Vec<QueueView>, ClientError> {
    let mut queues = Vec::new();
    let mut token = String::new();
    loop {
        let page = client.list_queues(1_000, token).await?;
        queues.extend(page.queues);
        match page.next_page_token {
            Some(next) => token = next,
            None => return Ok(queues),
        }
    }
}

async fn queues(report: &mut Report, common: &Common) -> Result<Option<Vec<QueueView>>, ClientError> {
    match list(&common.client()?).await {
        Ok(queues) => {
            report.ok("router.store", format!("{} queues", queues.len()));
            Ok(Some(queues))
        }
        Err(error) => {
            let hint = "the router is there, its job store is not: `store.reachable` says more, with --store";
            report.failed_check("router.store", error.to_string(), hint);
            Ok(None)
        }
    }
}

async fn fleet(report: &mut Report, controller: &str) -> Result<Option<v1::GetFleetResponse>, ClientError> {
    let mut client = TuningServiceClient::new(endpoint(controller)?.connect_lazy());
    let mut request = tonic::Request::new(v1::GetFleetRequest {});
    request.set_timeout(CALL_MAX);
    match client.get_fleet(request).await {
        Ok(fleet) => Ok(Some(fleet.into_inner())),
        Err(error) => {
            let found = format!("{controller}: {}", ClientError::from(error));
            let hint = "something else than a controller listens there, or one of another version";
            report.failed_check("controller.fleet", found, hint);
            Ok(None)
        }
    }
}

/// Whether it answers at all; and if it does, whether it wants traffic.
async fn health(
    report: &mut Report,
    [reachable, health]: [&'static str; 2],
    url: &str,
    hint: &'static str,
) -> Result<bool, ClientError> {
    let mut client = HealthClient::new(endpoint(url)?.connect_lazy());
    let mut request = tonic::Request::new(HealthCheckRequest::default());
    request.set_timeout(CALL_MAX);
    let status = match client.check(request).await {
        Ok(answer) => answer.into_inner().status(),
        Err(error) => {
            report.failed_check(reachable, format!("{url}: {}", error.message()), hint);
            return Ok(false);
        }
    };
    report.ok(reachable, url);
    report.judge(
        health,
        format!("{url} is {}", status.as_str_name()),
        unless(
            status != ServingStatus::Serving,
            Status::Failed,
            "it is up and wants no traffic: /readyz of its metrics port says why",
        ),
    );
    Ok(true)
}

/// Names, a few of many.
fn few(names: &BTreeSet<String>) -> String {
    const SHOWN: usize = 5;
    let shown: Vec<&str> = names.iter().take(SHOWN).map(String::as_str).collect();
    match names.len() {
        0 => "none".to_owned(),
        n if n > SHOWN => format!("{} and {} more", shown.join(", "), n - SHOWN),
        _ => shown.join(", "),
    }
}

fn nodes(fleet: &v1::GetFleetResponse, which: impl Fn(&v1::Node) -> bool) -> BTreeSet<String> {
    fleet
        .nodes
        .iter()
        .filter(|node| which(node))
        .map(|node| node.name.clone())
        .collect()
}

fn judge_fleet(report: &mut Report, fleet: &v1::GetFleetResponse, version: &str) {
    let found = match fleet.leader {
        true => "leads".to_owned(),
        false => format!("stands by: {}", fleet.standby_reason),
    };
    let hint =
        "nothing is decided here: look for the controller that leads, or wait 30 s for its caps to end";
    report.judge(
        "controller.leads",
        found,
        unless(!fleet.leader, Status::Failed, hint),
    );

    let routers = nodes(fleet, |node| node.role == "router");
    report.judge(
        "fleet.routers",
        few(&routers),
        unless(
            routers.is_empty(),
            Status::Failed,
            "no router is attached, so no cap is written: set `controllers` in its [router] section",
        ),
    );
    let workers = nodes(fleet, |node| node.role == "worker");
    report.judge(
        "fleet.workers",
        few(&workers),
        unless(
            workers.is_empty(),
            Status::Warning,
            "no worker is attached: none runs, or `controllers` is not in its [worker] section",
        ),
    );
    let others = nodes(fleet, |node| node.version != version);
    report.judge(
        "fleet.versions",
        match others.is_empty() {
            true => format!("all {version}"),
            false => format!("not {version}: {}", few(&others)),
        },
        unless(
            !others.is_empty(),
            Status::Warning,
            "finish the rollout: routers first, then controllers, then workers",
        ),
    );
    let stale = nodes(fleet, |node| node.last_report_age_ms > REPORT_AGE_MS_MAX);
    report.judge(
        "fleet.reports",
        match stale.is_empty() {
            true => "all fresh".to_owned(),
            false => format!("stale: {}", few(&stale)),
        },
        unless(
            !stale.is_empty(),
            Status::Failed,
            "these nodes hang or are cut off: their targets go to others after three seconds",
        ),
    );
    // A node applies what concerns it: an older generation of the same epoch is fine, another epoch is not.
    let epoch = fleet.version.unwrap_or_default().epoch;
    let other = nodes(fleet, |node| {
        node.applied.is_some_and(|applied| applied.epoch > epoch)
    });
    // Epoch 0: there was nothing to apply yet.
    let behind = nodes(fleet, |node| {
        node.applied
            .is_some_and(|applied| (1..epoch).contains(&applied.epoch))
    });
    let (text, judged) = match (other.is_empty(), behind.is_empty()) {
        (false, _) => (
            format!("obey another leadership: {}", few(&other)),
            unless(
                true,
                Status::Failed,
                "two controllers serve one store: stop one of them",
            ),
        ),
        (true, false) => (
            format!("have taken nothing of epoch {epoch}: {}", few(&behind)),
            unless(
                true,
                Status::Warning,
                "cut off from their controller, or attached just now: look at their logs",
            ),
        ),
        _ => (
            format!("all obey epoch {epoch}"),
            unless(false, Status::Failed, ""),
        ),
    };
    report.judge("fleet.generations", text, judged);
    judge_resources(report, fleet);
    judge_records(report, fleet);
}

fn judge_resources(report: &mut Report, fleet: &v1::GetFleetResponse) {
    let over: BTreeSet<String> = fleet
        .resources
        .iter()
        .filter(|resource| resource.in_use > u64::from(resource.budget))
        .map(|resource| {
            format!(
                "{} ({} of {})",
                resource.resource, resource.in_use, resource.budget
            )
        })
        .collect();
    report.judge(
        "resource.budget",
        match over.is_empty() {
            true => format!("{} resources within their budgets", fleet.resources.len()),
            false => format!("over: {}", few(&over)),
        },
        unless(
            !over.is_empty(),
            Status::Warning,
            "after a capacity was lowered what runs drains; else look at control history",
        ),
    );
    let doubted: BTreeSet<String> = fleet
        .resources
        .iter()
        .filter(|resource| matches!(&*resource.probe_state, "waiting" | "held" | "distrusted"))
        .map(|resource| format!("{}: {}", resource.resource, resource.probe_text))
        .collect();
    report.judge(
        "resource.probes",
        match doubted.is_empty() {
            true => "every probe that is asked is believed".to_owned(),
            false => few(&doubted),
        },
        unless(
            !doubted.is_empty(),
            Status::Warning,
            "until then its last good word counts, or its budget alone: look at its address, its role's rights and its password",
        ),
    );
}

/// What the controller keeps, and whether it trusts the job store.
fn judge_records(report: &mut Report, fleet: &v1::GetFleetResponse) {
    let ledger = fleet.ledger.clone().unwrap_or_default();
    let (text, judged) = match (&*ledger.error, ledger.dropped) {
        ("", 0) => ("it is written".to_owned(), unless(false, Status::Failed, "")),
        ("", dropped) => (
            format!("{dropped} records were dropped since the controller's start"),
            unless(
                true,
                Status::Warning,
                "control history has gaps: the ledger's database is too slow",
            ),
        ),
        (error, _) => (
            error.to_owned(),
            unless(
                true,
                Status::Failed,
                "jobs go on, but no edit and no history is kept: look at the ledger's database",
            ),
        ),
    };
    report.judge("controller.ledger", text, judged);
    let refused = fleet.store.clone().unwrap_or_default().refused;
    report.judge(
        "store.trusted",
        match refused.is_empty() {
            true => "the controller trusts the job store".to_owned(),
            false => refused.clone(),
        },
        unless(
            !refused.is_empty(),
            Status::Failed,
            "tidegate control accept-store, once you know what was lost",
        ),
    );
}

fn judge_queues(report: &mut Report, queues: &[QueueView]) {
    let named = |which: &dyn Fn(&QueueView) -> bool| -> BTreeSet<String> {
        queues
            .iter()
            .filter(|queue| which(queue))
            .map(|queue| queue.name.clone())
            .collect()
    };
    let mut say = |id, what: &str, found: BTreeSet<String>, status, hint| {
        let text = match found.is_empty() {
            true => format!("none {what}"),
            false => format!("{what}: {}", few(&found)),
        };
        report.judge(id, text, unless(!found.is_empty(), status, hint));
    };
    let paused = named(&|queue| queue.paused);
    say(
        "queue.paused",
        "paused",
        paused,
        Status::Warning,
        "nothing is granted until: tidegate queue resume NAME",
    );
    let dead = named(&|queue| queue.dead > 0);
    let hint = "tidegate job list --queue NAME --state dead; mend the cause, then redrive or delete";
    say("queue.dead", "with dead jobs", dead, Status::Warning, hint);
    let full = named(&|queue| {
        let max = queue.policy.as_ref().map_or(0, |policy| policy.max_depth);
        let depth = queue.scheduled + queue.ready + queue.running + queue.dead;
        max > 0 && depth as f64 > DEPTH_SHARE_MAX * max as f64
    });
    let hint = "submits are refused at max_depth: start workers, delete dead jobs, or raise it";
    say("queue.depth", "near max_depth", full, Status::Warning, hint);
    let shut = named(&|queue| queue.effective_cap == Some(0) && queue.ready > 0 && !queue.paused);
    let hint = "a queue that costs a resource runs nothing before a controller gave it a cap: start one that knows its policy";
    say("queue.cap", "waiting with cap 0", shut, Status::Failed, hint);
    let over = named(&|queue| {
        queue
            .effective_cap
            .is_some_and(|cap| queue.slots > u64::from(cap))
    });
    let hint = "after a cap is lowered what runs goes on; longer than a job takes, report it";
    say("queue.over_cap", "over the cap", over, Status::Warning, hint);
    let old = named(&|queue| queue.oldest_ready_age_ms > AGE_MS_MAX);
    let hint = "tidegate control why NAME says what it waits for";
    say(
        "queue.age",
        "waiting for over 5 minutes",
        old,
        Status::Warning,
        hint,
    );
    let alone = named(&|queue| queue.ready > 0 && queue.sessions == 0);
    let hint = "no worker of this queue is connected to this router: start one with --queue NAME";
    say(
        "queue.workers",
        "ready without a worker",
        alone,
        Status::Failed,
        hint,
    );
}

fn judge_both(report: &mut Report, queues: &[QueueView], fleet: &v1::GetFleetResponse) {
    let target = |name: &str| {
        let known = fleet.queues.iter().find(|queue| queue.queue == name)?;
        Some(u64::from(known.target))
    };
    let idle: BTreeSet<String> = queues
        .iter()
        .filter(|queue| queue.ready > BACKLOG_MIN && !queue.paused)
        .filter(|queue| {
            target(&queue.name).is_some_and(|target| target > 0 && queue.slots < target.div_ceil(2))
        })
        .map(|queue| format!("{} ({} ready)", queue.name, queue.ready))
        .collect();
    report.judge(
        "queue.idle_slots",
        match idle.is_empty() {
            true => "no backlog beside idle slots".to_owned(),
            false => format!("backlog beside idle slots: {}", few(&idle)),
        },
        unless(
            !idle.is_empty(),
            Status::Warning,
            "grants do not reach the workers: their logs, and the router's",
        ),
    );
    let unknown: BTreeSet<String> = queues
        .iter()
        .filter(|queue| {
            queue
                .policy
                .as_ref()
                .is_some_and(|policy| policy.costs_a_resource())
        })
        .filter(|queue| target(&queue.name).is_none())
        .map(|queue| queue.name.clone())
        .collect();
    report.judge(
        "queue.known",
        match unknown.is_empty() {
            true => "the controller knows every queue that costs a resource".to_owned(),
            false => format!("unknown to the controller: {}", few(&unknown)),
        },
        unless(
            !unknown.is_empty(),
            Status::Failed,
            "no cap will be set for it: tidegate control policy apply FILE",
        ),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, role: &str) -> v1::Node {
        v1::Node {
            name: name.to_owned(),
            role: role.to_owned(),
            version: "1.0.0".to_owned(),
            ..Default::default()
        }
    }

    fn healthy() -> v1::GetFleetResponse {
        v1::GetFleetResponse {
            nodes: vec![node("r", "router"), node("w", "worker")],
            leader: true,
            version: Some(v1::Version {
                epoch: 3,
                generation: 9,
            }),
            ..Default::default()
        }
    }

    #[test]
    fn each_fault_of_a_fleet_is_one_finding() {
        let judge = |fleet: &v1::GetFleetResponse| {
            let mut report = Report::default();
            judge_fleet(&mut report, fleet, "1.0.0");
            report
        };
        assert_eq!(judge(&healthy()).failed(), 0);
        type Fault = fn(&mut v1::GetFleetResponse);
        let faults: [(&str, Status, Fault); 12] = [
            ("controller.leads", Status::Failed, |fleet| fleet.leader = false),
            ("fleet.routers", Status::Failed, |fleet| {
                drop(fleet.nodes.remove(0))
            }),
            ("fleet.workers", Status::Warning, |fleet| drop(fleet.nodes.pop())),
            ("fleet.versions", Status::Warning, |fleet| {
                fleet.nodes[1].version = "0.9.0".to_owned()
            }),
            ("fleet.reports", Status::Failed, |fleet| {
                fleet.nodes[1].last_report_age_ms = 9_000
            }),
            ("fleet.generations", Status::Failed, |fleet| {
                fleet.nodes[1].applied = Some(v1::Version {
                    epoch: 4,
                    generation: 1,
                });
            }),
            ("fleet.generations", Status::Warning, |fleet| {
                fleet.nodes[1].applied = Some(v1::Version {
                    epoch: 2,
                    generation: 40,
                });
            }),
            ("resource.probes", Status::Warning, |fleet| {
                fleet.resources.push(v1::ResourceUse {
                    probe_state: "held".to_owned(),
                    ..Default::default()
                });
            }),
            ("controller.ledger", Status::Failed, |fleet| {
                fleet.ledger = Some(v1::LedgerStatus {
                    error: "the disk is full".to_owned(),
                    ..Default::default()
                });
            }),
            ("controller.ledger", Status::Warning, |fleet| {
                fleet.ledger = Some(v1::LedgerStatus {
                    dropped: 3,
                    ..Default::default()
                });
            }),
            ("store.trusted", Status::Failed, |fleet| {
                fleet.store = Some(v1::StoreStatus {
                    refused: "it is older than what was seen".to_owned(),
                    ..Default::default()
                });
            }),
            ("resource.budget", Status::Warning, |fleet| {
                fleet.resources.push(v1::ResourceUse {
                    in_use: 36,
                    budget: 35,
                    ..Default::default()
                });
            }),
        ];
        for (id, status, fault) in faults {
            let mut fleet = healthy();
            fault(&mut fleet);
            let report = judge(&fleet);
            assert_eq!(report.status_of(id), Some(status), "{id}");
            assert_eq!(
                report.failed(),
                usize::from(status == Status::Failed),
                "{id} alone"
            );
        }
    }
}
