use std::collections::HashMap;

use super::*;
use crate::{
    domain::{
        Cap, CapRecord, FailureClass, JobState, LeaseRef, NewJob, Outcome, Policy, ResourceCost, Settlement,
        Version,
    },
    limits, v1,
};

const ID: &str = "email:0:0190163d8694739b8e1cdbf4a7ee1b8e";

fn enter(change: impl FnOnce(&mut v1::NewJob)) -> Result<NewJob, Invalid> {
    let mut wire = v1::NewJob {
        queue: "email".into(),
        payload: "{}".into(),
        ..Default::default()
    };
    change(&mut wire);
    new_job(
        wire,
        |queue| JobId {
            queue,
            ..ID.parse().unwrap()
        },
        |payload| [payload.len() as u8; 12],
    )
}

#[test]
fn a_job_is_completed_by_its_taker() {
    let job = enter(|job| {
        job.headers = HashMap::from([("b".into(), "2".into()), ("a".into(), "1".into())]);
        job.traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into();
        job.tracestate = "vendor=1\n".into();
    })
    .unwrap();
    assert_eq!(job.id, ID.parse().unwrap());
    assert_eq!(job.payload_hash, [2; 12]);
    assert_eq!(
        job.headers,
        [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())]
    );
    assert_eq!((job.idempotency_key, job.request_id), (None, None));
    assert!(job.traceparent.is_some());
    assert_eq!(job.tracestate, None, "a malformed trace context is dropped");
}

#[test]
fn wrong_jobs_name_the_field_and_the_reason() {
    type Change = fn(&mut v1::NewJob);
    let cases: [(Change, &str, &str); 12] = [
        (
            |job| job.queue = "E mail".into(),
            "queue",
            reason::INVALID_QUEUE_NAME,
        ),
        (|job| job.queue.clear(), "queue", reason::INVALID_QUEUE_NAME),
        (
            |job| job.payload = vec![0; limits::PAYLOAD_BYTES_MAX + 1].into(),
            "payload",
            reason::PAYLOAD_TOO_LARGE,
        ),
        (
            |job| job.idempotency_key = "k".repeat(256),
            "idempotency_key",
            reason::INVALID_KEY,
        ),
        (
            |job| job.request_id = "r".repeat(65),
            "request_id",
            reason::INVALID_KEY,
        ),
        (
            |job| (job.run_at_ms, job.delay_ms) = (1, 1),
            "delay_ms",
            reason::INVALID_TIME,
        ),
        (
            |job| (job.deadline_ms, job.deadline_after_ms) = (1, 1),
            "deadline_after_ms",
            reason::INVALID_TIME,
        ),
        (|job| job.delay_ms = u64::MAX, "delay_ms", reason::INVALID_TIME),
        (|job| job.run_at_ms = u64::MAX, "run_at_ms", reason::INVALID_TIME),
        (
            |job| _ = job.headers.insert("Upper".into(), "v".into()),
            "headers",
            reason::INVALID_HEADER,
        ),
        (
            |job| _ = job.headers.insert("a".into(), "x\r\ny".into()),
            "headers",
            reason::INVALID_HEADER,
        ),
        (
            |job| job.headers = (0..33).map(|n| (n.to_string(), String::new())).collect(),
            "headers",
            reason::INVALID_HEADER,
        ),
    ];
    for (at, (change, field, why)) in cases.into_iter().enumerate() {
        let error = enter(change).expect_err("refused");
        assert_eq!((error.field.as_str(), error.reason), (field, why), "case {at}");
    }
    assert!(enter(|job| job.payload = vec![0; limits::PAYLOAD_BYTES_MAX].into()).is_ok());
    assert!(enter(|job| job.idempotency_key = "k".repeat(255)).is_ok());
}

#[test]
fn settlements_round_trip() {
    let lease = LeaseRef {
        id: ID.parse().unwrap(),
        fence: 7,
    };
    for outcome in [
        Outcome::Succeeded { result: "ok".into() },
        Outcome::Retry {
            error: "e".into(),
            after_ms: 5,
        },
        Outcome::Failed { error: "e".into() },
        Outcome::Invalid { error: "e".into() },
        Outcome::Released { error: String::new() },
        Outcome::Throttled {
            error: "e".into(),
            after_ms: 9,
        },
    ] {
        for class in [
            None,
            Some(FailureClass::Overload),
            Some(FailureClass::Down),
            Some(FailureClass::Job),
        ] {
            let original = Settlement {
                lease: lease.clone(),
                outcome: outcome.clone(),
                class,
                run_ms: 3,
            };
            assert_eq!(settlement(original.clone().into()).unwrap(), original);
        }
    }
}

#[test]
fn settlements_are_refused_only_where_nothing_can_be_saved() {
    let wire = |outcome| v1::Settlement {
        lease: Some(v1::LeaseRef {
            job_id: ID.into(),
            fence: 1,
        }),
        outcome: Some(outcome),
        ..Default::default()
    };
    let retry = v1::Retry {
        error: "ä".repeat(limits::ERROR_BYTES_MAX),
        after_ms: u64::MAX,
    };
    let Outcome::Retry { error, after_ms } = settlement(wire(v1::settlement::Outcome::Retry(retry)))
        .unwrap()
        .outcome
    else {
        panic!("a retry stays one");
    };
    assert!(error.len() <= limits::ERROR_BYTES_MAX && after_ms == DELAY_MS_MAX);

    let large = v1::Succeeded {
        result: vec![0; limits::RESULT_BYTES_MAX + 1].into(),
    };
    let error = settlement(wire(v1::settlement::Outcome::Succeeded(large))).unwrap_err();
    assert_eq!(
        (error.field.as_str(), error.reason),
        ("succeeded.result", reason::PAYLOAD_TOO_LARGE)
    );
    assert_eq!(settlement(v1::Settlement::default()).unwrap_err().field, "lease");
    let error = settlement(v1::Settlement {
        outcome: None,
        ..wire(v1::settlement::Outcome::Failed(v1::Failed::default()))
    });
    assert_eq!(error.unwrap_err().field, "outcome");
}

#[test]
fn lease_lists_are_bounded_and_name_the_wrong_item() {
    let good = v1::LeaseRef {
        job_id: ID.into(),
        fence: 1,
    };
    let bad = v1::LeaseRef {
        job_id: "x".into(),
        fence: 1,
    };
    let error = lease_refs("leases", &[good.clone(), bad]).unwrap_err();
    assert_eq!(
        (error.field.as_str(), error.reason),
        ("leases[1].job_id", reason::INVALID_JOB_ID)
    );
    let error = lease_refs("leases", &vec![good; limits::LEASES_PER_STREAM_MAX + 1]).unwrap_err();
    assert_eq!(error.reason, reason::BATCH_TOO_LARGE);
}

#[test]
fn policies_round_trip_and_zero_is_the_default() {
    let queue: QueueName = "email".parse().unwrap();
    let wire = v1::Policy {
        queue: "email".into(),
        ..Default::default()
    };
    assert_eq!(policy(wire).unwrap(), (queue.clone(), Policy::default()));

    let original = Policy {
        min: 2,
        max: 9,
        weight: 2.5,
        costs: vec![ResourceCost {
            resource: "pg-main".into(),
            units: 2,
        }],
        max_wait_ms: 5_000,
        ..Policy::default()
    };
    let version = Version {
        epoch: 1,
        generation: 2,
    };
    let wire = v1::Policy::from((queue.clone(), original.clone(), Some(version)));
    assert_eq!(super::version(wire.version), version);
    assert_eq!(policy(wire).unwrap(), (queue, original));
}

#[test]
fn wrong_policies_are_refused() {
    type Change = fn(&mut Policy);
    let cost = |resource: &str, units| ResourceCost {
        resource: resource.into(),
        units,
    };
    let cases: [(Change, &str); 9] = [
        (|p| p.min = 1_001, "min"),
        (|p| p.max = 0, "max"),
        (|p| p.weight = f64::NAN, "weight"),
        (|p| p.lease_ttl_ms = 999, "lease_ttl"),
        (|p| p.timeout_ms = 0, "timeout"),
        (|p| p.retry.max_attempts = 0, "retry.max_attempts"),
        (|p| p.retry.backoff_base_ms = 7_200_000, "retry.backoff_base"),
        (|p| p.max_park_ms = u64::MAX, "max_park"),
        (|p| p.max_depth = 0, "max_depth"),
    ];
    for (change, field) in cases {
        let mut policy = Policy::default();
        change(&mut policy);
        assert_eq!(check_policy(&policy).unwrap_err().field, field);
    }
    for (costs, field) in [
        (vec![cost("pg", 0)], "costs[0]"),
        (vec![cost("pg", 1), cost("pg", 1)], "costs[1]"),
        (vec![cost("P G", 1)], "costs[0].resource"),
    ] {
        let policy = Policy {
            costs,
            ..Policy::default()
        };
        assert_eq!(check_policy(&policy).unwrap_err().field, field);
    }
}

#[test]
fn caps_and_states_round_trip() {
    let record = CapRecord {
        cap: Cap {
            cap: 5,
            retry_cap: 2,
            safe: 3,
        },
        expires_ms: 9,
        version: Version {
            epoch: 1,
            generation: 4,
        },
    };
    assert_eq!(cap_record(record.into()), record);
    for state in JobState::ALL {
        assert_eq!(
            job_state("state", v1::JobState::from(state).into()).unwrap(),
            state
        );
    }
    assert!(job_state("state", 0).is_err() && job_state("state", 99).is_err());
}

#[test]
fn forgotten_uuids_are_refused() {
    for text in ["", "x", "00000000-0000-0000-0000-000000000000"] {
        assert!(session("session", text).is_err(), "{text:?} was taken");
    }
    let text = "0190163d-8694-739b-8e1c-dbf4a7ee1b8e";
    assert_eq!(
        session("session", text),
        session("session", &text.replace('-', ""))
    );
}

#[test]
fn paths_are_put_together() {
    let error = Invalid::new("queue", reason::INVALID_ARGUMENT, "no").within("jobs[3]");
    assert_eq!(error.to_string(), "jobs[3].queue: no");
}
