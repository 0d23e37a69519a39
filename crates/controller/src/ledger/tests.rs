//! A ledger on SQLite, as a file and in memory; Postgres is tested with real controllers.

use tidegate_flow::governor::Reason;
use tidegate_protocol::domain::{Policy, Probe, QueueName, Resource, Version};

use super::*;
use crate::core::model::Decision;

fn leader(name: &str) -> Leader {
    Leader {
        name: name.to_owned(),
        url: format!("http://{name}"),
    }
}

async fn memory() -> Ledger {
    Ledger::open("memory:", leader("a")).await.unwrap()
}

async fn claimed(ledger: &Ledger) -> u64 {
    match ledger.claim().await.unwrap() {
        Claim::Won { epoch, .. } => epoch,
        lost => panic!("{lost:?}"),
    }
}

fn name(text: &str) -> QueueName {
    text.parse().unwrap()
}

fn policy(queue: &str, revision: u64, max: u32) -> Row {
    Row::Policy {
        queue: name(queue),
        revision,
        policy: Policy {
            max,
            ..Policy::default()
        },
        removing: false,
    }
}

fn decision(epoch: u64, seq: u64, queue: &str, at_ms: u64) -> Record {
    Record::Decision(Decision {
        seq,
        at_ms,
        version: Version {
            epoch,
            generation: seq,
        },
        queue: name(queue),
        cap: 3,
        previous_cap: 2,
        wanted: 4,
        target: 3,
        reason: Reason::Demand,
        inputs: vec![("ready", 7.5), ("limit", f64::INFINITY)],
        text: "more".to_owned(),
    })
}

#[tokio::test]
async fn each_leadership_has_an_epoch_of_its_own_and_only_the_last_may_write() {
    let ledger = memory().await;
    let first = ledger.claim().await.unwrap();
    let Claim::Won {
        ledger_id,
        epoch: 1,
        is_first: true,
    } = first
    else {
        panic!("{first:?}")
    };
    let again = ledger.claim().await.unwrap();
    let expected = Claim::Won {
        ledger_id,
        epoch: 2,
        is_first: false,
    };
    assert_eq!(again, expected);
    assert_eq!(ledger.renew(1).await, Err(LedgerError::NotLeader));
    assert_eq!(ledger.renew(2).await, Ok(0));
    let rows = [policy("a", 1, 5)];
    let refused = ledger.edit(1, &rows, &Note::default(), 1).await;
    assert_eq!(refused, Err(LedgerError::NotLeader));
    assert_eq!(ledger.load().await.unwrap().policies.len(), 0, "nothing in part");
    ledger.raise_epoch(2, 9).await.unwrap();
    assert_eq!(ledger.raise_epoch(2, 12).await, Err(LedgerError::NotLeader));
    assert_eq!(claimed(&ledger).await, 10);
}

#[tokio::test]
async fn what_people_change_is_read_back_as_it_was_written() {
    let ledger = memory().await;
    let epoch = claimed(&ledger).await;
    let resource = Resource {
        name: "pg".to_owned(),
        capacity: 50,
        headroom: 0.7,
        probe: Probe::Static,
    };
    let held = Override {
        frozen: true,
        pin: Some((4, 99)),
    };
    let rows = [
        Row::Resource {
            resource: resource.clone(),
            revision: 1,
        },
        policy("a", 1, 5),
        policy("a", 2, 6),
        policy("b", 1, 1),
        Row::NoPolicy(name("b")),
        Row::Override {
            queue: "a".to_owned(),
            held,
        },
    ];
    let note = Note {
        who: "ada".to_owned(),
        why: "more".to_owned(),
    };
    assert_eq!(ledger.edit(epoch, &rows, &note, 1).await, Ok(6));
    let stored = ledger.load().await.unwrap();
    assert_eq!(stored.edits, 6);
    assert_eq!(stored.resources["pg"], (resource, 1));
    let a = &stored.policies[&name("a")];
    assert_eq!((a.policy.max, a.revision, stored.policies.len()), (6, 2, 1));
    assert_eq!(stored.overrides["a"], held);
}

#[tokio::test]
async fn history_pages_newest_first_over_leaderships() {
    let ledger = memory().await;
    let records = [
        decision(1, 1, "a", 10),
        decision(1, 2, "b", 20),
        decision(2, 1, "a", 30),
    ];
    ledger.write(&records).await.unwrap();
    // Repeated after a commit without an answer.
    ledger.write(&records).await.unwrap();
    let first = ledger.page(None, 0, None, 2).await.unwrap();
    let places: Vec<(u64, u64)> = first
        .decisions
        .iter()
        .map(|one| (one.place.epoch, one.place.number))
        .collect();
    assert_eq!(places, [(2, 1), (1, 2)]);
    let rest = ledger.page(None, 0, first.before, 2).await.unwrap();
    assert_eq!((rest.decisions.len(), rest.before), (1, None));
    assert_eq!(rest.decisions[0].inputs[1], ("limit".to_owned(), f64::INFINITY));
    let of_a = ledger.page(Some("a"), 15, None, 9).await.unwrap();
    assert_eq!(of_a.decisions.len(), 1);
}

#[tokio::test]
async fn old_history_goes_in_steps() {
    let ledger = memory().await;
    let now_ms = 10 * 24 * 3_600 * 1_000;
    let old: Vec<Record> = (1..=700).map(|seq| decision(1, seq, "a", 1)).collect();
    ledger.write(&old).await.unwrap();
    ledger.write(&[decision(2, 1, "a", now_ms)]).await.unwrap();
    assert_eq!(ledger.trim(now_ms).await, Ok(700));
    assert_eq!(ledger.page(None, 0, None, 9).await.unwrap().decisions.len(), 1);
}

#[tokio::test]
async fn a_file_has_one_owner_and_keeps_what_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("deep/ledger.db").display());
    let ledger = Ledger::open(&url, leader("a")).await.unwrap();
    let epoch = claimed(&ledger).await;
    ledger
        .edit(epoch, &[policy("a", 1, 5)], &Note::default(), 1)
        .await
        .unwrap();
    let second = Ledger::open(&url, leader("b")).await.map(|_| ()).unwrap_err();
    let pid = std::process::id().to_string();
    assert!(second.to_string().contains(&pid), "{second}");
    // Looking is allowed.
    let reader = Ledger::open_to_read(&url).await.unwrap();
    assert_eq!(reader.load().await.unwrap().edits, 1);
    drop((reader, ledger));
    let heir = Ledger::open(&url, leader("b")).await.unwrap();
    assert_eq!(claimed(&heir).await, 2, "whoever had it is gone");
    assert_eq!(heir.load().await.unwrap().policies.len(), 1);
}

#[tokio::test]
async fn wrong_urls_say_what_is_right() {
    for (url, part) in [
        ("mysql://x", "sqlite:PATH"),
        ("postgres://[", "cannot be used"),
        ("", "memory:"),
    ] {
        let error = Ledger::open(url, leader("a")).await.map(|_| ()).unwrap_err();
        assert!(error.to_string().contains(part), "{url}: {error}");
    }
    let nowhere = Ledger::open_to_read("sqlite:nowhere.db")
        .await
        .map(|_| ())
        .unwrap_err();
    assert!(nowhere.to_string().contains("no such file"), "{nowhere}");
}
