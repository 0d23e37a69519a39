//! What the controller knows, for people and for programs.

use std::time::Duration;

use serde_json::{Value, json};
use tidegate_chassis::clock;
use tidegate_client::ClientError;
use tidegate_protocol::v1;

use super::Controller;
use crate::{
    args::{Common, Format},
    output,
};

fn version(version: Option<v1::Version>) -> String {
    let version = version.unwrap_or_default();
    format!("{}.{}", version.epoch, version.generation)
}

pub(super) async fn status(common: &Common, client: &mut Controller) -> anyhow::Result<()> {
    let fleet = client.fleet().await?;
    if common.output == Format::Json {
        output::json_line(&fleet_json(&fleet));
        return Ok(());
    }
    match fleet.leader {
        true => output::line(format_args!("leads, version {}", version(fleet.version))),
        false => output::line(format_args!("standby: {}", fleet.standby_reason)),
    }
    print_condition(&fleet);
    let nodes: Vec<Vec<String>> = fleet
        .nodes
        .iter()
        .map(|node| {
            vec![
                node.name.clone(),
                node.role.clone(),
                node.slots.to_string(),
                format!("{} ms", node.last_report_age_ms),
                node.queues.join(","),
            ]
        })
        .collect();
    output::line("");
    output::table(&["NODE", "ROLE", "SLOTS", "REPORTED", "QUEUES"], &nodes);
    let reason = |queue: &str| {
        let newest = fleet.decisions.iter().find(|decision| decision.queue == queue);
        newest.map_or_else(|| "-".to_owned(), |newest| newest.reason.clone())
    };
    let queues: Vec<Vec<String>> = fleet
        .queues
        .iter()
        .map(|queue| {
            let numbers = [queue.ready, queue.running, queue.cap.into(), queue.target.into()];
            let p99 = queue
                .run_time_p99_ms
                .map_or_else(|| "-".to_owned(), |ms| format!("{ms:.0} ms"));
            [queue.queue.clone()]
                .into_iter()
                .chain(numbers.map(|number| number.to_string()))
                .chain([
                    format!("{:.1}", queue.completions_per_second),
                    p99,
                    reason(&queue.queue),
                ])
                .collect()
        })
        .collect();
    output::line("");
    let header = [
        "QUEUE", "READY", "RUNNING", "CAP", "TARGET", "DONE/S", "P99", "REASON",
    ];
    output::table(&header, &queues);
    output::line("");
    print_resources(&fleet.resources);
    Ok(())
}

/// What an operator should know beside the numbers; nothing where all is well.
fn print_condition(fleet: &v1::GetFleetResponse) {
    if let Some(ledger) = fleet.ledger.as_ref().filter(|ledger| !ledger.error.is_empty()) {
        output::line(format_args!(
            "ledger ({}): {}; {} records wait",
            ledger.kind, ledger.error, ledger.waiting
        ));
    }
    let dropped = fleet.ledger.as_ref().map_or(0, |ledger| ledger.dropped);
    if dropped > 0 {
        output::line(format_args!("history: {dropped} records were dropped"));
    }
    if let Some(store) = fleet.store.as_ref().filter(|store| !store.refused.is_empty()) {
        output::line(format_args!(
            "job store: not trusted, {}; accept it as it is by tidegate control accept-store",
            store.refused
        ));
    }
    let frozen = |queue: &&v1::QueueStatus| queue.frozen || fleet.frozen;
    for queue in fleet.queues.iter().filter(frozen) {
        output::line(format_args!("frozen: {}", queue.queue));
    }
    for queue in &fleet.queues {
        if let Some(pin) = queue.pin {
            let left_s = queue.pin_left_ms / 1_000;
            output::line(format_args!(
                "pinned: {} to {pin} for another {left_s} s",
                queue.queue
            ));
        }
    }
}

fn print_resources(resources: &[v1::ResourceUse]) {
    let rows: Vec<Vec<String>> = resources
        .iter()
        .map(|one| {
            let numbers = [one.capacity.into(), one.budget.into(), one.granted, one.in_use];
            let others = one.others.map_or("-".to_owned(), |others| format!("{others:.0}"));
            let probe = match one.probe_state.as_str() {
                "" | "good" => one.probe.clone(),
                _ => format!("{} {}", one.probe, one.probe_text),
            };
            [one.resource.clone()]
                .into_iter()
                .chain(numbers.map(|number: u64| number.to_string()))
                .chain([others, probe])
                .collect()
        })
        .collect();
    output::table(
        &[
            "RESOURCE", "CAPACITY", "BUDGET", "GRANTED", "IN USE", "OTHERS", "PROBE",
        ],
        &rows,
    );
}

fn version_json(version: Option<v1::Version>) -> Value {
    let version = version.unwrap_or_default();
    json!({ "epoch": version.epoch, "generation": version.generation })
}

fn fleet_json(fleet: &v1::GetFleetResponse) -> Value {
    let node = |node: &v1::Node| {
        json!({
            "node": node.node, "name": node.name, "role": node.role, "version": node.version,
            "last_report_age_ms": node.last_report_age_ms, "slots": node.slots, "queues": node.queues,
            "applied": version_json(node.applied),
        })
    };
    let queue = |queue: &v1::QueueStatus| {
        json!({
            "queue": queue.queue, "ready": queue.ready, "running": queue.running, "slots": queue.slots,
            "cap": queue.cap, "target": queue.target, "run_time_p99_ms": queue.run_time_p99_ms,
            "completions_per_second": queue.completions_per_second,
            "failures_per_second": queue.failures_per_second, "frozen": queue.frozen, "pin": queue.pin,
            "pin_left_ms": queue.pin_left_ms,
        })
    };
    let ledger = fleet.ledger.clone().unwrap_or_default();
    let store = fleet.store.clone().unwrap_or_default();
    json!({
        "leader": fleet.leader, "standby_reason": fleet.standby_reason, "version": version_json(fleet.version),
        "nodes": fleet.nodes.iter().map(node).collect::<Vec<_>>(),
        "queues": fleet.queues.iter().map(queue).collect::<Vec<_>>(),
        "resources": fleet.resources.iter().map(use_json).collect::<Vec<_>>(),
        "decisions": fleet.decisions.iter().map(decision_json).collect::<Vec<_>>(),
        "leader_name": fleet.leader_name, "leader_url": fleet.leader_url, "frozen": fleet.frozen,
        "ledger": {
            "ledger_id": ledger.ledger_id, "kind": ledger.kind, "error": ledger.error,
            "waiting": ledger.waiting, "dropped": ledger.dropped,
        },
        "store": {
            "incarnation": store.incarnation, "watermark_ms": store.watermark_ms, "refused": store.refused,
        },
    })
}

fn use_json(resource: &v1::ResourceUse) -> Value {
    json!({
        "resource": resource.resource, "capacity": resource.capacity, "budget": resource.budget,
        "in_use": resource.in_use, "granted": resource.granted, "probe": resource.probe,
        "probe_state": resource.probe_state, "probe_text": resource.probe_text, "measured": resource.measured,
        "others": resource.others, "waiters": resource.waiters, "limit": resource.limit,
    })
}

fn decision_json(decision: &v1::Decision) -> Value {
    let inputs: serde_json::Map<String, Value> = decision
        .inputs
        .iter()
        .map(|input| (input.name.clone(), json!(input.value)))
        .collect();
    json!({
        "at_ms": decision.at_ms, "version": version_json(decision.version), "queue": decision.queue,
        "cap": decision.cap, "previous_cap": decision.previous_cap, "wanted": decision.wanted,
        "target": decision.target, "reason": decision.reason, "inputs": inputs, "text": decision.text,
    })
}

fn print_decisions(common: &Common, decisions: &[v1::Decision]) {
    for decision in decisions {
        match common.output {
            Format::Json => output::json_line(&decision_json(decision)),
            Format::Table => {
                let at = std::time::UNIX_EPOCH + std::time::Duration::from_millis(decision.at_ms);
                output::line(format_args!(
                    "{}  {}  {}  {}",
                    humantime::format_rfc3339_seconds(at),
                    decision.queue,
                    decision.reason,
                    decision.text
                ));
            }
        }
    }
}

pub(super) async fn history(
    common: &Common,
    client: &mut Controller,
    (queue, since): (Option<String>, Option<Duration>),
    limit: usize,
) -> anyhow::Result<()> {
    let since_ms = since.map_or(0, |since| {
        let since_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        clock::wall_ms().saturating_sub(since_ms)
    });
    let mut page_token = String::new();
    let mut left = limit;
    while left > 0 {
        let request = v1::HistoryRequest {
            queue: queue.clone().unwrap_or_default(),
            since_ms,
            page_size: i32::try_from(left).unwrap_or(i32::MAX),
            page_token,
        };
        let answer = client.client.history(Controller::request(request)).await;
        let page = answer.map_err(ClientError::from)?.into_inner();
        print_decisions(common, &page.decisions);
        left = left.saturating_sub(page.decisions.len());
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    Ok(())
}

/// Until it is interrupted, the controller ends, or `count` were shown.
pub(super) async fn watch(
    common: &Common,
    client: &mut Controller,
    queue: Option<String>,
    count: Option<usize>,
) -> anyhow::Result<()> {
    let request = v1::WatchDecisionsRequest {
        queue: queue.unwrap_or_default(),
    };
    // Without a deadline: nothing may be decided for hours.
    let watched = client.client.watch_decisions(request).await;
    let mut watched = watched.map_err(ClientError::from)?.into_inner();
    let mut left = count;
    while left != Some(0) {
        let Some(next) = watched.message().await.map_err(ClientError::from)? else {
            return Ok(());
        };
        print_decisions(common, next.decision.as_slice());
        left = left.map(|left| left - usize::from(next.decision.is_some()));
    }
    Ok(())
}

pub(super) async fn why(common: &Common, client: &mut Controller, queue: String) -> anyhow::Result<()> {
    let request = v1::ExplainRequest {
        subject: Some(v1::explain_request::Subject::Queue(queue)),
    };
    let answer = client.client.explain(Controller::request(request)).await;
    let explained = answer.map_err(ClientError::from)?.into_inner();
    match common.output {
        Format::Json => output::json_line(&json!({
            "text": explained.text,
            "decisions": explained.decisions.iter().map(decision_json).collect::<Vec<_>>(),
        })),
        Format::Table => {
            output::line(&explained.text);
            print_decisions(common, &explained.decisions);
        }
    }
    Ok(())
}

pub(super) async fn policies(
    common: &Common,
    client: &mut Controller,
    queue: Option<String>,
) -> anyhow::Result<()> {
    let policies = match queue {
        Some(queue) => {
            let request = v1::GetPolicyRequest { queue };
            let answer = client.client.get_policy(Controller::request(request)).await;
            answer
                .map_err(ClientError::from)?
                .into_inner()
                .policy
                .into_iter()
                .collect()
        }
        None => all_policies(client).await?,
    };
    if common.output == Format::Json {
        policies
            .iter()
            .for_each(|policy| output::json_line(&policy_json(policy)));
        return Ok(());
    }
    let row = |policy: &v1::Policy| {
        vec![
            policy.queue.clone(),
            policy.min.to_string(),
            policy.max.to_string(),
            policy.weight.to_string(),
            strategy(policy).to_owned(),
            costs(policy).join(" "),
        ]
    };
    let rows: Vec<Vec<String>> = policies.iter().map(row).collect();
    output::table(&["QUEUE", "MIN", "MAX", "WEIGHT", "STRATEGY", "COSTS"], &rows);
    Ok(())
}

fn costs(policy: &v1::Policy) -> Vec<String> {
    let cost = |cost: &v1::ResourceCost| format!("{}={}", cost.resource, cost.units);
    policy.costs.iter().map(cost).collect()
}

/// As policies files spell it.
fn strategy(policy: &v1::Policy) -> &'static str {
    match policy.strategy() {
        v1::Strategy::Unspecified | v1::Strategy::Adaptive => "adaptive",
        v1::Strategy::Fixed => "fixed",
        v1::Strategy::EmaAimd => "ema_aimd",
    }
}

fn policy_json(policy: &v1::Policy) -> Value {
    let retry = policy.retry.unwrap_or_default();
    let costs: serde_json::Map<String, Value> = policy
        .costs
        .iter()
        .map(|cost| (cost.resource.clone(), json!(cost.units)))
        .collect();
    json!({
        "queue": policy.queue, "min": policy.min, "max": policy.max, "weight": policy.weight, "tier": policy.tier,
        "costs": costs, "max_wait_ms": policy.max_wait_ms, "max_depth": policy.max_depth,
        "max_running": policy.max_running, "strategy": strategy(policy),
        "retry": {
            "max_attempts": retry.max_attempts, "backoff_base_ms": retry.backoff_base_ms,
            "backoff_max_ms": retry.backoff_max_ms,
        },
        "lease_ttl_ms": policy.lease_ttl_ms, "timeout_ms": policy.timeout_ms,
        "heartbeat_timeout_ms": policy.heartbeat_timeout_ms, "keep_finished": policy.keep_finished,
        "idempotency_window_ms": policy.idempotency_window_ms, "max_keys": policy.max_keys,
        "max_park_ms": policy.max_park_ms, "payload_schema": policy.payload_schema,
        "when_down": if policy.when_down() == v1::WhenDown::Refuse { "refuse" } else { "accept" },
        "submit_rate": policy.submit_rate, "submit_burst": policy.submit_burst,
        "caller_rate": policy.caller_rate, "caller_burst": policy.caller_burst,
    })
}

async fn all_policies(client: &mut Controller) -> Result<Vec<v1::Policy>, ClientError> {
    let mut all = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListPoliciesRequest {
            page_size: 0,
            page_token,
        };
        let answer = client.client.list_policies(Controller::request(request)).await?;
        let page = answer.into_inner();
        all.extend(page.policies);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(all);
        }
    }
}

pub(super) async fn all_resources(client: &mut Controller) -> Result<Vec<v1::Resource>, ClientError> {
    let mut all = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListResourcesRequest {
            page_size: 0,
            page_token,
        };
        let answer = client.client.list_resources(Controller::request(request)).await?;
        let page = answer.into_inner();
        all.extend(page.resources);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(all);
        }
    }
}

pub(super) async fn resources(common: &Common, client: &mut Controller) -> anyhow::Result<()> {
    let declared = all_resources(client).await?;
    let fleet = client.fleet().await?;
    if common.output == Format::Table {
        print_resources(&fleet.resources);
        return Ok(());
    }
    for resource in declared {
        let used = fleet.resources.iter().find(|one| one.resource == resource.name);
        output::json_line(&json!({
            "resource": resource.name, "capacity": resource.capacity, "headroom": resource.headroom,
            "probe": used.map(|one| &one.probe), "probe_state": used.map(|one| &one.probe_state),
            "others": used.and_then(|one| one.others), "version": resource.version,
            "budget": used.map(|one| one.budget), "in_use": used.map(|one| one.in_use),
            "granted": used.map(|one| one.granted),
        }));
    }
    Ok(())
}
