//! Metrics: of one catalogue, well-formed, and true.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use tidegate_chassis::telemetry::{Metric, metric::EVERY_PROCESS};
use tidegate_tests::{Answer, App, Collector, Process, eventually, golden, promtool};

use super::fleet::Fleet;
use crate::producer::submit_all;

const PATIENCE: Duration = Duration::from_secs(60);

/// (service, its metrics)
const SERVICES: [(&str, &[Metric]); 4] = [
    ("every process", EVERY_PROCESS),
    ("router", tidegate_router::METRICS),
    ("controller", tidegate_controller::METRICS),
    ("worker", tidegate_worker::METRICS),
];

/// The reference is written from the same constants as the instruments: it cannot be out of date.
#[test]
fn the_reference_is_what_the_code_says() {
    let mut text = String::from(
        "# Metrics\n\nOn `/metrics` of each service, and by OTLP where an endpoint is set, from the same instruments. \
         Written by the test\n`e2e telemetry::metrics::the_reference_is_what_the_code_says` with \
         `TIDEGATE_UPDATE_GOLDEN=1`; do not edit.\n\nBy OTLP a metric has the name in the second column and no suffix. \
         No label ever holds a job id, a key, an error text or\na tenant; queues beyond 500 count together as `(other)`.\n\
         `tidegate dev` is all services in one process, so a name that several of them have is the last one's there.\n",
    );
    let mut seen: BTreeMap<&str, Metric> = BTreeMap::new();
    for (service, metrics) in SERVICES {
        let _ = write!(
            text,
            "\n## {}{}\n\n| on the page | by OTLP | kind | labels | what |\n|---|---|---|---|---|\n",
            service[..1].to_uppercase(),
            &service[1..]
        );
        for metric in metrics {
            let labels: Vec<String> = metric
                .labels
                .iter()
                .map(|label| format!("`{}`", Metric::label_on_page(label)))
                .collect();
            let _ = writeln!(
                text,
                "| `{}` | `{}` | {} | {} | {} |",
                metric.on_page(),
                metric.name,
                metric.kind.as_str(),
                labels.join(", "),
                metric.help
            );
            let before = seen.insert(metric.name, *metric);
            assert!(
                before.is_none_or(|before| before == *metric),
                "{} is two things",
                metric.name
            );
        }
    }
    golden::check("../docs/reference/metrics.md", &text);
}

/// A page's families: name -> (type, label names).
fn families(page: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let mut families: BTreeMap<String, (String, BTreeSet<String>)> = BTreeMap::new();
    let mut name = String::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (family, kind) = rest.split_once(' ').expect("a name and a type");
            name = family.to_owned();
            families.entry(name.clone()).or_default().0 = kind.to_owned();
        } else if let Some((_, labels)) = line.split_once('{').filter(|_| !line.starts_with('#')) {
            let labels = labels.rsplit_once('}').expect("it is closed").0;
            let names = labels
                .split("\",")
                .filter_map(|label| Some(label.split_once('=')?.0.to_owned()));
            families
                .entry(name.clone())
                .or_default()
                .1
                .extend(names.filter(|name| name != "le"));
        }
    }
    families
}

/// Every service under load, with everything provoked that can be: what it shows is in the catalogue, as it says, and
/// promtool has nothing to say against it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_page_is_of_the_catalogue_and_well_formed() {
    let collector = Collector::start();
    let app = App::start(|delivery| match (delivery.attempt, delivery.number % 5) {
        (1, 0) => Answer::status(500),
        _ => Answer::ok(),
    });
    let fleet = Fleet::start(&app, &collector.env()).await;
    submit_all(&fleet.routers(), "email", 50).await;
    app.wait_for_answers(50, PATIENCE).await;
    let shown = eventually(PATIENCE, "gauges of all services", async || {
        let pages = fleet.pages().await;
        let shows = |page: &str, name: &str| page.contains(&format!("\n{name}"));
        let done = shows(&pages[0].1, "tidegate_retry_ratio{")
            && shows(&pages[1].1, "tidegate_concurrency_target{")
            && shows(&pages[2].1, "tidegate_job_latency_seconds_count{")
            && shows(&pages[2].1, "tidegate_telemetry_spans_total{");
        done.then_some(pages)
    })
    .await;
    for (service, page) in &shown {
        promtool(&["check", "metrics"], page);
        let own = SERVICES
            .iter()
            .filter(|(name, _)| name == service || *name == "every process");
        let catalogue: BTreeMap<String, Metric> = own
            .flat_map(|(_, metrics)| metrics.iter())
            .map(|metric| (metric.on_page(), *metric))
            .collect();
        for (name, (kind, labels)) in families(page) {
            if name == "target_info" {
                continue; // the resource, by the conventions of OpenTelemetry
            }
            let metric = catalogue
                .get(&name)
                .unwrap_or_else(|| panic!("{service} shows {name}, which is in no catalogue"));
            assert_eq!(metric.kind.as_str(), kind, "{name}");
            let declared: BTreeSet<String> = metric
                .labels
                .iter()
                .map(|label| Metric::label_on_page(label))
                .collect();
            assert!(
                labels.is_subset(&declared),
                "{name} has {labels:?}, declared are {declared:?}"
            );
        }
    }
    // By OTLP under the instruments' names.
    let wanted = [
        "tidegate_jobs_settled",
        "tidegate_control_decisions",
        "tidegate_job_run_duration",
        "messaging.process.duration",
    ];
    eventually(PATIENCE, "the same by OTLP", async || {
        let names = collector.metrics();
        wanted.iter().all(|name| names.contains(*name)).then_some(())
    })
    .await;
    // The calls between services are streams, which count when they end.
    fleet.controller.process.kill9();
    eventually(PATIENCE, "the ends of the control streams", async || {
        let (router, worker) = (fleet.router.metrics().await, fleet.worker.metrics().await);
        let ended = "rpc_client_call_duration_seconds_count{rpc_method=\"tidegate.v1.ControlService/Attach\"";
        (router.contains(ended) && worker.contains(ended)).then_some(())
    })
    .await;
}

fn gauge(page: &str, series: &str) -> Option<f64> {
    page.lines()
        .find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}

/// Utilisation is what runs over the real target, as the worker itself has both in that second: by the policy, and after
/// each change of mind of an operator, below and above one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn utilisation_is_running_over_the_real_target() {
    const RUNNING: f64 = 3.0;
    let app = App::start(|_| Answer::ok().after(Duration::from_secs(60)));
    let fleet = Fleet::start(&app, &[]).await;
    submit_all(&fleet.routers(), "email", RUNNING as usize).await;
    app.wait_for(RUNNING as usize, PATIENCE).await;
    let of = |page: &str, name: &str| gauge(page, &format!("{name}{{queue=\"email\"}}"));
    for pinned in [None, Some(2.0), Some(6.0)] {
        if let Some(target) = pinned {
            pin(&fleet, target).await;
        }
        let utilisation = eventually(PATIENCE, format!("a target of {pinned:?}"), async || {
            let worker = fleet.worker.metrics().await;
            let controller = fleet.controller.metrics().await;
            let own = of(&worker, "tidegate_concurrency_target")?;
            let running = of(&worker, "tidegate_concurrency_running")?;
            let utilisation = of(&worker, "tidegate_worker_utilization_ratio")?;
            // Three gauges: a page can fall between two of them, but not again and again.
            let fits = (utilisation - running / own.max(1.0)).abs() < 1e-9;
            // 8 is the policy's; alone, the worker would have its 64 slots.
            let given = of(&controller, "tidegate_concurrency_target")?;
            let is_real =
                own == given && pinned.map_or((RUNNING..=8.0).contains(&own), |target| own == target);
            let is_true = running == RUNNING && app.in_flight() as f64 == RUNNING;
            (fits && is_real && is_true).then_some(utilisation)
        })
        .await;
        if let Some(target) = pinned {
            assert!(
                (utilisation - RUNNING / target).abs() < 1e-9,
                "{utilisation} at {target}"
            );
        }
    }
}

async fn pin(fleet: &Fleet, target: f64) {
    let (target, controller) = (target.to_string(), fleet.controller.grpc_url());
    let args = [
        "control",
        "pin",
        "email",
        &target,
        "--why",
        "test",
        "--controller",
        &controller,
    ];
    let pinned = Process::tidegate(&fleet.sandbox, args, &[]);
    assert_eq!(pinned.wait_exit(PATIENCE).await, 0, "{}", pinned.tail());
}
