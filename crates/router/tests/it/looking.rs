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
    let unspecified = v1::ListJobsRequest {
        state: 0,
        ..page(1, String::new())
    };
    assert_eq!(
        jobs.list_jobs(unspecified).await.unwrap_err().code(),
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
