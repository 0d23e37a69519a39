use super::*;
use crate::domain::{Probe, Retry, Strategy, WhenDown};

fn policies(text: &str) -> Result<Vec<QueuePolicy>, String> {
    parse(text)
        .map(|file| file.queues)
        .map_err(|error| error.to_string())
}

#[test]
fn a_whole_file() {
    let text = r#"
        [queues.email]
        max = 50
        costs = { pg-main = 1, smtp = 2 }
        retry = { max_attempts = 5, backoff_base = "250ms" }
        lease_ttl = "3s"
        timeout = "1m"
        max_wait = "30s"
        strategy = "ema_aimd"
        when_down = "refuse"
        cap = 12
        retry_cap = 4

        [queues."reports.daily"]
    "#;
    let parsed = policies(text).unwrap();
    let [email, reports] = parsed.as_slice() else {
        panic!("two queues: {parsed:?}")
    };
    assert_eq!(
        email.cap,
        Some(Cap {
            cap: 12,
            retry_cap: 4,
            safe: 12
        })
    );
    let policy = &email.policy;
    assert_eq!(
        (
            policy.max,
            policy.lease_ttl_ms,
            policy.timeout_ms,
            policy.max_wait_ms
        ),
        (50, 3_000, 60_000, 30_000)
    );
    assert_eq!(
        policy.retry,
        Retry {
            max_attempts: 5,
            backoff_base_ms: 250,
            backoff_max_ms: 3_600_000
        }
    );
    assert_eq!(policy.costs.len(), 2);
    assert_eq!(
        (policy.strategy, policy.when_down),
        (Strategy::EmaAimd, WhenDown::Refuse)
    );
    assert_eq!((&reports.policy, reports.cap), (&Policy::default(), None));
}

#[test]
fn mistakes_are_named_with_their_place() {
    for (text, expected) in [
        (
            "[queues.email]\nlease_tl = \"3s\"",
            "queues.email: unknown key `lease_tl`; did you mean `lease_ttl`?",
        ),
        (
            "[queues.email.retry]\nmax_atempts = 3",
            "did you mean `retry.max_attempts`?",
        ),
        ("[queue.email]", "unknown key `queue`"),
        ("[queues.\"E mail\"]", "invalid name \"E mail\""),
        (
            "[queues.email]\nlease_ttl = 3",
            "invalid value for `lease_ttl`: invalid type",
        ),
        (
            "[queues.email]\nlease_ttl = \"3\"",
            "is not a duration such as \"5s\"",
        ),
        (
            "[queues.email]\nlease_ttl = \"500ms\"",
            "lease_ttl: 500 ms is outside",
        ),
        ("[queues.email]\nmin = 9\nmax = 3", "min: 9 is above max, 3"),
        (
            "[queues.email]\nstrategy = \"magic\"",
            "invalid value for `strategy`",
        ),
        ("[queues.email]\ncosts = { pg-main = 0 }", "must be at least 1"),
        (
            "[queues.email]\ncap = 3\nretry_cap = 4",
            "must not be above cap, 3",
        ),
        (
            "[queues.email]\nretry_cap = 4",
            "retry_cap: says nothing without cap",
        ),
        ("[queues.email]\nmin = 5\ncap = 3", "cap: 3 is below min, 5"),
        ("[queues.email\n", "not valid TOML"),
        (
            "[resources.pg]\nheadroom = 0.5",
            "resources.pg: capacity: say how many",
        ),
        (
            "[resources.pg]\ncapacity = 0",
            "resources.pg: capacity: must be at least 1",
        ),
        (
            "[resources.pg]\ncapacity = 9\nheadroom = 1.5",
            "headroom: must be above 0",
        ),
        (
            "[resources.pg]\ncapacity = 9\nprob = \"static\"",
            "did you mean `probe`?",
        ),
        (
            "[resources.pg]\ncapacity = 9\nprobe = \"guess\"",
            "invalid value for `probe`",
        ),
        (
            "[resources.pg]\ncapacity = 9\nprobe = { postgres = { url = \"postgres://a:b@db\" } }",
            "resources.pg: probe.postgres.url: must hold no password",
        ),
        (
            "[resources.pg]\ncapacity = 9\n[resources.pg.probe.postgres]\nurl = \"postgres://a@db\"\npassword = \"b\"",
            "unknown field `password`, expected one of `url`, `role`, `application_name`, `password_env`",
        ),
        ("[resources.\"P G\"]\ncapacity = 9", "invalid name \"P G\""),
    ] {
        let error = policies(text).expect_err(text);
        assert!(error.contains(expected), "{text:?}: {error}");
    }
    assert_eq!(policies("").unwrap(), []);
}

#[test]
fn resources_stand_in_the_same_file() {
    let file = parse("[resources.pg-main]\ncapacity = 50\n[resources.smtp]\ncapacity = 8\nheadroom = 1\nprobe = \"workers\"")
        .unwrap();
    let resource = |name: &str, capacity, headroom, probe| Resource {
        name: name.to_owned(),
        capacity,
        headroom,
        probe,
    };
    assert_eq!(
        file.resources,
        [
            resource("pg-main", 50, 0.7, Probe::Static),
            resource("smtp", 8, 1.0, Probe::Workers)
        ]
    );
}

#[test]
fn a_probe_that_asks_somebody_is_a_table_of_its_own() {
    let file = parse(
        "[resources.pg-main]\ncapacity = 50\n[resources.pg-main.probe.postgres]\nurl = \"postgres://monitor@db/app\"\n\
         role = \"app\"\napplication_name = \"tidegate\"\npassword_env = \"TIDEGATE_PROBE_PG_MAIN\"",
    )
    .unwrap();
    let expected = crate::domain::PostgresProbe {
        url: "postgres://monitor@db/app".to_owned(),
        role: "app".to_owned(),
        application_name: "tidegate".to_owned(),
        password_env: "TIDEGATE_PROBE_PG_MAIN".to_owned(),
    };
    assert_eq!(file.resources[0].probe, Probe::Postgres(expected));
}
