use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use bytes::Bytes;
use serde::Deserialize;
use tidegate_protocol::domain::{FailureClass, Outcome};

use super::*;
use crate::{FromRef, JobContext, JobError, Payload, State, blocking};

#[derive(Debug, Deserialize)]
struct Email {
    to: Vec<Address>,
}

#[derive(Debug, Deserialize)]
struct Address {
    host: String,
}

const GOOD: &str = r#"{"to": [{"host": "example.org"}]}"#;

#[derive(Clone)]
struct App {
    sent: Arc<AtomicU32>,
    from: &'static str,
}

impl FromRef<App> for Arc<AtomicU32> {
    fn from_ref(app: &App) -> Self {
        Arc::clone(&app.sent)
    }
}

struct Tenant(String);

impl<S: Send + Sync, T> FromJob<S, T> for Tenant {
    async fn from_job(job: &Job, _: &S) -> Result<Self, JobError> {
        match job.context.header("tenant") {
            Some(tenant) => Ok(Self(tenant.to_owned())),
            None => Err(JobError::invalid("no header 'tenant'")),
        }
    }
}

fn job(payload: &'static str) -> Job {
    let id = "email:0:00000000000000000000000000000001".parse().expect("valid");
    Job {
        context: JobContext::for_test(id),
        payload: payload.into(),
    }
}

fn app() -> App {
    App {
        sent: Arc::default(),
        from: "ada",
    }
}

async fn run<M>(handler: impl Handler<App, Email, M>, payload: &'static str) -> Outcome {
    handler.into_delivery(app()).deliver(job(payload)).await.outcome
}

fn done(result: &'static str) -> Outcome {
    Outcome::Succeeded {
        result: result.into(),
    }
}

#[tokio::test]
async fn arguments_come_in_any_order_and_number() {
    async fn none() {}
    async fn one(email: Payload<Email>) -> Result<usize, JobError> {
        Ok(email.to.len())
    }
    async fn other_order(
        email: Payload<Email>,
        ctx: JobContext,
        app: State<App>,
    ) -> Result<String, JobError> {
        Ok(format!("{} {} {}", app.from, ctx.attempt(), email.to[0].host))
    }
    async fn part_of_the_state(State(sent): State<Arc<AtomicU32>>, raw: Bytes) -> Result<usize, JobError> {
        sent.fetch_add(1, Ordering::Relaxed);
        Ok(raw.len())
    }
    #[allow(clippy::too_many_arguments, reason = "as many as there may be")]
    async fn eight(
        _: JobContext,
        _: Bytes,
        _: State<App>,
        _: Payload<Email>,
        _: JobContext,
        _: Bytes,
        _: State<App>,
        email: Payload<Email>,
    ) -> anyhow::Result<usize> {
        Ok(email.to.len())
    }
    assert_eq!(run(none, GOOD).await, done(""));
    assert_eq!(run(one, GOOD).await, done("1"));
    assert_eq!(run(other_order, GOOD).await, done("\"ada 1 example.org\""));
    assert_eq!(run(part_of_the_state, GOOD).await, done("33"));
    assert_eq!(run(eight, GOOD).await, done("1"));
    let closure = |ctx: JobContext| async move { Verdict::succeeded(ctx.queue().to_string()) };
    assert_eq!(run(closure, GOOD).await, done("email"));
}

#[tokio::test]
async fn state_is_shared_by_attempts() {
    async fn count(State(sent): State<Arc<AtomicU32>>) -> Result<u32, JobError> {
        Ok(sent.fetch_add(1, Ordering::Relaxed) + 1)
    }
    let delivery = Handler::<App, Email, _>::into_delivery(count, app());
    for n in ["1", "2"] {
        assert_eq!(delivery.deliver(job(GOOD)).await, Verdict::succeeded(n));
    }
}

#[tokio::test]
async fn a_payload_that_does_not_decode_is_invalid_and_says_where() {
    async fn never(_: Payload<Email>) {
        panic!("called with a payload that does not decode");
    }
    for (payload, text) in [
        (
            r#"{"to": [{"host": "a"}, {"host": 7}]}"#,
            "at to[1].host: invalid type: integer `7`",
        ),
        (r#"{"from": 1}"#, "missing field `to`"),
        ("no json", "expected ident"),
        (r#"{"to": []} and more"#, "trailing characters"),
        ("", "EOF while parsing"),
    ] {
        let outcome = run(never, payload).await;
        assert!(
            matches!(&outcome, Outcome::Invalid { error }
                if error.starts_with("the payload does not decode: ") && error.contains(text)),
            "{outcome:?}"
        );
    }
}

#[tokio::test]
async fn an_extractor_of_ones_own_may_refuse_the_job() {
    async fn handler(Tenant(name): Tenant) {
        panic!("called without a tenant: {name}");
    }
    let invalid = Outcome::Invalid {
        error: "no header 'tenant'".into(),
    };
    assert_eq!(run(handler, GOOD).await, invalid);
}

#[tokio::test]
async fn a_function_that_blocks_runs_on_a_thread() {
    fn count(ctx: JobContext, email: Payload<Email>) -> Result<usize, JobError> {
        assert_ne!(std::thread::current().name(), Some("main"));
        assert!(!ctx.is_cancelled());
        Ok(email.to.len())
    }
    fn panicking(_: JobContext) {
        panic!("no rows");
    }
    fn nothing() -> Result<(), JobError> {
        Err(JobError::retry_after("later", Duration::from_secs(1)))
    }
    assert_eq!(run(blocking(count), GOOD).await, done("1"));
    let later = Outcome::Retry {
        error: "later".into(),
        after_ms: 1_000,
    };
    assert_eq!(run(blocking(nothing), GOOD).await, later);
    let delivery = Handler::<App, Email, _>::into_delivery(blocking(panicking), app());
    let verdict = delivery.deliver(job(GOOD)).await;
    assert_eq!(verdict.class, Some(FailureClass::Job));
    assert!(verdict.outcome.error().contains("no rows"), "{verdict:?}");
}

#[tokio::test]
async fn a_function_that_blocks_is_told_through_its_context() {
    fn patient(ctx: JobContext) -> Result<&'static str, JobError> {
        while !ctx.is_cancelled() {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok("told")
    }
    let job = job(GOOD);
    let cancel = job.context.token();
    let delivery = Handler::<App, Email, _>::into_delivery(blocking(patient), app());
    let tell = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        cancel.cancel();
    };
    let (verdict, ()) = tokio::join!(delivery.deliver(job), tell);
    assert_eq!(verdict, Verdict::succeeded("\"told\""));
}

#[cfg(feature = "schema")]
mod schema {
    use super::*;
    use crate::{Queue, Worker, WorkerError};

    const SCHEMA: &str = r#"{"type": "object", "required": ["to"], "properties": {"to": {"minItems": 1}}}"#;

    #[tokio::test]
    async fn a_payload_that_does_not_match_is_invalid() {
        const EMAIL: Queue<Email> = Queue::<Email>::new("email").with_schema(SCHEMA);
        async fn count(email: Payload<Email>) -> Result<usize, JobError> {
            Ok(email.to.len())
        }
        let worker = Worker::connect("127.0.0.1:1", ()).handle(EMAIL, count);
        let deliveries = worker.registry().build().expect("a valid schema");
        let delivery = deliveries.values().next().expect("one");
        assert_eq!(delivery.deliver(job(GOOD)).await.outcome, done("1"));
        for (payload, text) in [
            (r#"{"to": []}"#, "at /to: [] has less than 1 item"),
            ("{}", "\"to\" is a required property"),
            ("{", "the payload is no JSON"),
        ] {
            let outcome = delivery.deliver(job(payload)).await.outcome;
            assert!(
                matches!(&outcome, Outcome::Invalid { error } if error.contains(text)),
                "{outcome:?}"
            );
        }
    }

    #[test]
    fn a_schema_that_is_none_is_refused_at_start() {
        const EMAIL: Queue<Email> = Queue::<Email>::new("email").with_schema(r#"{"type": "objekt"}"#);
        async fn nothing() {}
        let error = Worker::connect("127.0.0.1:1", ()).handle(EMAIL, nothing).check();
        assert!(matches!(error, Err(WorkerError::InvalidSchema { queue, .. }) if queue == "email"));
    }
}
