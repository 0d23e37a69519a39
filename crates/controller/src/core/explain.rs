//! Decisions in words, for people who ask why a queue runs as much as it does, or why a job waits.

use tidegate_protocol::domain::QueueName;

use super::{
    Core, Queue,
    model::{Decision, Now, Role},
};

/// Decisions shown with an explanation.
const SHOWN_MAX: usize = 10;

/// The change and its cause, in one line.
pub(super) fn text(decision: &Decision, limited_by: Option<&str>) -> String {
    let Decision {
        cap,
        previous_cap,
        wanted,
        target,
        ..
    } = decision;
    let change = match cap == previous_cap {
        true => format!("cap stays {cap}"),
        false => format!("cap {previous_cap} -> {cap}"),
    };
    let resource = limited_by.map_or_else(String::new, |name| format!(" ({name})"));
    format!(
        "{change}, target {target}, wanted {wanted}: {}{resource}",
        decision.reason.why()
    )
}

impl Core {
    /// Why a queue runs as much as it does; `None`: it is not known.
    pub fn explain(&self, name: &QueueName, now: Now) -> Option<(String, Vec<Decision>)> {
        let queue = self.queues.get(name)?;
        let mut text = format!(
            "{name}: {} ready; {}",
            queue.store.ready,
            self.state_of(name, queue, now)
        );
        if let Some(newest) = &queue.newest {
            text += &format!(
                ". {}: {} ({})",
                newest.reason.as_str(),
                newest.reason.why(),
                newest.text
            );
        }
        Some((text, self.history.recent(name, SHOWN_MAX)))
    }

    /// Why a job that is ready does not run yet, by its queue.
    pub fn explain_waiting(&self, name: &QueueName, now: Now) -> Option<(String, Vec<Decision>)> {
        let queue = self.queues.get(name)?;
        let mut text = self.state_of(name, queue, now);
        if queue.store.ready > 0 {
            text += &format!(
                "; {} jobs wait, the oldest for {} s",
                queue.store.ready,
                queue.store.oldest_ready_age_ms / 1_000
            );
        }
        Some((text, self.history.recent(name, SHOWN_MAX)))
    }

    /// The first thing that keeps a job from starting, then the numbers.
    fn state_of(&self, name: &QueueName, queue: &Queue, now: Now) -> String {
        let running = queue.store.slots;
        let Some(cap) = self.caps.acknowledged(name.as_str()) else {
            return format!("waiting: {running} running; the job store has not said yet what may run");
        };
        let target = queue.goal.target;
        let mut text = if !self.trust.refused().is_empty() {
            format!("waiting: the job store is not trusted: {}", self.trust.refused())
        } else if queue.removing {
            format!("waiting: {running} running, and its policy was deleted: apply one")
        } else if target == 0 && !self.is_served(name) {
            format!("waiting: no worker that serves it is connected; {running} of {cap} running")
        } else if running >= u64::from(cap) {
            format!("waiting: {running} of {cap} running")
        } else if running >= u64::from(target) {
            format!("waiting: {running} of {target} that the workers have slots for running")
        } else {
            format!("{running} of {cap} running: a place is free")
        };
        text += &self.seen_text(now);
        for (resource, units) in queue.costs() {
            let Some(budget) = self.budget_of(&resource) else {
                continue;
            };
            let mine = u64::from(units).saturating_mul(running);
            let others = self.held_on(&resource).saturating_sub(mine);
            text += &format!("; cap {cap} of {budget} on {resource}, {others} in use by others");
            text += &self.others_text(&resource);
        }
        if let Some(pin) = queue.pin {
            let left_s = pin.until_ms.saturating_sub(now.mono_ms) / 1_000;
            text += &format!("; pinned to {} for another {left_s} s", pin.value);
        }
        if self.frozen || queue.frozen {
            text += "; frozen";
        }
        text
    }

    /// How old these numbers are: routers tell each second what has changed.
    fn seen_text(&self, now: Now) -> String {
        let routers = self.nodes.values().filter(|node| node.role == Role::Router);
        match routers.map(|node| node.reported_ms).max() {
            None => "; no router says what there is now".to_owned(),
            Some(newest_ms) => {
                let age_s = now.mono_ms.saturating_sub(newest_ms) as f64 / 1_000.0;
                format!(", by a router {age_s:.1} s ago")
            }
        }
    }

    fn is_served(&self, name: &QueueName) -> bool {
        self.live_nodes().any(|node| node.queues.contains(name))
    }
}
