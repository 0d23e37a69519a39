//! Operators over real calls.

use std::sync::Arc;

use tidegate_protocol::v1;
use tonic::Code;

use super::harness::{POLICIES, Router, Server, Worker, eventually, reason};

fn policy(queue: &str, min: u32, max: u32) -> v1::Policy {
    v1::Policy {
        queue: queue.into(),
        min,
        max,
        costs: vec![v1::ResourceCost {
            resource: "pg".into(),
            units: 1,
        }],
        ..v1::Policy::default()
    }
}

fn apply(policy: v1::Policy) -> v1::ApplyPolicyRequest {
    v1::ApplyPolicyRequest {
        policy: Some(policy),
        ..v1::ApplyPolicyRequest::default()
    }
}

#[tokio::test]
async fn policies_are_validated_versioned_and_listed() {
    let server = Server::start(POLICIES).await;
    let mut tuning = server.tuning();
    let dry = v1::ApplyPolicyRequest {
        validate_only: true,
        ..apply(policy("c", 40, 30))
    };
    let answer = tuning.apply_policy(dry).await.unwrap().into_inner();
    let fields: Vec<&str> = answer.violations.iter().map(|one| one.field.as_str()).collect();
    assert_eq!(fields, ["min", "min"]);
    let status = tuning.apply_policy(apply(policy("c", 34, 40))).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::InvalidArgument, "BUDGET_EXCEEDED")
    );
    let stored = tuning
        .apply_policy(apply(policy("c", 2, 40)))
        .await
        .unwrap()
        .into_inner();
    assert_eq!((stored.version, stored.policy.unwrap().max), (1, 40));
    let stale = v1::ApplyPolicyRequest {
        expected_version: Some(0),
        ..apply(policy("c", 2, 41))
    };
    let status = tuning.apply_policy(stale).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Aborted, "STALE_VERSION")
    );

    let mut names = Vec::new();
    let mut page_token = String::new();
    loop {
        let page = v1::ListPoliciesRequest {
            page_size: 2,
            page_token,
        };
        let page = tuning.list_policies(page).await.unwrap().into_inner();
        names.extend(page.policies.into_iter().map(|policy| policy.queue));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["a", "b", "c"]);
    let get = |queue: &str| v1::GetPolicyRequest { queue: queue.into() };
    assert_eq!(tuning.get_policy(get("c")).await.unwrap().into_inner().version, 1);
    let status = tuning.get_policy(get("none")).await.unwrap_err();
    assert_eq!(reason(&status), "POLICY_NOT_FOUND");
    let delete = v1::DeletePolicyRequest {
        queue: "c".into(),
        ..v1::DeletePolicyRequest::default()
    };
    tuning.delete_policy(delete).await.unwrap();
    assert!(tuning.get_policy(get("c")).await.is_err());
    server.stop().await.unwrap();
}

#[tokio::test]
async fn resources_are_applied_and_protected() {
    let server = Server::start(POLICIES).await;
    let mut tuning = server.tuning();
    let resource = |name: &str, capacity| v1::ApplyResourceRequest {
        resource: Some(v1::Resource {
            name: name.into(),
            capacity,
            ..v1::Resource::default()
        }),
        ..v1::ApplyResourceRequest::default()
    };
    let smtp = tuning
        .apply_resource(resource("smtp", 8))
        .await
        .unwrap()
        .into_inner();
    let smtp = smtp.resource.unwrap();
    assert_eq!((smtp.headroom, smtp.version), (Some(0.7), 1));
    let status = tuning.apply_resource(resource("pg", 2)).await.unwrap_err();
    assert_eq!(reason(&status), "BUDGET_EXCEEDED");
    let mut probed = resource("pg2", 2);
    probed.resource.as_mut().unwrap().probe =
        Some(v1::resource::Probe::Postgres(v1::PostgresProbe::default()));
    let status = tuning.apply_resource(probed).await.unwrap_err();
    assert!(
        status.message().starts_with("probe.postgres.url: must be"),
        "{status}"
    );
    let list = tuning
        .list_resources(v1::ListResourcesRequest::default())
        .await
        .unwrap();
    assert_eq!(list.into_inner().resources.len(), 2);
    let delete = |name: &str| v1::DeleteResourceRequest {
        name: name.into(),
        ..v1::DeleteResourceRequest::default()
    };
    let status = tuning.delete_resource(delete("pg")).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::FailedPrecondition, "RESOURCE_IN_USE")
    );
    tuning.delete_resource(delete("smtp")).await.unwrap();
    let get = v1::GetResourceRequest { name: "smtp".into() };
    assert_eq!(
        reason(&tuning.get_resource(get).await.unwrap_err()),
        "RESOURCE_NOT_FOUND"
    );
    server.stop().await.unwrap();
}

#[tokio::test]
async fn decisions_are_watched_kept_and_explained() {
    let server = Server::start(POLICIES).await;
    let mut tuning = server.tuning();
    let watch = v1::WatchDecisionsRequest { queue: "a".into() };
    let mut watched = tuning.watch_decisions(watch).await.unwrap().into_inner();
    let router = Router::start(&server, Arc::default()).await;
    let _worker = Worker::start(&server, &["a", "b"], 64).await;
    let first = watched.message().await.unwrap().unwrap().decision.unwrap();
    assert!(first.queue == "a" && !first.reason.is_empty() && !first.text.is_empty());
    eventually("settled", async || router.cap("a") + router.cap("b") == 35).await;

    let pin = v1::PinRequest {
        queue: "a".into(),
        value: 3,
        ttl_ms: 60_000,
        who: "ada".into(),
        why: "a test".into(),
    };
    tuning.pin(pin).await.unwrap();
    eventually("pinned", async || router.cap("a") == 3 && router.cap("b") == 32).await;
    tuning.freeze(v1::FreezeRequest::default()).await.unwrap();
    let unpin = v1::UnpinRequest {
        queue: "a".into(),
        ..v1::UnpinRequest::default()
    };
    tuning.unpin(unpin).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert_eq!((router.cap("a"), router.cap("b")), (3, 32));
    let subject = |subject| v1::ExplainRequest {
        subject: Some(subject),
    };
    let queue = subject(v1::explain_request::Subject::Queue("a".into()));
    let explained = tuning.explain(queue).await.unwrap().into_inner();
    assert!(explained.text.contains("frozen"), "{}", explained.text);
    // Numbers have an age.
    assert!(explained.text.contains(" s ago"), "{}", explained.text);
    assert!(!explained.decisions.is_empty());
    let job = |id: &str| subject(v1::explain_request::Subject::JobId(id.into()));
    let status = tuning.explain(job("a:0:x")).await.unwrap_err();
    assert_eq!(reason(&status), "INVALID_JOB_ID");
    let job = job("a:0:0190163d8694739b8e1cdbf4a7ee1b8e");
    let waits = tuning.explain(job).await.unwrap().into_inner().text;
    assert!(
        waits.contains("cap 3 of 35 on pg") && waits.contains("frozen"),
        "{waits}"
    );
    tuning.unfreeze(v1::UnfreezeRequest::default()).await.unwrap();
    eventually("free again", async || {
        router.cap("a") == 18 && router.cap("b") == 17
    })
    .await;

    let history = |page_size, page_token| v1::HistoryRequest {
        queue: "a".into(),
        page_size,
        page_token,
        ..v1::HistoryRequest::default()
    };
    eventually("the history is written", async || {
        server.fleet().await.ledger.unwrap().waiting == 0
    })
    .await;
    let page = tuning
        .history(history(2, String::new()))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (page.decisions.len(), page.next_page_token.is_empty()),
        (2, false)
    );
    let rest = tuning
        .history(history(100, page.next_page_token))
        .await
        .unwrap()
        .into_inner();
    assert!(rest.decisions.iter().any(|decision| decision.reason == "MANUAL"));
    assert!(tuning.history(history(1, "x".into())).await.is_err());
    server.stop().await.unwrap();
}

#[tokio::test]
async fn bad_input_names_its_field_and_changes_nothing() {
    let server = Server::start(POLICIES).await;
    let mut tuning = server.tuning();
    let before = tuning.list_policies(v1::ListPoliciesRequest::default()).await;
    let before = before.unwrap().into_inner();
    let with = |change: fn(&mut v1::Policy)| {
        let mut policy = policy("a", 1, 40);
        change(&mut policy);
        policy
    };
    let policies = [
        ("min", with(|policy| (policy.min, policy.max) = (9, 8))),
        (
            "costs[0].resource",
            with(|policy| policy.costs[0].resource = "nowhere".into()),
        ),
        ("costs[0].units", with(|policy| policy.costs[0].units = 51)),
        ("min", with(|policy| policy.min = 35)),
        ("weight", with(|policy| policy.weight = f64::NAN)),
        ("weight", with(|policy| policy.weight = -1.0)),
    ];
    for (field, policy) in policies {
        let status = tuning.apply_policy(apply(policy)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert_eq!(super::harness::field(&status), field, "{status}");
    }
    for (field, capacity, headroom) in [
        ("headroom", 50, 0.0),
        ("headroom", 50, 2.0),
        ("headroom", 50, f64::NAN),
        ("capacity", 0, 0.7),
        ("capacity", 2, 0.7),
    ] {
        let resource = v1::Resource {
            name: "pg".into(),
            capacity,
            headroom: Some(headroom),
            ..v1::Resource::default()
        };
        let request = v1::ApplyResourceRequest {
            resource: Some(resource),
            ..v1::ApplyResourceRequest::default()
        };
        let status = tuning.apply_resource(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(
            super::harness::field(&status).ends_with(field),
            "{field} {headroom}: {status}"
        );
    }
    let after = tuning.list_policies(v1::ListPoliciesRequest::default()).await;
    assert_eq!(after.unwrap().into_inner(), before);
    server.stop().await.unwrap();
}
