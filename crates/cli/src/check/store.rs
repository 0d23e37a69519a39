//! The job store.

use std::path::Path;

use tidegate_chassis::clock;
use tidegate_store::redis::{Inspection, inspect};

use super::report::{Report, Status, unless};

/// Four connections a router, and as many again while they are made anew.
const CONNECTIONS_PER_ROUTER: u64 = 8;
/// Room for this many routers must be left.
const ROUTERS: u64 = 8;
/// Job times are the store's: a store that differs from the wall by more surprises people.
const SKEW_MS_MAX: u64 = 200;
const ROUND_TRIP_MS_WARN: u128 = 5;
/// Above this share of its memory a store is about to refuse submits.
const MEMORY_SHARE_MAX: f64 = 0.8;
/// A fork stops Redis for so long: every job waits.
const FORK_US_MAX: u64 = 100_000;
/// An embedded store wants this much room on its disk.
const DISK_FREE_MIN: u64 = 256 << 20;

pub(super) async fn check(report: &mut Report, url: &str) {
    if url.starts_with("redis") {
        match inspect(url).await {
            Ok(facts) => {
                report.ok(
                    "store.reachable",
                    format!("Redis {} at {}", facts.version, facts.address),
                );
                judge(report, &facts, clock::wall_ms());
            }
            Err(error) => report.failed_check(
                "store.reachable",
                error.to_string(),
                "start it, or correct the address and the password (--store, [router] store)",
            ),
        }
    } else if let Some(path) = url.strip_prefix("sqlite:") {
        embedded(report, Path::new(path.trim_start_matches("//")));
    } else {
        report.judge(
            "store.durability",
            "memory: nothing outlives the router",
            unless(
                true,
                Status::Warning,
                "use redis://HOST:PORT/DB or sqlite:PATH for jobs that matter",
            ),
        );
    }
}

/// Everything that one look at a Redis says.
pub(super) fn judge(report: &mut Report, facts: &Inspection, wall_ms: u64) {
    let major = facts
        .version
        .split('.')
        .next()
        .and_then(|major| major.parse().ok());
    report.judge(
        "store.version",
        format!("version {}", facts.version),
        unless(
            major.unwrap_or(0) < 7,
            Status::Failed,
            "Tidegate needs Redis 7.0 or newer, or Valkey",
        ),
    );
    report.judge(
        "store.eviction",
        format!("maxmemory-policy {}", facts.maxmemory_policy),
        unless(
            facts.maxmemory_policy != "noeviction",
            Status::Failed,
            "a full Redis would delete jobs: CONFIG SET maxmemory-policy noeviction, and in redis.conf",
        ),
    );
    report.judge(
        "store.role",
        format!("{}, {} replicas", facts.role, facts.connected_replicas),
        unless(
            facts.role != "master",
            Status::Failed,
            "this is a replica: give routers the primary's address",
        ),
    );
    report.judge(
        "store.loading",
        if facts.is_loading {
            "loading its data"
        } else {
            "has its data"
        },
        unless(
            facts.is_loading,
            Status::Failed,
            "wait until it has read its file; jobs wait as long",
        ),
    );
    durability(report, facts);
    room(report, facts);
    let skew_ms = facts.clock_ms.abs_diff(wall_ms);
    report.judge(
        "store.clock",
        format!("{skew_ms} ms from this machine's"),
        unless(
            skew_ms > SKEW_MS_MAX,
            Status::Warning,
            "jobs go by the store's clock: run chrony or ntpd on both machines",
        ),
    );
    let millis = facts.round_trip.as_millis();
    report.judge(
        "store.latency",
        format!("{:.1} ms a round trip", facts.round_trip.as_secs_f64() * 1_000.0),
        unless(
            millis >= ROUND_TRIP_MS_WARN,
            Status::Warning,
            "every job takes three round trips: put routers near their store",
        ),
    );
    report.judge(
        "store.forks",
        format!("the last fork took {} ms", facts.slowest_fork_us / 1_000),
        unless(
            facts.slowest_fork_us > FORK_US_MAX,
            Status::Warning,
            "Redis stands still while it forks: fewer snapshots, or a smaller instance of its own",
        ),
    );
}

fn durability(report: &mut Report, facts: &Inspection) {
    let level = match (facts.has_append_only_file, facts.appendfsync.as_deref()) {
        (true, Some("always")) => "fsync: an acknowledged job is on disk",
        (true, Some("no")) => "append-only file without fsync: a crash of the machine loses half a minute",
        (true, _) => "everysec: a crash of the machine loses up to 2 s",
        (false, _) => "no append-only file: a restart loses what came since the last snapshot",
    };
    let is_weak = !facts.has_append_only_file || facts.appendfsync.as_deref() == Some("no");
    report.judge(
        "store.durability",
        level,
        unless(
            is_weak,
            Status::Warning,
            "CONFIG SET appendonly yes, appendfsync everysec or always",
        ),
    );
    report.judge(
        "store.persistence",
        if facts.is_persistence_well {
            "the last write to disk was well"
        } else {
            "the last write to disk failed"
        },
        unless(
            !facts.is_persistence_well,
            Status::Failed,
            "Redis refuses writes or will: make room on its disk, look at its log",
        ),
    );
}

fn room(report: &mut Report, facts: &Inspection) {
    let share = facts.used_memory as f64 / facts.maxmemory.max(1) as f64;
    let (found, verdict) = match facts.maxmemory {
        0 => (
            format!("{} MiB used, no limit", facts.used_memory >> 20),
            unless(
                true,
                Status::Warning,
                "set maxmemory below the machine's: a Redis that is killed by the kernel loses more than one that is full",
            ),
        ),
        max => (
            format!("{} of {} MiB used", facts.used_memory >> 20, max >> 20),
            unless(
                share > MEMORY_SHARE_MAX,
                Status::Warning,
                "submits are refused when it is full: raise maxmemory, or keep fewer finished jobs and keys",
            ),
        ),
    };
    report.judge("store.memory", found, verdict);
    let Some(max) = facts.maxclients else { return };
    let needed = facts.connected_clients + ROUTERS * CONNECTIONS_PER_ROUTER;
    report.judge(
        "store.connections",
        format!("{} of {max} in use", facts.connected_clients),
        unless(
            needed > max,
            Status::Failed,
            "a router takes up to 8: CONFIG SET maxclients higher, or find who holds them (CLIENT LIST)",
        ),
    );
}

fn embedded(report: &mut Report, path: &Path) {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    if !folder.exists() {
        report.ok("store.reachable", format!("{} is to be made", path.display()));
        return;
    }
    let is_writable = rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).is_ok();
    report.judge(
        "store.reachable",
        format!("{}", path.display()),
        unless(
            !is_writable,
            Status::Failed,
            "the folder cannot be written to by this user",
        ),
    );
    if let Ok(disk) = rustix::fs::statvfs(folder) {
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        report.judge(
            "store.disk",
            format!("{} MiB free", free >> 20),
            unless(
                free < DISK_FREE_MIN,
                Status::Warning,
                "a full disk refuses submits: make room, or put the store elsewhere",
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn healthy() -> Inspection {
        Inspection {
            version: "7.0.15".to_owned(),
            role: "master".to_owned(),
            maxmemory_policy: "noeviction".to_owned(),
            maxmemory: 1 << 30,
            used_memory: 1 << 20,
            maxclients: Some(10_000),
            has_append_only_file: true,
            appendfsync: Some("everysec".to_owned()),
            is_persistence_well: true,
            clock_ms: 1_000_000,
            round_trip: Duration::from_micros(200),
            ..Inspection::default()
        }
    }

    #[test]
    fn each_fault_of_a_redis_is_one_finding() {
        let mut report = Report::default();
        judge(&mut report, &healthy(), 1_000_100);
        assert_eq!(report.failed(), 0);
        type Fault = fn(&mut Inspection);
        let faults: [(&str, Status, Fault); 12] = [
            ("store.version", Status::Failed, |facts| {
                facts.version = "6.2.1".to_owned()
            }),
            ("store.eviction", Status::Failed, |facts| {
                facts.maxmemory_policy = "allkeys-lru".to_owned()
            }),
            ("store.role", Status::Failed, |facts| {
                facts.role = "slave".to_owned()
            }),
            ("store.loading", Status::Failed, |facts| facts.is_loading = true),
            ("store.durability", Status::Warning, |facts| {
                facts.has_append_only_file = false
            }),
            ("store.persistence", Status::Failed, |facts| {
                facts.is_persistence_well = false
            }),
            ("store.memory", Status::Warning, |facts| {
                facts.used_memory = 1 << 30
            }),
            ("store.memory", Status::Warning, |facts| facts.maxmemory = 0),
            ("store.connections", Status::Failed, |facts| {
                facts.maxclients = Some(60)
            }),
            ("store.clock", Status::Warning, |facts| facts.clock_ms += 500),
            ("store.latency", Status::Warning, |facts| {
                facts.round_trip = Duration::from_millis(20)
            }),
            ("store.forks", Status::Warning, |facts| {
                facts.slowest_fork_us = 200_000
            }),
        ];
        for (id, status, fault) in faults {
            let mut facts = healthy();
            fault(&mut facts);
            let mut report = Report::default();
            judge(&mut report, &facts, 1_000_100);
            assert_eq!(report.status_of(id), Some(status), "{id}");
            assert_eq!(
                report.failed(),
                usize::from(status == Status::Failed),
                "{id} alone"
            );
        }
    }
}
