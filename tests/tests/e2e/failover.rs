//! Several controllers on one ledger, a Postgres behind a PgBouncer in transaction mode: one leads, others stand by.
//!
//! `TIDEGATE_LONG=1` stops a leader for a minute instead of a quarter of one.

use std::time::{Duration, Instant};

use tidegate_protocol::externalscaler::{self as keda, external_scaler_client::ExternalScalerClient};
use tidegate_tests::{
    Answer, App, Controller, ControllerOptions, PgBouncer, PgBouncerOptions, Postgres, PostgresOptions,
    Router, Sandbox, WorkerProc, eventually, free_address,
};

use crate::{
    ledger::{cap, cap_is, control, router, status, worker},
    producer::submit_all,
};

const PATIENCE: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_secs(1);
const ASK_EVERY: Duration = Duration::from_millis(700);
const DEFAULT_TICK: Duration = Duration::from_secs(5);
const LEASE: Duration = Duration::from_secs(10);
/// How long the undisturbed fleet is looked at.
const UNDISTURBED: Duration = Duration::from_secs(6);
/// What a busy machine takes beyond that.
const SLACK: Duration = Duration::from_secs(5);
const POLICIES: &str = "[resources.pg-main]\ncapacity = 40\n[queues.email]\ncosts = { pg-main = 1 }\nstrategy = \"fixed\"\nmax = 28\n";

async fn controller(sandbox: &Sandbox, ledger: &str, name: &str, tick: Duration) -> Controller {
    let options = ControllerOptions {
        listen: Some(free_address()),
        policies: Some(POLICIES.to_owned()),
        config: Some(format!(
            "[controller]\ntick = \"{}s\"\nname = \"{name}\"\n",
            tick.as_secs()
        )),
        ledger: Some(ledger.to_owned()),
        ..ControllerOptions::default()
    };
    Controller::start(sandbox, options).await
}

/// Two controllers, of which the first leads, and a fleet with work for minutes.
struct Fleet<'a> {
    sandbox: &'a Sandbox,
    leader: Controller,
    standby: Controller,
    app: App,
    router: Router,
    _worker: WorkerProc,
}

impl<'a> Fleet<'a> {
    async fn start(sandbox: &'a Sandbox, ledger: &str, tick: Duration) -> Self {
        let leader = controller(sandbox, ledger, "first", tick).await;
        let standby = controller(sandbox, ledger, "second", tick).await;
        let urls = [leader.grpc_url(), standby.grpc_url()];
        let app = App::start(|_| Answer::ok().after(Duration::from_millis(200)));
        let router = router(sandbox, "memory:", &urls).await;
        let worker = worker(sandbox, &router, &app, &urls).await;
        submit_all(&[router.grpc_url()], "email", 12_000).await;
        cap_is(&router, 28).await;
        let fleet = Self {
            sandbox,
            leader,
            standby,
            app,
            router,
            _worker: worker,
        };
        let status = status(sandbox, &fleet.standby.grpc_url()).await;
        assert_eq!(
            (&status["leader"], &status["leader_name"]),
            (&false.into(), &"first".into())
        );
        assert_eq!(status["leader_url"], fleet.leader.grpc_url());
        fleet
    }

    /// Jobs done in a time.
    async fn done_in(&self, window: Duration) -> usize {
        let before = self.app.deliveries().len();
        tokio::time::sleep(window).await;
        self.app.deliveries().len() - before
    }

    /// Until a controller leads and the store has its cap; gives its epoch.
    async fn led_by(&self, controller: &Controller) -> u64 {
        let url = controller.grpc_url();
        eventually(PATIENCE, "another leader, obeyed", async || {
            // Each question is a process: they must not be the load that is measured.
            tokio::time::sleep(ASK_EVERY).await;
            let status = status(self.sandbox, &url).await;
            let obeyed = status["leader"] == true && status["queues"][0]["cap"] == 28;
            obeyed.then(|| status["version"]["epoch"].as_u64().unwrap())
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_costs_no_work_and_another_one_leads_in_time() {
    a_leader_is_killed(TICK).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_costs_no_work_at_the_default_tick_either() {
    a_leader_is_killed(DEFAULT_TICK).await;
}

/// KEDA's question to one controller: slots that the queue wants.
async fn slots(controller: &Controller) -> Result<i64, String> {
    let mut scaler = ExternalScalerClient::connect(controller.grpc_url())
        .await
        .map_err(|error| error.to_string())?;
    let metadata = [("queues", "email"), ("slotsPerWorker", "10")];
    let object = keda::ScaledObjectRef {
        scaler_metadata: metadata
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        ..keda::ScaledObjectRef::default()
    };
    let request = keda::GetMetricsRequest {
        scaled_object_ref: Some(object),
        metric_name: "tidegate-slots".to_owned(),
    };
    let answer = scaler
        .get_metrics(request)
        .await
        .map_err(|status| status.to_string())?;
    Ok(answer.into_inner().metric_values[0].metric_value)
}

async fn a_leader_is_killed(tick: Duration) {
    let sandbox = Sandbox::new();
    let postgres = Postgres::start(&sandbox, PostgresOptions::default()).await;
    postgres.role("ledger", 20).await;
    let pooler = PgBouncer::start(&sandbox, &postgres, PgBouncerOptions::default().pool_size(2)).await;
    let fleet = Fleet::start(&sandbox, &pooler.role_url("ledger"), tick).await;
    let epoch = fleet.led_by(&fleet.leader).await;
    // A Service leads to all of them alike: a standby passes the question on.
    assert_eq!(slots(&fleet.standby).await, slots(&fleet.leader).await);
    assert_eq!(slots(&fleet.standby).await, Ok(28));
    // A lease, and what a new leader takes to look at its fleet.
    let window = LEASE + 2 * tick;
    let before = fleet.done_in(UNDISTURBED).await;

    fleet.leader.process.kill9();
    let killed = Instant::now();
    let heir = async {
        let newer = fleet.led_by(&fleet.standby).await;
        (newer, killed.elapsed())
    };
    let ((newer, took), done) = tokio::join!(heir, fleet.done_in(window));
    // The machine is not always as busy: what is around the window is what it is compared with.
    let around = (before + fleet.done_in(UNDISTURBED).await) as f64;
    let undisturbed = around * window.div_duration_f64(2 * UNDISTURBED);
    eprintln!("another leader after {took:?}; {done} jobs in {window:?}, {undisturbed:.0} undisturbed");
    assert!(newer > epoch, "{newer} after {epoch}");
    assert!(took < window + SLACK, "{took:?}");
    assert!(done as f64 >= 0.95 * undisturbed, "{done} of {undisturbed:.0}");
    // Whoever leads is found by the command, and what was said before is known to it.
    let both = [fleet.leader.grpc_url(), fleet.standby.grpc_url()];
    let (code, text) = control(&sandbox, &both, &["policy", "get", "email", "-o", "json"]).await;
    assert!(code == 0 && text.contains("\"max\":28"), "{code} {text}");
    let (code, text) = control(&sandbox, &both, &["pin", "email", "7", "--who", "ada"]).await;
    assert_eq!(code, 0, "{text}");
    cap_is(&fleet.router, 7).await;
    let kept = "SELECT count(*) FROM tidegate_edits WHERE who = 'ada' AND subject = 'email'";
    assert_eq!(postgres.number(kept).await, 1);
    assert!(postgres.number("SELECT count(*) FROM tidegate_ticks").await > 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_stopped_changes_nothing_when_it_wakes_up() {
    let stopped = match std::env::var_os("TIDEGATE_LONG") {
        Some(_) => Duration::from_secs(60),
        None => Duration::from_secs(16),
    };
    let sandbox = Sandbox::new();
    let postgres = Postgres::start(&sandbox, PostgresOptions::default()).await;
    let ledger = postgres.role("ledger", 20).await;
    let fleet = Fleet::start(&sandbox, &ledger, TICK).await;
    fleet.leader.process.freeze();
    tokio::time::sleep(stopped).await;
    let newer = fleet.led_by(&fleet.standby).await;
    let both = [fleet.standby.grpc_url()];
    let (code, text) = control(&sandbox, &both, &["pin", "email", "9"]).await;
    assert_eq!(code, 0, "{text}");
    cap_is(&fleet.router, 9).await;

    // It knows of no pin and would order 28.
    fleet.leader.process.thaw();
    let end = Instant::now() + 4 * TICK;
    while Instant::now() < end {
        assert_eq!(cap(&fleet.router).await, Some(9));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let first = status(&sandbox, &fleet.leader.grpc_url()).await;
    assert_eq!(
        (&first["leader"], &first["leader_name"]),
        (&false.into(), &"second".into()),
        "{first}"
    );
    assert_eq!(
        first["nodes"].as_array().map(Vec::len),
        Some(0),
        "its nodes were sent on"
    );
    let second = status(&sandbox, &fleet.standby.grpc_url()).await;
    assert_eq!(
        (&second["leader"], second["version"]["epoch"].as_u64()),
        (&true.into(), Some(newer))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_database_jobs_go_on_edits_are_refused_and_the_history_catches_up() {
    let sandbox = Sandbox::new();
    let postgres = Postgres::start(&sandbox, PostgresOptions::default()).await;
    let ledger = postgres.role("ledger", 20).await;
    let fleet = Fleet::start(&sandbox, &ledger, TICK).await;
    let urls = [fleet.leader.grpc_url()];
    let ticks = "SELECT count(*) FROM tidegate_ticks";
    postgres.kill9().await;
    let died = Instant::now();
    let (code, text) = control(&sandbox, &urls, &["pin", "email", "3"]).await;
    assert!(code == 5 && text.contains("ledger's database"), "{code} {text}");
    assert!(fleet.done_in(Duration::from_secs(2)).await > 100, "jobs go on");
    let while_dead = status(&sandbox, &urls[0]).await;
    assert_ne!(while_dead["ledger"]["error"], "", "{while_dead}");
    assert_eq!(cap(&fleet.router).await, Some(28), "nothing in part");
    postgres.restart().await;
    // Before the lease ran out: it goes on, and nothing is missing.
    let goes_on = died.elapsed() < Duration::from_secs(9);
    let caught_up = eventually(PATIENCE, "the history catches up", async || {
        let status = status(&sandbox, &urls[0]).await;
        (status["ledger"]["error"] == "" && status["ledger"]["waiting"].as_u64() < Some(5)).then_some(status)
    })
    .await;
    assert_eq!(caught_up["ledger"]["dropped"], 0, "{caught_up}");
    let kept = postgres.number(ticks).await;
    if goes_on {
        // Ticks are counted on when a leadership takes a higher epoch.
        let span = "SELECT max(tick) - min(tick) + 1 FROM tidegate_ticks WHERE epoch = (SELECT max(epoch) FROM tidegate_ticks)";
        let of_epoch =
            "SELECT count(*) FROM tidegate_ticks WHERE epoch = (SELECT max(epoch) FROM tidegate_ticks)";
        assert_eq!(
            postgres.number(span).await,
            postgres.number(of_epoch).await,
            "without a gap"
        );
    }
    assert!(kept > 0);
    // Longer than a lease: nobody can prove to lead, caps outlive that, and everything comes back by itself.
    postgres.kill9().await;
    let why = eventually(PATIENCE, "it does not lead any more", async || {
        let status = status(&sandbox, &urls[0]).await;
        (status["leader"] == false).then(|| status["standby_reason"].as_str().unwrap().to_owned())
    })
    .await;
    assert!(why.contains("lease") || why.contains("ledger"), "{why}");
    assert!(fleet.done_in(Duration::from_secs(2)).await > 100, "jobs go on");
    postgres.restart().await;
    eventually(PATIENCE, "somebody leads again", async || {
        for controller in [&fleet.leader, &fleet.standby] {
            if status(&sandbox, &controller.grpc_url()).await["leader"] == true {
                return Some(());
            }
        }
        None
    })
    .await;
    let both = [fleet.leader.grpc_url(), fleet.standby.grpc_url()];
    eventually(PATIENCE, "edits are taken again", async || {
        let (code, _) = control(&sandbox, &both, &["pin", "email", "6"]).await;
        (code == 0).then_some(())
    })
    .await;
    cap_is(&fleet.router, 6).await;
}
