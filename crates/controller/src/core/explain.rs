//! Decisions in words, for people who ask why a queue runs as much as it does.

use tidegate_protocol::domain::QueueName;

use super::{Core, model::Decision};

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
    pub fn explain(&self, name: &QueueName) -> Option<(String, Vec<Decision>)> {
        let queue = self.queues.get(name)?;
        let store = queue.store;
        let mut text = format!("{name}: {} ready, {} running", store.ready, store.running);
        if let Some(newest) = &queue.newest {
            let cap = self.caps.acknowledged(name.as_str()).unwrap_or(newest.cap);
            text += &format!(" of cap {cap}");
            for (resource, units) in queue.costs() {
                let (Some(budget), held) = (self.budget_of(&resource), self.held_on(&resource)) else {
                    continue;
                };
                let mine = u64::from(units) * store.slots;
                text += &format!(
                    "; {budget} units of {resource} for jobs, {} in use by other queues",
                    held.saturating_sub(mine)
                );
                text += &self.others_text(&resource);
            }
            text += &format!(
                ". {} ({}): {}",
                newest.reason.as_str(),
                newest.text,
                newest.reason.why()
            );
        } else {
            text += ". nothing has been decided yet: the job store has not answered for it";
        }
        if let Some(pin) = queue.pin {
            text += &format!(". pinned to {}", pin.value);
        }
        if self.frozen || queue.frozen {
            text += ". frozen";
        }
        let decisions = self.history.page(Some(name), 0, None, 10).decisions;
        Some((text, decisions))
    }
}
