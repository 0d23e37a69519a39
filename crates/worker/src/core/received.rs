//! What arrives on the stream, and what follows from it.

use std::collections::HashSet;

use tidegate_protocol::{
    domain::{LeaseRef, Outcome, Settlement},
    limits::LEASES_PER_STREAM_MAX,
    v1::{self, lease_response::Message as Down},
};

use super::{Core, GRACE_MAX_MS, Received, Running, Start, TIMEOUT_DEFAULT_MS, domain, lease_ref};
use crate::stop::{Cause, Stop};

impl Core {
    /// A message of the stream that is open.
    pub(crate) fn received(&mut self, now_ms: u64, response: v1::LeaseResponse, random: f64) -> Received {
        match response.message {
            Some(Down::Welcome(welcome)) => self.on_welcome(now_ms, welcome),
            Some(Down::Grants(grants)) => Received::Starts(self.on_grants(now_ms, grants)),
            Some(Down::Renewed(renewed)) => self.on_renewed(now_ms, renewed),
            Some(Down::Settled(settled)) => self.on_settled(now_ms, settled, random),
            Some(Down::Cancel(cancel)) => {
                tracing::info!(
                    leases = cancel.leases.len(),
                    reason = cancel.reason,
                    "jobs cancelled"
                );
                self.stop_all(now_ms, &cancel.leases, Cause::Cancelled);
                Received::Nothing
            }
            Some(Down::GoAway(go_away)) => Received::GoAway {
                reason: go_away.reason,
            },
            // Of a newer router: what we do not know we do not need.
            None => Received::Nothing,
        }
    }

    fn on_welcome(&mut self, now_ms: u64, welcome: v1::Welcome) -> Received {
        let Some(stream) = &mut self.stream else {
            return Received::Nothing;
        };
        stream.welcomed = true;
        let acknowledged = std::mem::take(&mut stream.replaced).min(self.closed_sessions.len());
        self.closed_sessions.drain(..acknowledged);
        self.stop_all(now_ms, &welcome.lost, Cause::Lost);
        Received::Welcome {
            router: welcome.router,
        }
    }

    fn on_grants(&mut self, now_ms: u64, grants: v1::Grants) -> Vec<Start> {
        let Some(stream) = &mut self.stream else {
            return Vec::new();
        };
        stream.grant_seq = stream.grant_seq.max(grants.seq);
        let (counter, clock_ms) = (grants.counter, grants.store_clock_ms);
        let grants = grants.grants.into_iter();
        grants
            .filter_map(|grant| self.on_grant(now_ms, counter, clock_ms, grant))
            .collect()
    }

    fn on_grant(&mut self, now_ms: u64, counter: u64, clock_ms: u64, grant: v1::Grant) -> Option<Start> {
        let Some(lease) = domain(&grant.job_id, grant.fence) else {
            tracing::warn!(job_id = grant.job_id, "grant of a malformed job id ignored");
            return None;
        };
        if self.leases.holds(&lease) {
            return None; // a repeat: it runs, or its outcome is on its way
        }
        let fresh = self
            .leases
            .grant(now_ms, counter, lease.clone(), grant.lease_ttl_ms);
        let permitted = self.permits.take(&lease.id.queue);
        let deadline_ms = grant.deadline_ms.saturating_sub(clock_ms);
        let late = grant.deadline_ms > 0 && deadline_ms == 0;
        if !fresh || !permitted || late || self.drain.is_some() {
            let why = if !fresh {
                "the lease was too old when it arrived"
            } else if late {
                "the job's deadline passed before it ran"
            } else {
                "no slot is free"
            };
            if permitted {
                self.permits.give_back(&lease.id.queue);
            }
            self.hand_back(lease, why);
            return None;
        }
        let timeout_ms = if grant.timeout_ms == 0 {
            TIMEOUT_DEFAULT_MS
        } else {
            grant.timeout_ms
        };
        let (time_ms, stop_why) = match grant.deadline_ms {
            0 => (timeout_ms, Cause::TimedOut { after_ms: timeout_ms }),
            _ if deadline_ms < timeout_ms => (deadline_ms, Cause::DeadlinePassed),
            _ => (timeout_ms, Cause::TimedOut { after_ms: timeout_ms }),
        };
        let running = Running {
            queue: lease.id.queue.clone(),
            stop: Stop::default(),
            grace_ms: GRACE_MAX_MS.min(grant.lease_ttl_ms / 10),
            began_ms: now_ms,
            stop_at_ms: now_ms.saturating_add(time_ms),
            stop_why,
            heartbeat_timeout_ms: grant.heartbeat_timeout_ms,
            cause: None,
            overdue_at_ms: u64::MAX,
            overdue_told: false,
        };
        self.scan_at_ms = self.scan_at_ms.min(running.stop_due().0);
        let start = Start {
            lease: lease.clone(),
            // A router of an older version does not say when.
            age_ms: match grant.created_at_ms {
                0 => 0,
                created_ms => clock_ms.saturating_sub(created_ms),
            },
            grant,
            time_ms,
            stop: running.stop.clone(),
        };
        self.tally.began(now_ms, &lease.id.queue);
        self.jobs.insert(lease, running);
        Some(start)
    }

    /// Gives a lease back on which nothing was started.
    fn hand_back(&mut self, lease: LeaseRef, why: &str) {
        if self.settles.len() >= LEASES_PER_STREAM_MAX {
            // A router that grants far beyond our credit: its leases expire by themselves.
            self.leases.remove(&lease);
            return;
        }
        tracing::debug!(job_id = %lease.id, why, "grant handed back");
        self.leases.settle(&lease);
        // Another worker may run it.
        self.gather_until_ms = None;
        let outcome = Outcome::Released {
            error: why.to_owned(),
        };
        self.settles.push(Settlement {
            lease,
            outcome,
            class: None,
            run_ms: 0,
        });
    }

    fn on_renewed(&mut self, now_ms: u64, renewed: v1::Renewed) -> Received {
        let refused = [&renewed.lost, &renewed.cancelled, &renewed.unknown];
        let not: HashSet<LeaseRef> = refused.into_iter().flatten().filter_map(lease_ref).collect();
        if !self.leases.renewed(renewed.counter, &not) {
            tracing::debug!(counter = renewed.counter, "answer to no renewal ignored");
            return Received::Nothing;
        }
        self.stop_all(now_ms, &renewed.cancelled, Cause::Cancelled);
        self.stop_all(now_ms, &renewed.lost, Cause::Lost);
        Received::Nothing
    }

    fn on_settled(&mut self, now_ms: u64, settled: v1::Settled, random: f64) -> Received {
        for item in &settled.items {
            let Some(lease) = item.lease.as_ref().and_then(lease_ref) else {
                continue;
            };
            let result = item.result();
            if result == v1::SettleResult::Refused {
                let error = item
                    .error
                    .as_ref()
                    .map(|error| error.message.as_str())
                    .unwrap_or_default();
                tracing::error!(job_id = %lease.id, error, "settlement refused as malformed");
            }
            if self.settles.answered(now_ms, &lease, result, random) {
                self.leases.remove(&lease);
            }
        }
        Received::Nothing
    }
}
