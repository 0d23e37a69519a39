//! `deploy/prometheus` and `deploy/grafana` against a real fleet and a real Prometheus: an expression that never gives data
//! is an alert that never fires and a panel that stays empty.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tidegate_protocol::v1::{
    self, lease_request::Message as Up, lease_service_client::LeaseServiceClient, settlement::Outcome,
};
use tidegate_tests::{
    Answer, App, Process, Prometheus, Sandbox, WorkerOptions, WorkerProc, deploy, eventually, promtool,
};
use tokio_stream::StreamExt as _;

use super::fleet::Fleet;
use crate::producer::{new_job, submit_all, try_batch};

const PATIENCE: Duration = Duration::from_secs(60);

/// Expressions that give no data in this fleet, each with its reason.
const EXCEPTIONS: [(&str, &str); 0] = [];

fn read(path: &str) -> String {
    std::fs::read_to_string(deploy(path)).unwrap_or_else(|error| panic!("read {path}: {error}"))
}

/// (alert or record, expression, runbook) of the rules file.
fn rules() -> Vec<(String, String, Option<String>)> {
    let mut rules: Vec<(String, String, Option<String>)> = Vec::new();
    let mut in_expression = false;
    for line in read("prometheus/rules.yml").lines() {
        let text = line.trim();
        if let Some(name) = text
            .strip_prefix("- alert: ")
            .or_else(|| text.strip_prefix("- record: "))
        {
            rules.push((name.to_owned(), String::new(), None));
        } else if text.starts_with("expr:") {
            in_expression = true;
        } else if in_expression && line.starts_with("          ") {
            let rule = rules.last_mut().expect("an expression is of a rule");
            rule.1.push_str(text);
            rule.1.push(' ');
        } else {
            in_expression = false;
            if let Some(url) = text.strip_prefix("runbook_url: ") {
                rules.last_mut().expect("of a rule").2 = Some(url.to_owned());
            }
        }
    }
    rules
}

/// (panel, its JSON) of the dashboard, rows left out.
fn panels(dashboard: &Value) -> Vec<(String, Value)> {
    let panels = dashboard["panels"].as_array().expect("panels");
    let real = panels.iter().filter(|panel| panel["type"] != "row");
    real.map(|panel| {
        (
            panel["title"].as_str().expect("a title").to_owned(),
            panel.clone(),
        )
    })
    .collect()
}

fn dashboard() -> Value {
    serde_json::from_str(&read("grafana/dashboards/tidegate.json")).expect("JSON")
}

/// What Grafana would put in.
fn filled(expression: &str) -> String {
    expression
        .replace("$queue", ".*")
        .replace("$__rate_interval", "30s")
}

/// Series that an expression reads.
fn selectors(expression: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut found = BTreeSet::new();
    let mut rest = expression;
    while let Some(at) = rest.find(is_name) {
        let name_end = rest[at..]
            .find(|c| !is_name(c))
            .map_or(rest.len(), |end| at + end);
        let (name, mut after) = (&rest[at..name_end], &rest[name_end..]);
        let ours = ["tidegate_", "messaging_", "rpc_", "queue:"]
            .iter()
            .any(|prefix| name.starts_with(prefix));
        if let Some(labels) = after.strip_prefix('{') {
            let end = labels.find('}').expect("it is closed");
            if ours || name == "up" {
                found.insert(format!("{name}{{{}}}", &labels[..end]));
            }
            after = &labels[end + 1..];
        } else if ours
            && !after.starts_with('=')
            && !name.ends_with("_name")
            && name != "messaging_destination_name"
        {
            found.insert(name.to_owned());
        }
        // A text is not looked into.
        rest = match after.strip_prefix('"') {
            Some(text) => text.split_once('"').map_or("", |(_, rest)| rest),
            None => after,
        };
    }
    found.retain(|selector| {
        !["rpc_method", "rpc_status_code", "messaging_operation_name"].contains(&selector.as_str())
    });
    found
}

#[test]
fn selectors_are_found() {
    let found = selectors(
        "sum by (queue, rpc_method) (rate(tidegate_a{b=\"c_tidegate_d\"}[5m])) / queue:x:y > up{job=\"z\"}",
    );
    let expected = ["tidegate_a{b=\"c_tidegate_d\"}", "queue:x:y", "up{job=\"z\"}"];
    assert_eq!(found, expected.map(str::to_owned).into());
}

/// Every alert fires when it should and has a page that says what to do.
#[test]
fn every_alert_is_proven_and_has_a_runbook() {
    promtool(&["check", "config", "prometheus.yml"], "");
    promtool(&["test", "rules", "tests.yml"], "");
    let tests = read("prometheus/tests.yml");
    let alerts: Vec<_> = rules()
        .into_iter()
        .filter(|(name, _, _)| name.starts_with("Tidegate"))
        .collect();
    assert!(alerts.len() >= 10, "{}", alerts.len());
    for (name, expression, runbook) in alerts {
        assert!(!expression.is_empty(), "{name}");
        assert!(
            tests.contains(&format!("  - name: {name}\n")),
            "tests.yml lets {name} fire"
        );
        let url = runbook.unwrap_or_else(|| panic!("{name} has no runbook"));
        let (_, path) = url.split_once("/blob/main/").expect("a file of this repository");
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
        let page = std::fs::read_to_string(&page).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert!(page.contains(&format!("`{name}`")), "{path} is about {name}");
    }
}

/// What a page says to look at is there.
#[test]
fn runbooks_name_panels_by_their_titles() {
    let dashboard = dashboard();
    let titles: BTreeSet<String> = panels(&dashboard).into_iter().map(|(title, _)| title).collect();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations/runbooks");
    let mut named = 0;
    for page in std::fs::read_dir(folder).expect("the runbooks") {
        let path = page.expect("a page").path();
        let text = std::fs::read_to_string(&path).expect("a readable page");
        for part in text.split("anel *").skip(1) {
            let title = part.split('*').next().expect("a title");
            assert!(
                titles.contains(title),
                "{}: no panel is called {title:?}",
                path.display()
            );
            named += 1;
        }
    }
    assert!(named >= 3, "{named}");
}

/// A panel nobody can read is left out: each says its unit and what to do about it.
#[test]
fn the_dashboard_is_one_that_can_be_used() {
    let dashboard = dashboard();
    assert_eq!(dashboard["uid"], "tidegate-overview");
    let variables = dashboard["templating"]["list"].as_array().expect("variables");
    let names: Vec<&str> = variables
        .iter()
        .filter_map(|variable| variable["name"].as_str())
        .collect();
    assert_eq!(names, ["datasource", "queue"]);
    let panels = panels(&dashboard);
    let first: Vec<&str> = panels.iter().take(4).map(|(title, _)| title.as_str()).collect();
    let critical = [
        "Latency from submit to done",
        "Depth and time to drain",
        "Target, running, cap",
        "Errors, retries, circuit",
    ];
    assert_eq!(first, critical);
    let mut ids = BTreeSet::new();
    for (title, panel) in &panels {
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{title}");
        assert!(
            panel["description"].as_str().is_some_and(|text| text.len() > 40),
            "{title} says what it is for"
        );
        assert!(
            panel["fieldConfig"]["defaults"]["unit"]
                .as_str()
                .is_some_and(|unit| !unit.is_empty()),
            "{title}"
        );
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
    }
}

/// Everything that can go wrong in a small way, so that every counter has counted.
async fn provoke(fleet: &Fleet, app: &App) {
    let routers = fleet.routers();
    submit_all(&routers, "email", 40).await;
    // Full: the second job of a queue of depth one.
    for _ in 0..2 {
        let _ = try_batch(routers[0].clone(), &[new_job("full", "{}".to_owned())]).await;
    }
    // A settlement of a lease that never was.
    stale_settle(&routers[0]).await;
    // A worker that dies with a job in its hands: its lease ends by time.
    let hold = App::start(|_| Answer::ok().after(Duration::from_secs(60)));
    let doomed = WorkerProc::start(
        &fleet.sandbox,
        &routers,
        &hold.url(),
        &["doomed"],
        WorkerOptions::default(),
    )
    .await;
    submit_all(&routers, "doomed", 1).await;
    hold.wait_for(1, PATIENCE).await;
    doomed.process.kill9();
    // A job that is invalid is dead at once.
    app.behave(|delivery| match (delivery.attempt, delivery.number % 5) {
        (_, 0) => Answer::status(422),
        (1, 1) => Answer::status(500),
        _ => Answer::ok(),
    });
}

async fn stale_settle(router: &str) {
    let job_id = "email:0:00000000000000000000000000000001".to_owned();
    let settlement = v1::Settlement {
        lease: Some(v1::LeaseRef { job_id, fence: 1 }),
        outcome: Some(Outcome::Succeeded(v1::Succeeded::default())),
        ..Default::default()
    };
    let hello = v1::Hello {
        session: uuid::Uuid::new_v4().to_string(),
        incarnation: uuid::Uuid::new_v4().to_string(),
        queues: vec!["email".to_owned()],
        slots: 1,
        ..Default::default()
    };
    let settle = v1::Settle {
        settlements: vec![settlement],
        ..Default::default()
    };
    let said = [Up::Hello(hello), Up::Settle(settle)].map(|message| v1::LeaseRequest {
        message: Some(message),
    });
    let stream = tokio_stream::iter(said).chain(tokio_stream::pending());
    let mut client = LeaseServiceClient::connect(router.to_owned())
        .await
        .expect("connected");
    let mut heard = client.lease(stream).await.expect("taken in").into_inner();
    let answered = async {
        while let Ok(Some(answer)) = heard.message().await {
            if matches!(answer.message, Some(v1::lease_response::Message::Settled(_))) {
                return;
            }
        }
        panic!("no answer to a settlement");
    };
    tokio::time::timeout(PATIENCE, answered).await.expect("in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_expression_gives_data_in_a_real_fleet() {
    let app = App::start(|delivery| match (delivery.attempt, delivery.number % 5) {
        (1, 1) => Answer::status(500),
        _ => Answer::ok(),
    });
    let mut collector = tidegate_tests::Collector::start();
    let fleet = Fleet::start(&app, &collector.env()).await;
    let targets = [
        ("tidegate-router", fleet.router.metrics_url()),
        ("tidegate-controller", fleet.controller.metrics_url()),
        ("tidegate-worker", fleet.worker.metrics_url()),
    ];
    let sandbox = Sandbox::new();
    let prometheus = Prometheus::start(&sandbox, &targets).await;
    prometheus.wait_for_targets(targets.len()).await;
    provoke(&fleet, &app).await;
    collector.close(); // spans are lost from now on, and counted

    let mut open: BTreeMap<String, String> = BTreeMap::new();
    for (title, panel) in panels(&dashboard()) {
        for target in panel["targets"].as_array().expect("targets") {
            let expression = target["expr"].as_str().expect("an expression");
            open.insert(format!("panel {title}: {expression}"), filled(expression));
        }
    }
    let annotation = &dashboard()["annotations"]["list"][0]["expr"];
    open.insert(
        "annotation".to_owned(),
        filled(annotation.as_str().expect("an expression")),
    );
    for (rule, expression, _) in rules() {
        for selector in selectors(&expression) {
            open.insert(format!("rule {rule}: {selector}"), selector);
        }
        // What it compares must be there as well, joined by the labels that it joins by. promtool shows when it fires.
        if rule != "TidegateMetricsAbsent" {
            let compared = [" > ", " < ", " == "].iter().fold(expression, |text, sign| {
                text.replace(sign, &format!("{sign}bool "))
            });
            open.insert(format!("rule {rule}"), compared);
        }
    }
    open.retain(|what, _| !EXCEPTIONS.iter().any(|(exception, _)| exception == what));
    let all = open.len();
    assert!(all > 60, "{all} expressions");
    // Load goes on meanwhile, for rates; and somebody changes their mind, for decisions.
    let load = async {
        for turn in 0.. {
            submit_all(&fleet.routers(), "email", 10).await;
            let pin = if turn % 2 == 0 { "3" } else { "6" };
            let controller = fleet.controller.grpc_url();
            let args = [
                "control",
                "pin",
                "email",
                pin,
                "--why",
                "test",
                "--controller",
                &controller,
            ];
            let pinned = Process::tidegate(&sandbox, args, &[]);
            assert_eq!(pinned.wait_exit(PATIENCE).await, 0);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let looked = eventually(PATIENCE, "data for every expression", async || {
        let mut empty = BTreeMap::new();
        for (what, expression) in &open {
            if prometheus.query(expression).await.is_empty() {
                empty.insert(what.clone(), expression.clone());
            }
        }
        open = empty;
        open.is_empty().then_some(())
    });
    tokio::select! {
        () = looked => {}
        () = load => {}
        () = tokio::time::sleep(PATIENCE - Duration::from_secs(5)) => {}
    }
    assert!(open.is_empty(), "no data for {open:#?}");
    // The rules are evaluated without an error.
    let failures = prometheus
        .query("sum(prometheus_rule_evaluation_failures_total)")
        .await;
    assert!(
        failures.iter().all(|failure| failure.value == 0.0),
        "{failures:?}"
    );
}
