//! A disk without room, for real: a small file system of its own, in a namespace that ends with the test.

use std::{
    collections::HashSet,
    fs::File,
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    process::Command,
};

use tidegate_protocol::domain::{JobId, JobState, LeaseRef, SettleResult};
use tidegate_store::{JobStore, RenewAnswer, StoreError, sqlite::SqliteStore};

use crate::{
    child::{FILE, file, test},
    fixture::{eventually, get, job, keep_everything, lease, open, settle, settle_with, stats, submit},
};

/// Room for the reserve and some thousand jobs.
const DISK: &str = "size=40m";
const LARGER_DISK: &str = "size=120m";
const PAYLOAD_BYTES: usize = 4_096;
/// So that few settles need more room than the log has taken already.
const RESULT_BYTES: usize = 65_536;
/// Jobs that are running when the disk fills up, and that are settled while it is full.
const HELD: u32 = 500;

/// Mounting needs rights: a namespace gives them to those who have none.
#[test]
fn submits_are_refused_and_jobs_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().to_str().unwrap();
    let mut inner = test("full::on_a_small_disk");
    let program = inner.get_program().to_owned();
    let args: Vec<_> = inner.get_args().map(ToOwned::to_owned).collect();
    inner = Command::new("unshare");
    inner.args(["--map-root-user", "--mount", "sh", "-c"]);
    inner.arg(format!("mount -t tmpfs -o {DISK} tmpfs '{disk}' && exec \"$@\""));
    let status = inner
        .arg("sh")
        .arg(program)
        .args(args)
        .env(FILE, dir.path().join("jobs.db"))
        .status();
    let status = status.expect("unshare (util-linux) starts");
    assert!(
        status.success(),
        "the test on the small disk failed, or there is no right to mount one: {status}"
    );
}

/// What [`submits_are_refused_and_jobs_go_on`] runs on the disk that it mounts.
#[tokio::test]
async fn on_a_small_disk() {
    let Some(path) = file() else {
        return;
    };
    let store = open(&path).await.unwrap();
    keep_everything(&store).await;
    let mut ids = fill(&store).await;
    assert!(!reserve(&path).exists(), "it was given away");

    // Full: what is there goes on, and nothing new comes in.
    let mut held = lease(&store, HELD).await.unwrap();
    assert_eq!(held.len(), HELD as usize);
    let renewed = store.renew(held.clone()).await;
    assert!(
        renewed
            .iter()
            .all(|answer| matches!(answer, Ok(RenewAnswer::Held { .. })))
    );
    let (now, later) = held.split_at(HELD as usize / 2);
    for lease in now {
        assert_eq!(
            settle(&store, lease).await,
            Ok(SettleResult::Recorded(JobState::Succeeded))
        );
    }
    let mut done: HashSet<JobId> = now.iter().map(|lease| lease.id.clone()).collect();
    assert!(matches!(
        submit(&store, job("more")).await,
        Err(StoreError::Full(_))
    ));

    // Not even room for that: refused, known to be so, and reads go on.
    let ballast = take_the_rest(&path);
    let (settled, unknown) = settle_until_refused(&store, later).await;
    done.extend(settled);
    assert!(get(&store, &unknown.id).await.is_some());
    std::fs::remove_file(ballast).unwrap();

    // Room: everything goes on by itself.
    remount(&path);
    let answer = eventually("submits are taken again", || async {
        let new = job("after");
        submit(&store, new).await.ok()
    });
    ids.insert(answer.await.id);
    assert!(reserve(&path).exists());
    assert_eq!(
        get(&store, &unknown.id).await.unwrap().state,
        JobState::Succeeded,
        "tried again until it was kept"
    );
    done.insert(unknown.id);
    held = lease(&store, 10).await.unwrap();
    for lease in &held {
        settle(&store, lease).await.unwrap();
        done.insert(lease.id.clone());
    }
    let before = stats(&store).await;
    store.close().await;

    // Every acknowledged job is there, as it was left, and nothing else.
    let store = open(&path).await.unwrap();
    let after = stats(&store).await;
    assert_eq!(
        (after.submitted_total, after.succeeded),
        (ids.len() as u64, done.len() as u64)
    );
    assert_eq!(
        (after.ready, after.running, after.slots),
        (before.ready, before.running, before.slots)
    );
    assert_eq!(after.ready + after.running + after.succeeded, ids.len() as u64);
    for id in &ids {
        let job = get(&store, id).await.unwrap_or_else(|| panic!("{id} is lost"));
        assert_eq!(
            job.state == JobState::Succeeded,
            done.contains(id),
            "{id} is {:?}",
            job.state
        );
    }
    store.close().await;
}

/// Submits until the disk is full: what was acknowledged. The commit that meets the full disk is kept, too.
async fn fill(store: &SqliteStore) -> HashSet<JobId> {
    let mut ids = HashSet::new();
    loop {
        let jobs = (0..100).map(|_| job(vec![b'x'; PAYLOAD_BYTES])).collect();
        for answer in store.submit(jobs).await {
            match answer {
                Ok(submitted) => ids.insert(submitted.id),
                Err(StoreError::Full(text)) => {
                    assert!(text.contains("make room"), "{text}");
                    return ids;
                }
                Err(error) => panic!("{error}"),
            };
        }
        assert!(ids.len() < 20_000, "the disk is larger than it should be");
    }
}

/// Settles until there is no room even for that: what was recorded, and the one whose outcome is unknown.
async fn settle_until_refused(store: &SqliteStore, leases: &[LeaseRef]) -> (Vec<JobId>, LeaseRef) {
    let mut settled = Vec::new();
    for lease in leases {
        match settle_with(store, lease, vec![b'r'; RESULT_BYTES]).await {
            Ok(answer) => {
                assert_eq!(answer, SettleResult::Recorded(JobState::Succeeded));
                settled.push(lease.id.clone());
            }
            Err(error) => {
                assert!(matches!(error, StoreError::Unknown(_)), "{error}");
                let next = settle(store, lease).await;
                assert!(matches!(next, Err(StoreError::Full(_))), "{next:?}");
                return (settled, lease.clone());
            }
        }
    }
    panic!("{} settles fit on a disk without room", leases.len());
}

fn reserve(path: &Path) -> PathBuf {
    path.with_extension("db.reserve")
}

/// Somebody else takes every byte that is left.
fn take_the_rest(path: &Path) -> PathBuf {
    let ballast = path.with_file_name("ballast");
    let mut file = File::create(&ballast).unwrap();
    loop {
        match file.write(&[0; 4096]) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::StorageFull => return ballast,
            Err(error) => panic!("{error}"),
        }
    }
}

fn remount(path: &Path) {
    let options = format!("remount,{LARGER_DISK}");
    let mut mount = Command::new("mount");
    assert!(
        mount
            .args(["-o", &options])
            .arg(path.parent().unwrap())
            .status()
            .unwrap()
            .success()
    );
}
