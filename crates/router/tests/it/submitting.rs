//! Entering jobs.

use std::collections::HashMap;

use tidegate_protocol::{limits, reason as why, v1};
use tonic::{Code, Request};
use tonic_types::StatusExt;

use super::harness::*;

async fn submit(server: &Server, job: v1::NewJob) -> Result<v1::SubmittedJob, tonic::Status> {
    let answer = server
        .jobs()
        .submit_job(v1::SubmitJobRequest { job: Some(job) })
        .await?;
    Ok(answer.into_inner().job.unwrap())
}

async fn get(server: &Server, id: &str) -> Result<v1::Job, tonic::Status> {
    let answer = server
        .jobs()
        .get_job(v1::GetJobRequest { job_id: id.into() })
        .await?;
    Ok(answer.into_inner().job.unwrap())
}

#[tokio::test]
async fn a_key_or_a_request_id_is_one_job() {
    let server = Server::start().await;
    let ways: [fn(&mut v1::NewJob); 2] = [
        |job| job.idempotency_key = "inv-17".into(),
        |job| job.request_id = "0b0d".into(),
    ];
    for name in ways {
        let mut job = new_job("email");
        name(&mut job);
        let first = submit(&server, job.clone()).await.unwrap();
        assert_eq!(
            (first.outcome(), first.state()),
            (v1::SubmitOutcome::Created, v1::JobState::Ready)
        );
        let again = submit(&server, job.clone()).await.unwrap();
        assert_eq!(
            (again.outcome(), &again.job_id),
            (v1::SubmitOutcome::Duplicate, &first.job_id)
        );

        job.payload = "other".into();
        let status = submit(&server, job).await.unwrap_err();
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::AlreadyExists, why::IDEMPOTENCY_KEY_REUSED)
        );
        let details = status.get_error_details();
        assert_eq!(details.error_info().unwrap().metadata["job_id"], first.job_id);
    }
    assert!(server.submit("email").await.starts_with("email:0:"));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn wrong_requests_name_field_and_reason() {
    let server = Server::start().await;
    let mut large = new_job("email");
    large.payload = vec![0; limits::PAYLOAD_BYTES_MAX + 1].into();
    let timed = v1::NewJob {
        run_at_ms: 1,
        delay_ms: 1,
        ..new_job("email")
    };
    for (job, field, expected) in [
        (new_job("E mail"), "job.queue", why::INVALID_QUEUE_NAME),
        (large.clone(), "job.payload", why::PAYLOAD_TOO_LARGE),
        (timed, "job.delay_ms", why::INVALID_TIME),
    ] {
        let status = submit(&server, job).await.unwrap_err();
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::InvalidArgument, expected)
        );
        let details = status.get_error_details();
        assert_eq!(details.error_info().unwrap().domain, "tidegate");
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, field);
    }
    let status = server
        .jobs()
        .submit_job(v1::SubmitJobRequest::default())
        .await
        .unwrap_err();
    assert_eq!(
        status.get_error_details().error_info().unwrap().metadata["field"],
        "job"
    );

    let mut jobs = server.jobs();
    let many = v1::SubmitJobsRequest {
        jobs: vec![new_job("email"); limits::BATCH_ITEMS_MAX + 1],
    };
    let heavy = v1::NewJob {
        payload: vec![0; limits::PAYLOAD_BYTES_MAX].into(),
        ..new_job("email")
    };
    let heavy = v1::SubmitJobsRequest {
        jobs: vec![heavy; 13],
    };
    for request in [many, heavy] {
        assert_eq!(
            reason(&jobs.submit_jobs(request).await.unwrap_err()),
            why::BATCH_TOO_LARGE
        );
    }
    let id = "email:0:0190163d8694739b8e1cdbf4a7ee1b8e";
    assert_eq!(reason(&get(&server, id).await.unwrap_err()), why::JOB_NOT_FOUND);
    assert_eq!(
        reason(&get(&server, "nonsense").await.unwrap_err()),
        why::INVALID_JOB_ID
    );
}

#[tokio::test]
async fn a_batch_answers_per_item() {
    let server = Server::start().await;
    let keyed = v1::NewJob {
        idempotency_key: "k".into(),
        ..new_job("email")
    };
    let reused = v1::NewJob {
        payload: "x".into(),
        ..keyed.clone()
    };
    let jobs = vec![keyed.clone(), new_job("UPPER"), keyed, reused, new_job("other")];
    let answer = server
        .jobs()
        .submit_jobs(v1::SubmitJobsRequest { jobs })
        .await
        .unwrap()
        .into_inner();
    use v1::submit_jobs_response::item::Result::{Error, Job};
    let items: Vec<_> = answer
        .items
        .into_iter()
        .map(|item| item.result.unwrap())
        .collect();
    let [Job(first), Error(name), Job(duplicate), Error(reused), Job(other)] = items.as_slice() else {
        panic!("{items:?}");
    };
    assert_eq!(first.job_id, duplicate.job_id);
    assert_eq!(
        (name.reason.as_str(), name.metadata["field"].as_str()),
        (why::INVALID_QUEUE_NAME, "jobs[1].queue")
    );
    assert_eq!(
        (reused.code, reused.reason.as_str()),
        (Code::AlreadyExists.into(), why::IDEMPOTENCY_KEY_REUSED)
    );
    assert!(other.job_id.starts_with("other:"));
}

#[tokio::test]
async fn a_full_queue_says_whose_quota_it_is_and_when_to_come_back() {
    let server = Server::start().await;
    server.store.policy("email", |policy| policy.max_depth = 1).await;
    server.submit("email").await;
    let status = submit(&server, new_job("email")).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::ResourceExhausted, why::QUEUE_FULL)
    );
    let details = status.get_error_details();
    assert_eq!(
        details.quota_failure().unwrap().violations[0].subject,
        "queue:email"
    );
    let delay = details.retry_info().unwrap().retry_delay.unwrap();
    let pushback = status
        .metadata()
        .get("grpc-retry-pushback-ms")
        .unwrap()
        .to_str()
        .unwrap();
    assert_eq!(pushback, delay.as_millis().to_string());

    let request = v1::SubmitJobsRequest {
        jobs: vec![new_job("email"), new_job("free")],
    };
    let items = server
        .jobs()
        .submit_jobs(request)
        .await
        .unwrap()
        .into_inner()
        .items;
    let Some(v1::submit_jobs_response::item::Result::Error(error)) = &items[0].result else {
        panic!("{items:?}")
    };
    assert!(
        error.reason == why::QUEUE_FULL && error.retry_after_ms > 0,
        "the item says the same"
    );

    let text = server.metrics.render();
    for line in [
        r#"tidegate_jobs_submitted_total{outcome="created",queue="email"} 1"#,
        r#"tidegate_jobs_submitted_total{outcome="refused",queue="email"} 2"#,
        r#"tidegate_rejections_total{queue="email",reason="QUEUE_FULL"} 2"#,
        r#"tidegate_store_operation_duration_seconds_bucket{op="submit""#,
        r#"tidegate_store_batch_size_bucket{op="submit""#,
        r#"tidegate_circuit_state{scope="store",state="closed"} 1"#,
        "tidegate_workers_connected 0",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn a_job_keeps_what_it_was_given() {
    let server = Server::start().await;
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let job = v1::NewJob {
        headers: HashMap::from([("tenant".into(), "a".into())]),
        delay_ms: 60_000,
        ..new_job("email")
    };
    let mut request = Request::new(v1::SubmitJobRequest { job: Some(job) });
    request
        .metadata_mut()
        .insert("traceparent", parent.parse().unwrap());
    let id = server
        .jobs()
        .submit_job(request)
        .await
        .unwrap()
        .into_inner()
        .job
        .unwrap()
        .job_id;
    let job = get(&server, &id).await.unwrap();
    assert_eq!(
        (job.state(), job.queue.as_str(), job.max_attempts),
        (v1::JobState::Scheduled, "email", 3)
    );
    assert_eq!(
        (&job.payload[..], job.headers["tenant"].as_str()),
        (&b"{}"[..], "a")
    );
    assert_eq!(job.traceparent, parent, "from the call's metadata");
}

#[tokio::test]
async fn a_payload_must_fit_its_queues_schema() {
    let store = std::sync::Arc::<Faulty>::default();
    let schema = r#"{"type": "object", "required": ["to"], "properties": {"to": {"type": "string"},
        "lines": {"type": "array", "items": {"type": "integer"}}}}"#;
    store
        .policy("email", |policy| policy.payload_schema = schema.into())
        .await;
    let server = Server::on(store).await;
    let with = |payload: &str| v1::NewJob {
        payload: payload.to_owned().into(),
        ..new_job("email")
    };
    submit(&server, with(r#"{"to": "a@b", "lines": [1]}"#))
        .await
        .unwrap();
    let wrong = with(r#"{"to": 5, "lines": [1, "s3cret", 2, null]}"#);
    let status = submit(&server, wrong.clone()).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::InvalidArgument, why::INVALID_PAYLOAD)
    );
    let details = status.get_error_details();
    let violations = &details.bad_request().unwrap().field_violations;
    let mut fields: Vec<&str> = violations.iter().map(|found| found.field.as_str()).collect();
    fields.sort_unstable();
    assert_eq!(
        fields,
        ["job.payload#/lines/1", "job.payload#/lines/3", "job.payload#/to"]
    );
    assert!(!format!("{status:?}").contains("s3cret"), "{status:?}");

    let jobs = vec![with(r#"{"to": "x"}"#), wrong, new_job("other")];
    let answer = server
        .jobs()
        .submit_jobs(v1::SubmitJobsRequest { jobs })
        .await
        .unwrap();
    let items = answer.into_inner().items;
    let reasons: Vec<_> = items
        .iter()
        .map(|item| match item.result.as_ref().unwrap() {
            v1::submit_jobs_response::item::Result::Job(_) => "",
            v1::submit_jobs_response::item::Result::Error(error) => &error.reason,
        })
        .collect();
    assert_eq!(reasons, ["", why::INVALID_PAYLOAD, ""]);
    server.stop().await.unwrap();
}
