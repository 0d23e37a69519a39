//! A worker that speaks the protocol by hand: an old fence records nothing.

use std::time::Duration;

use tidegate_protocol::v1::{
    Credit, Credits, Grant, Hello, LeaseRef, LeaseRequest, LeaseResponse, Settle, SettleResult, Settlement,
    Succeeded, lease_request, lease_response, lease_service_client::LeaseServiceClient, settlement,
};
use tidegate_tests::{Redis, RedisOptions, Router, RouterOptions, Sandbox};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use uuid::Uuid;

use crate::producer::submit_all;

struct HandWorker {
    up: mpsc::Sender<LeaseRequest>,
    down: Streaming<LeaseResponse>,
}

impl HandWorker {
    async fn connect(router: &str) -> Self {
        let mut client = LeaseServiceClient::connect(router.to_owned()).await.unwrap();
        let (up, requests) = mpsc::channel(16);
        let hello = Hello {
            session: Uuid::new_v4().to_string(),
            incarnation: Uuid::new_v4().to_string(),
            queues: vec!["email".into()],
            slots: 1,
            ..Hello::default()
        };
        up.send(message(lease_request::Message::Hello(hello)))
            .await
            .unwrap();
        let down = client
            .lease(ReceiverStream::new(requests))
            .await
            .unwrap()
            .into_inner();
        let mut worker = Self { up, down };
        assert!(matches!(worker.next().await, lease_response::Message::Welcome(_)));
        worker
    }

    async fn next(&mut self) -> lease_response::Message {
        let answer = tokio::time::timeout(Duration::from_secs(20), self.down.message()).await;
        answer
            .expect("an answer in time")
            .unwrap()
            .expect("the stream is open")
            .message
            .expect("a message")
    }

    async fn one_grant(&mut self) -> Grant {
        let credit = Credit {
            queue: "email".into(),
            free: 1,
            last_grant_seq: 0,
        };
        let credits = Credits {
            counter: 1,
            credits: vec![credit],
        };
        self.up
            .send(message(lease_request::Message::Credits(credits)))
            .await
            .unwrap();
        loop {
            if let lease_response::Message::Grants(mut grants) = self.next().await {
                assert_eq!((grants.grants.len(), grants.counter), (1, 1));
                return grants.grants.remove(0);
            }
        }
    }

    async fn settle(&mut self, grant: &Grant) -> SettleResult {
        let lease = LeaseRef {
            job_id: grant.job_id.clone(),
            fence: grant.fence,
        };
        let outcome = Some(settlement::Outcome::Succeeded(Succeeded {
            result: "done".into(),
        }));
        let settlement = Settlement {
            lease: Some(lease),
            outcome,
            ..Settlement::default()
        };
        let settle = Settle {
            settlements: vec![settlement],
            ..Settle::default()
        };
        self.up
            .send(message(lease_request::Message::Settle(settle)))
            .await
            .unwrap();
        loop {
            if let lease_response::Message::Settled(settled) = self.next().await {
                return settled.items[0].result();
            }
        }
    }
}

fn message(message: lease_request::Message) -> LeaseRequest {
    LeaseRequest {
        message: Some(message),
    }
}

#[tokio::test]
async fn a_stale_settle_is_refused() {
    let sandbox = Sandbox::new();
    let router = Router::start(&sandbox, "memory:", RouterOptions::default()).await;
    stale_settle(&router.grpc_url(), &router.grpc_url()).await;
}

#[tokio::test]
async fn a_stale_settle_is_refused_by_another_router_too() {
    let sandbox = Sandbox::new();
    let redis = Redis::start(&sandbox, RedisOptions::default()).await;
    let one = Router::start(&sandbox, &redis.url(), RouterOptions::default()).await;
    let other = Router::start(&sandbox, &redis.url(), RouterOptions::default()).await;
    stale_settle(&one.grpc_url(), &other.grpc_url()).await;
}

async fn stale_settle(one: &str, other: &str) {
    submit_all(&[one.to_owned()], "email", 1).await;
    let mut first = HandWorker::connect(one).await;
    let old = first.one_grant().await;
    drop(first);

    // Its stream is broken: the job comes back after two seconds, to whoever asks.
    let mut second = HandWorker::connect(other).await;
    let new = second.one_grant().await;
    assert_eq!(new.job_id, old.job_id);
    assert!(new.fence > old.fence);

    let mut late = HandWorker::connect(one).await;
    assert_eq!(late.settle(&old).await, SettleResult::Stale);
    assert_eq!(second.settle(&new).await, SettleResult::Recorded);
    assert_eq!(
        second.settle(&new).await,
        SettleResult::Recorded,
        "a repeat gets the same answer"
    );
}
