//! What operators ask for: listing, steering, queues.

use tidegate_protocol::{reason as why, v1};
use tonic::Code;

use super::harness::*;

#[tokio::test]
async fn jobs_are_listed_page_by_page() {
    let server = Server::start().await;
    let mut submitted = server.submit_many("email", 25).await;
    let mut jobs = server.jobs();
    let page = |page_size, page_token| v1::ListJobsRequest {
        queue: "email".into(),
        state: v1::JobState::Ready.into(),
        page_size,
        page_token,
        ..Default::default()
    };
    let (mut listed, mut token) = (Vec::new(), String::new());
    loop {
        let answer = jobs.list_jobs(page(10, token)).await.unwrap().into_inner();
        assert!(answer.jobs.len() <= 10 && answer.jobs.iter().all(|job| job.payload.is_empty()));
        listed.extend(answer.jobs.into_iter().map(|job| job.id));
        token = answer.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    listed.sort();
    submitted.sort();
    assert_eq!(listed, submitted);
    for request in [
        page(-1, String::new()),
        page(1, "nonsense".into()),
        v1::ListJobsRequest {
            state: v1::JobState::Dead.into(),
            ..page(1, "2.1".into())
        },
    ] {
        assert_eq!(
            reason(&jobs.list_jobs(request).await.unwrap_err()),
            why::INVALID_PAGE
        );
    }
    let unknown = v1::ListJobsRequest {
        state: 99,
        ..page(1, String::new())
    };
    assert_eq!(
        jobs.list_jobs(unknown).await.unwrap_err().code(),
        Code::InvalidArgument
    );
}

#[tokio::test]
async fn a_page_of_large_jobs_is_cut_to_what_a_message_takes() {
    let server = Server::start().await;
    let header = |n: usize| (format!("h{n}"), "x".repeat(1_000));
    let job = v1::NewJob {
        headers: (0..32).map(header).collect(),
        ..new_job("email")
    };
    for _ in 0..4 {
        let request = v1::SubmitJobsRequest {
            jobs: vec![job.clone(); 50],
        };
        server.jobs().submit_jobs(request).await.unwrap();
    }
    let request = v1::ListJobsRequest {
        queue: "email".into(),
        state: v1::JobState::Ready.into(),
        page_size: 1_000,
        ..Default::default()
    };
    let answer = server.jobs().list_jobs(request).await.unwrap().into_inner();
    assert!((1..200).contains(&answer.jobs.len()) && !answer.next_page_token.is_empty());
}

#[tokio::test]
async fn actions_answer_per_id() {
    let server = Server::start().await;
    let id = server.submit("email").await;
    let unknown = "email:0:0190163d8694739b8e1cdbf4a7ee1b8e".to_owned();
    let mut jobs = server.jobs();
    let job_ids = vec![id.clone(), unknown, "nonsense".into()];
    let results = jobs
        .cancel_jobs(v1::CancelJobsRequest { job_ids })
        .await
        .unwrap()
        .into_inner()
        .results;
    let reasons: Vec<_> = results
        .iter()
        .map(|r| r.error.as_ref().map(|error| error.reason.as_str()))
        .collect();
    assert_eq!(
        reasons,
        [None, Some(why::JOB_NOT_FOUND), Some(why::INVALID_JOB_ID)]
    );
    assert_eq!(results[0].state(), v1::JobState::Cancelled);

    let redrive = v1::RedriveJobsRequest {
        job_ids: vec![id.clone()],
    };
    let results = jobs.redrive_jobs(redrive).await.unwrap().into_inner().results;
    assert_eq!(results[0].error.as_ref().unwrap().reason, why::WRONG_STATE);
    assert_eq!(results[0].state(), v1::JobState::Cancelled);

    let delete = v1::DeleteJobsRequest {
        job_ids: vec![id.clone()],
    };
    assert!(
        jobs.delete_jobs(delete).await.unwrap().into_inner().results[0]
            .error
            .is_none()
    );
    assert_eq!(
        server
            .jobs()
            .get_job(v1::GetJobRequest { job_id: id.clone() })
            .await
            .unwrap_err()
            .code(),
        Code::NotFound
    );
    let many = v1::DeleteJobsRequest {
        job_ids: vec![id; 1_001],
    };
    assert_eq!(
        reason(&jobs.delete_jobs(many).await.unwrap_err()),
        why::BATCH_TOO_LARGE
    );
}

#[tokio::test]
async fn queues_are_listed_paused_and_resumed() {
    let server = Server::start().await;
    for name in ["c", "a", "b"] {
        server.submit(name).await;
    }
    let mut queues = server.queues();
    let page = |page_token| v1::ListQueuesRequest {
        page_size: 2,
        page_token,
    };
    let first = queues
        .list_queues(page(String::new()))
        .await
        .unwrap()
        .into_inner();
    let second = queues
        .list_queues(page(first.next_page_token.clone()))
        .await
        .unwrap()
        .into_inner();
    let names: Vec<_> = first
        .queues
        .iter()
        .chain(&second.queues)
        .map(|queue| queue.name.as_str())
        .collect();
    assert_eq!(
        (names.as_slice(), second.next_page_token.as_str()),
        (&["a", "b", "c"][..], "")
    );

    let _worker = server.worker(&["a"]).await;
    let paused = queues
        .pause_queue(v1::PauseQueueRequest { name: "a".into() })
        .await
        .unwrap()
        .into_inner();
    let queue = paused.queue.unwrap();
    assert_eq!(
        (queue.paused, queue.effective_cap, queue.sessions, queue.ready),
        (true, Some(0), 1, 1)
    );
    let resumed = queues
        .resume_queue(v1::ResumeQueueRequest { name: "a".into() })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(resumed.queue.unwrap().effective_cap, None);
    let missing = queues
        .get_queue(v1::GetQueueRequest {
            name: "missing".into(),
        })
        .await
        .unwrap_err();
    assert_eq!(
        (missing.code(), reason(&missing).as_str()),
        (Code::NotFound, why::QUEUE_NOT_FOUND)
    );
}

async fn list(server: &Server, filter: v1::JobFilter, page_size: i32) -> Vec<v1::Job> {
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        let filter = filter.clone();
        let request = v1::ListJobsRequest {
            queue: filter.queue,
            state: filter.state,
            created_from_ms: filter.created_from_ms,
            created_before_ms: filter.created_before_ms,
            idempotency_key: filter.idempotency_key,
            page_size,
            page_token,
        };
        let page = server.jobs().list_jobs(request).await.unwrap().into_inner();
        assert!(page.jobs.len() <= page_size as usize);
        all.extend(page.jobs);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return all;
        }
    }
}

#[tokio::test]
async fn jobs_are_found_by_time_and_key_in_every_state() {
    let server = Server::start().await;
    let first = server.submit_many("email", 40).await;
    let keyed = v1::NewJob {
        idempotency_key: "inv-17".into(),
        delay_ms: 60_000,
        ..new_job("email")
    };
    let request = v1::SubmitJobRequest { job: Some(keyed) };
    let keyed = server
        .jobs()
        .submit_job(request)
        .await
        .unwrap()
        .into_inner()
        .job
        .unwrap()
        .job_id;
    tokio::time::sleep(std::time::Duration::from_millis(30)).await;
    let last = server.submit_many("email", 30).await;
    let mut worker = server.worker(&["email"]).await;
    let running = worker.take("email", 5).await;
    assert_eq!(running.len(), 5);
    let email = || v1::JobFilter {
        queue: "email".into(),
        ..Default::default()
    };
    assert_eq!(list(&server, email(), 7).await.len(), 71, "whatever their state");
    let created = server.store.job(&last[0]).await.created_ms;
    let since = v1::JobFilter {
        created_from_ms: created,
        ..email()
    };
    let mut found: Vec<String> = list(&server, since, 7)
        .await
        .into_iter()
        .map(|job| job.id)
        .collect();
    let mut expected = last.clone();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    let before = v1::JobFilter {
        created_before_ms: created,
        ..email()
    };
    assert_eq!(list(&server, before, 1_000).await.len(), first.len() + 1);
    let with_key = v1::JobFilter {
        idempotency_key: "inv-17".into(),
        ..email()
    };
    let found = list(&server, with_key, 1).await;
    assert_eq!((found.len(), found[0].id.as_str()), (1, keyed.as_str()));
    server.stop().await.unwrap();
}

async fn act_on(
    server: &Server,
    action: v1::JobAction,
    filter: v1::JobFilter,
) -> Result<Vec<v1::ActOnJobsResponse>, tonic::Status> {
    let request = v1::ActOnJobsRequest {
        filter: Some(filter),
        action: action.into(),
    };
    let mut stream = server.jobs().act_on_jobs(request).await?.into_inner();
    let mut all = Vec::new();
    while let Some(progress) = stream.message().await? {
        all.push(progress);
    }
    Ok(all)
}

#[tokio::test]
async fn an_action_on_many_jobs_goes_in_batches_and_tells_how_far_it_is() {
    let server = Server::start().await;
    server.submit_many("email", 950).await;
    server.submit_many("other", 3).await;
    let mut worker = server.worker(&["email"]).await;
    let running = worker.take("email", 2).await;
    let email = |state: v1::JobState| v1::JobFilter {
        queue: "email".into(),
        state: state.into(),
        ..Default::default()
    };
    let all = act_on(&server, v1::JobAction::Cancel, email(v1::JobState::Unspecified))
        .await
        .unwrap();
    let last = all.last().unwrap();
    assert_eq!(
        (last.examined, last.done, last.refused, last.finished),
        (950, 950, 0, true)
    );
    assert!(
        all.len() > 4 && all.is_sorted_by_key(|progress| progress.done),
        "{all:?}"
    );
    // Running ones are told, too.
    let renewed = worker.renew(running.iter().map(lease_of).collect()).await;
    assert_eq!(renewed.cancelled.len(), 2);
    assert_eq!(list(&server, email(v1::JobState::Ready), 100).await.len(), 0);

    let nothing = act_on(&server, v1::JobAction::Redrive, email(v1::JobState::Unspecified))
        .await
        .unwrap();
    assert_eq!(
        (nothing.last().unwrap().done, nothing.last().unwrap().finished),
        (0, true)
    );
    let deleted = act_on(&server, v1::JobAction::Delete, email(v1::JobState::Unspecified))
        .await
        .unwrap();
    assert!(deleted.last().unwrap().done > 0);
    assert_eq!(
        list(&server, email(v1::JobState::Unspecified), 100).await.len(),
        0
    );
    let other = v1::JobFilter {
        queue: "other".into(),
        ..Default::default()
    };
    assert_eq!(list(&server, other, 100).await.len(), 3, "nobody else's");

    for (action, filter, field) in [
        (v1::JobAction::Unspecified, email(v1::JobState::Ready), "action"),
        (v1::JobAction::Cancel, email(v1::JobState::Dead), "filter.state"),
        (v1::JobAction::Cancel, v1::JobFilter::default(), "filter.queue"),
    ] {
        let status = act_on(&server, action, filter).await.unwrap_err();
        use tonic_types::StatusExt;
        let details = status.get_error_details();
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, field);
    }
    server.stop().await.unwrap();
}
