//! Probes of real servers: what they measure, and what becomes of answers that cannot be.

use std::{
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use serde_json::Value;
use sqlx::{Connection, Executor, PgConnection};
use tidegate_tests::{
    Controller, ControllerOptions, PgBouncer, PgBouncerOptions, Postgres, PostgresOptions, Process, Sandbox,
    eventually, free_address,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// A controller with one resource of 50, `pg`, that is probed so.
async fn controller(sandbox: &Sandbox, probe: &str) -> Controller {
    let policies = format!("[resources.pg]\ncapacity = 50\n[resources.pg.probe.{probe}");
    let options = ControllerOptions {
        policies: Some(policies),
        config: Some("[controller]\ntick = \"1s\"\n".to_owned()),
        ..ControllerOptions::default()
    };
    Controller::start(sandbox, options).await
}

/// As `control status -o json` shows the resource.
async fn resource(sandbox: &Sandbox, controller: &Controller) -> Value {
    let args = [
        "control",
        "status",
        "-o",
        "json",
        "--controller",
        &controller.grpc_url(),
    ];
    let status = Process::tidegate(sandbox, args, &[]);
    assert_eq!(status.wait_exit(PATIENCE).await, 0, "{}", status.tail());
    let mut status: Value = serde_json::from_str(&status.stdout()).unwrap();
    status["resources"][0].take()
}

async fn shows(
    sandbox: &Sandbox,
    controller: &Controller,
    what: &str,
    check: impl Fn(&Value) -> bool,
) -> Value {
    let last = Mutex::new(Value::Null);
    let found = eventually(PATIENCE, what.to_owned(), async || {
        let shown = resource(sandbox, controller).await;
        let holds = check(&shown);
        *last.lock().unwrap() = shown.clone();
        tokio::time::sleep(Duration::from_millis(200)).await;
        holds.then_some(shown)
    });
    tokio::select! {
        shown = found => shown,
        () = tokio::time::sleep(PATIENCE - Duration::from_secs(1)) => panic!("never: {what}: {last:?}"),
    }
}

async fn sessions(url: &str, application: &str, count: usize) -> Vec<PgConnection> {
    let url = format!("{url}?application_name={application}");
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(PgConnection::connect(&url).await.unwrap());
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_of_a_role_are_counted_and_a_server_that_hangs_is_doubted() {
    let sandbox = Sandbox::new();
    let postgres = Postgres::start(&sandbox, PostgresOptions::default()).await;
    let app = postgres.role("app", 50).await;
    let monitor = postgres.role("monitor", 5).await;
    postgres.must("GRANT pg_monitor TO monitor").await;
    let probe = format!("postgres]\nurl = \"{monitor}\"\nrole = \"app\"\napplication_name = \"worker\"\n");
    let controller = controller(&sandbox, &probe).await;
    let _others = sessions(&app, "api", 12).await;
    let mut jobs = sessions(&app, "worker-1", 5).await;
    let _strangers = sessions(&postgres.url(), "psql", 2).await;
    // Idle ones hold a connection, too.
    let is = |measured: f64, others: f64| {
        move |shown: &Value| shown["measured"] == measured && shown["others"] == others
    };
    let shown = shows(&sandbox, &controller, "17 sessions, 12 of others", is(17.0, 12.0)).await;
    assert_eq!(
        (shown["limit"].as_f64(), shown["probe_state"].as_str()),
        (Some(50.0), Some("good"))
    );

    jobs.truncate(2);
    shows(&sandbox, &controller, "14 sessions", is(14.0, 12.0)).await;
    postgres
        .must("create table t (n int); grant all on t to app")
        .await;
    jobs[0].execute("begin; lock table t").await.unwrap();
    let mut waiting = jobs.pop().unwrap();
    let waits = tokio::spawn(async move { waiting.execute("select * from t").await.map(drop) });
    shows(&sandbox, &controller, "a session waits for a lock", |shown| {
        shown["waiters"] == 1.0
    })
    .await;
    waits.abort();

    postgres.freeze();
    let held = shows(&sandbox, &controller, "it is held", |shown| {
        shown["probe_state"] == "held"
    })
    .await;
    assert_eq!(held["others"].as_f64(), Some(12.0), "{held}");
    let doubted = shows(&sandbox, &controller, "it is distrusted", |shown| {
        shown["probe_state"] == "distrusted"
    })
    .await;
    assert!(doubted["others"].is_null(), "{doubted}");
    let text = doubted["probe_text"].as_str().unwrap();
    assert!(text.contains("no answer in 2 s"), "{text}");
    // Metrics are of the last tick.
    let line = "tidegate_resource_probe_state{resource=\"pg\",state=\"distrusted\"} 1";
    eventually(PATIENCE, line, async || {
        controller.metrics().await.contains(line).then_some(())
    })
    .await;
    assert!(controller.process.stdout().contains("a probe is doubted"));

    postgres.thaw();
    shows(&sandbox, &controller, "it is believed again", |shown| {
        shown["probe_state"] == "good" && shown["others"] == 12.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_does_not_exist_and_one_without_rights_say_so() {
    let sandbox = Sandbox::new();
    let postgres = Postgres::start(&sandbox, PostgresOptions::default()).await;
    let url = postgres.url();
    let wrong = controller(
        &sandbox,
        &format!("postgres]\nurl = \"{url}\"\nrole = \"nobody\"\n"),
    )
    .await;
    let stranger = postgres.role_url("stranger");
    let refused = controller(&sandbox, &format!("postgres]\nurl = \"{stranger}\"\n")).await;
    let missing = controller(
        &sandbox,
        &format!("postgres]\nurl = \"{url}\"\npassword_env = \"TIDEGATE_PROBE_PG\"\n"),
    )
    .await;
    let says = |part: &'static str| {
        move |shown: &Value| {
            shown["probe_text"]
                .as_str()
                .is_some_and(|text| text.contains(part))
        }
    };
    shows(
        &sandbox,
        &wrong,
        "the role is named",
        says("there is no role \"nobody\""),
    )
    .await;
    shows(
        &sandbox,
        &refused,
        "the server's word",
        says("role \"stranger\" does not exist"),
    )
    .await;
    shows(
        &sandbox,
        &missing,
        "the variable is named",
        says("neither TIDEGATE_PROBE_PG nor"),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_connections_at_work_behind_a_pgbouncer_are_counted() {
    let sandbox = Sandbox::new();
    let postgres = Postgres::start(&sandbox, PostgresOptions::default()).await;
    postgres.role("app", 50).await;
    let pooler = PgBouncer::start(&sandbox, &postgres, PgBouncerOptions::default().pool_size(3)).await;
    let console = pooler.console_url();
    let probe = format!("pgbouncer]\nurl = \"{console}\"\ndatabase = \"postgres\"\n");
    let controller = controller(&sandbox, &probe).await;
    let url = pooler.role_url("app");
    let mut busy = Vec::new();
    for _ in 0..5 {
        let mut session = PgConnection::connect(&url).await.unwrap();
        // Three get a server connection each and keep it, two wait for one.
        busy.push(tokio::spawn(async move {
            session.execute("begin; select pg_sleep(30)").await.map(drop)
        }));
    }
    shows(&sandbox, &controller, "three at work, two waiting", |shown| {
        shown["measured"] == 3.0 && shown["waiters"] == 2.0 && shown["probe_state"] == "good"
    })
    .await;
    busy.iter().for_each(tokio::task::JoinHandle::abort);
    shows(&sandbox, &controller, "idle ones are anybody's", |shown| {
        shown["measured"] == 0.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_of_a_real_prometheus_gives_the_number() {
    let sandbox = Sandbox::new();
    let address = free_address();
    let config = sandbox.write("prometheus.yml", "global:\n  scrape_interval: 1s\n");
    let data = sandbox.path().join("prometheus");
    let mut command = Command::new("prometheus");
    command
        .arg(format!("--config.file={config}"))
        .arg(format!("--web.listen-address={address}"))
        .arg(format!("--storage.tsdb.path={}", data.display()));
    let _prometheus = Process::start(&sandbox, command);
    let probe = |query: &str| format!("prometheus]\nurl = \"http://{address}\"\nquery = '{query}'\n");
    let number = controller(&sandbox, &probe("sum(vector(4) or vector(9)) * 3")).await;
    let nothing = controller(&sandbox, &probe("no_such_series{a=\"b\"}")).await;
    let broken = controller(&sandbox, &probe("sum(")).await;
    shows(&sandbox, &number, "12 in use", |shown| {
        shown["measured"] == 12.0 && shown["others"] == 12.0 && shown["probe_state"] == "good"
    })
    .await;
    let says = |part: &'static str| {
        move |shown: &Value| {
            shown["probe_text"]
                .as_str()
                .is_some_and(|text| text.contains(part))
        }
    };
    shows(&sandbox, &nothing, "no value", says("gives 0 values, not one")).await;
    shows(&sandbox, &broken, "the server's word", says("the query failed: ")).await;
}

type Answer = Arc<Mutex<(StatusCode, String)>>;

fn vector(value: &str) -> (StatusCode, String) {
    let sample = format!(r#"{{"metric":{{}},"value":[1435781451.781,"{value}"]}}"#);
    let body = format!(r#"{{"status":"success","data":{{"resultType":"vector","result":[{sample}]}}}}"#);
    (StatusCode::OK, body)
}

/// The query API with answers that a broken exporter, proxy or query may give.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_cannot_be_is_held_and_told() {
    let answer: Answer = Arc::new(Mutex::new(vector("20")));
    let app = Router::new()
        .route(
            "/api/v1/query",
            get(|State(answer): State<Answer>| async move { answer.lock().unwrap().clone() }),
        )
        .with_state(answer.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move { axum::serve(listener, app).await });
    let sandbox = Sandbox::new();
    let probe = format!("prometheus]\nurl = \"http://{address}\"\nquery = \"in_use\"\n");
    let controller = controller(&sandbox, &probe).await;
    let good = |shown: &Value| shown["probe_state"] == "good" && shown["measured"] == 20.0;
    shows(&sandbox, &controller, "it is good at first", good).await;
    for (lie, expected) in [
        (vector("NaN"), "no number"),
        (vector("-3"), "cannot be"),
        (vector("1000000000"), "of a capacity of 50"),
        (vector("51"), "of a capacity of 50"),
        (vector("twelve"), "\"twelve\" is no number"),
        ((StatusCode::BAD_GATEWAY, "<html>".to_owned()), "status 502"),
        ((StatusCode::OK, "x".repeat(1 << 20)), "length limit exceeded"),
    ] {
        *answer.lock().unwrap() = lie;
        let shown = shows(&sandbox, &controller, expected, |shown| {
            shown["probe_state"] == "held"
        })
        .await;
        let text = shown["probe_text"].as_str().unwrap();
        assert!(text.contains(expected), "{expected}: {text}");
        assert_eq!(
            shown["measured"].as_f64(),
            Some(20.0),
            "the last good word stands: {shown}"
        );
        *answer.lock().unwrap() = vector("20");
        shows(&sandbox, &controller, "good again", good).await;
    }
    serving.abort();
}
