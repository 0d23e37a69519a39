//! Whether this controller may decide: by its ledger's lease, and by what nodes and the store know of other leaderships.

use tidegate_protocol::domain::Version;

use super::{
    Core, LEARNING_TICKS, Managed,
    history::History,
    model::{Effect, Now, Order},
};
use crate::ledger::{Leader, Stored};

/// Epochs that a node or a store may speak of. More is no count of leaderships but a broken or a hostile number.
pub const EPOCH_MAX: u64 = 1 << 53;
/// Nodes look for a new leader for this long, whatever the tick is.
const LEARNING_MS_MIN: u64 = 2_000;

/// What a controller is to its ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// `None`: who leads is not known, and why.
    Standby(Option<Leader>, String),
    /// Until then by the monotonic clock, unless it is renewed; `None`: nobody else can lead by this ledger.
    Leads(Option<u64>),
}

/// A leadership that has begun.
#[derive(Clone, Debug, Default)]
pub struct Lead {
    pub ledger_id: String,
    pub epoch: u64,
    pub until_ms: Option<u64>,
    /// Nobody has ever led by this ledger, so that another new one may be at the same epoch.
    pub is_first: bool,
    /// Others may have led before: nothing is raised until the nodes have had time to come.
    pub learns: bool,
    /// Random: how far an epoch is raised beyond another ledger's, so that two that do it at once differ.
    pub stride: u64,
    pub stored: Stored,
}

impl Core {
    /// The lease is this controller's: it starts from what the ledger has, and from nothing else.
    pub fn lead(&mut self, lead: Lead, now: Now) {
        let settings = self.settings.clone();
        let mut effects = std::mem::take(&mut self.effects);
        let refusals = self.refusals;
        *self = Self::new(settings, now);
        self.effects.append(&mut effects);
        self.refusals = refusals;
        self.ledger_id = lead.ledger_id;
        self.standing = Standing::Leads(lead.until_ms);
        self.version = Version {
            epoch: lead.epoch,
            generation: 0,
        };
        self.is_first = lead.is_first;
        if lead.learns {
            let learning_ms = (LEARNING_TICKS * self.settings.tick_ms).max(LEARNING_MS_MIN);
            self.learning_until_ms = now.mono_ms + learning_ms;
        }
        self.stride = lead.stride;
        self.history = History::default();
        self.take_stored(lead.stored, now);
    }

    /// Policies, resources and overrides as the ledger has them; also after an edit whose outcome was not known.
    pub fn take_stored(&mut self, stored: Stored, now: Now) {
        if self.governor == Default::default() {
            self.governor = stored.governor;
            self.governor_offset_ms = stored.governor_ms.saturating_sub(now.mono_ms);
        }
        self.trust.load(stored.store);
        let known: Vec<String> = self.resources.keys().cloned().collect();
        for gone in known.iter().filter(|name| !stored.resources.contains_key(*name)) {
            self.resources.remove(gone);
            self.caps.remove_budget(gone);
        }
        for (resource, revision) in stored.resources.into_values() {
            self.put_resource(resource, revision);
        }
        let names: Vec<_> = self.queues.keys().cloned().collect();
        for name in names.iter().filter(|name| !stored.policies.contains_key(name)) {
            if self.queues.get(name).is_some_and(|queue| queue.policy.is_some()) {
                self.forget_policy(name, now);
            }
        }
        for (name, policy) in stored.policies {
            let is_known = self.queues.get(&name).and_then(|queue| queue.policy.as_ref());
            if is_known.is_some_and(|known| known.revision == policy.revision) && !policy.removing {
                continue;
            }
            self.put_policy(&name, policy.policy, policy.revision);
            if let Some(queue) = self.queues.get_mut(&name) {
                queue.removing = policy.removing;
            }
        }
        for (queue, held) in stored.overrides {
            self.put_override(&queue, held, now);
        }
        self.adopt(now);
        self.tick_soon(now);
    }

    /// The lease was prolonged.
    pub fn renewed(&mut self, until_ms: Option<u64>) {
        if let Standing::Leads(until) = &mut self.standing {
            *until = until_ms;
        }
    }

    /// Somebody else has the lease, or nobody can say. Nodes are sent on; nothing is ordered any more.
    pub fn stand_by(&mut self, leader: Option<Leader>, why: String, now: Now) {
        if matches!(self.standing, Standing::Leads(_)) {
            tracing::warn!(why, "this controller does not lead any more");
            let settings = self.settings.clone();
            let nodes = std::mem::take(&mut self.nodes);
            let (ledger_id, version, refusals) = (self.ledger_id.clone(), self.version, self.refusals);
            *self = Self::new(settings, now);
            (self.ledger_id, self.version, self.refusals) = (ledger_id, version, refusals);
            self.standing = Standing::Standby(leader, why);
            for stream in nodes.into_keys() {
                self.send_on(stream);
            }
            return;
        }
        self.standing = Standing::Standby(leader, why);
    }

    /// A node that came to a controller that does not lead.
    pub(super) fn send_on(&mut self, stream: super::StreamId) {
        let refused = Order::Refused {
            newer: self.version,
            ledger_id: self.ledger_id.clone(),
            reason: self.why_not_leading(),
        };
        self.effects.push(Effect::Send(stream, refused));
        self.effects.push(Effect::Close(stream));
    }

    fn why_not_leading(&self) -> String {
        match &self.standing {
            Standing::Leads(_) => String::new(),
            Standing::Standby(Some(leader), _) => {
                format!(
                    "this controller stands by: {} leads, at {}",
                    leader.name, leader.url
                )
            }
            Standing::Standby(None, why) => format!("this controller stands by: {why}"),
        }
    }

    pub fn epoch(&self) -> u64 {
        self.version.epoch
    }

    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Whether an order may leave now: a lease that cannot be proved is none, whoever has it by now.
    pub fn may_push(&self, now: Now) -> bool {
        match self.standing {
            Standing::Leads(until_ms) => until_ms.is_none_or(|until_ms| now.mono_ms < until_ms),
            Standing::Standby(..) => false,
        }
    }

    /// Before anything is done at `now`: a process that was stopped, or whose ledger is away, finds its lease run out.
    pub fn check_lease(&mut self, now: Now) {
        if matches!(self.standing, Standing::Leads(_)) && !self.may_push(now) {
            let why = "its lease could not be prolonged in time";
            self.stand_by(None, why.to_owned(), now);
        }
    }

    /// Whether this controller leads and is obeyed, and why not.
    pub fn readiness(&self) -> Result<(), String> {
        match (&self.standing, &self.conflict) {
            // A standby does what it is there for.
            (Standing::Standby(Some(_), _), _) => Ok(()),
            (Standing::Standby(None, _), _) => Err(self.why_not_leading()),
            (_, Some((who, _))) => Err(format!("another controller leads: {who}")),
            (_, None) if !self.trust.refused().is_empty() => {
                Err(format!("the job store is not trusted: {}", self.trust.refused()))
            }
            (_, None) => Ok(()),
        }
    }

    /// Empty: it leads and is obeyed.
    pub fn standby_reason(&self) -> String {
        match self.standing {
            Standing::Standby(..) => self.why_not_leading(),
            Standing::Leads(_) => self.readiness().err().unwrap_or_default(),
        }
    }

    /// Another controller is in force. It is left alone: its orders end by themselves once it is gone.
    pub(super) fn yield_to(&mut self, who: String, now: Now) {
        if self.conflict.as_ref().is_none_or(|(known, _)| *known != who) {
            tracing::error!(who, "another controller leads");
            self.refusals += 1;
        }
        self.conflict = Some((who, now.mono_ms));
    }

    /// Another leadership was in force and is not any more: to be obeyed, decisions must be newer than all of its. The
    /// epoch is in the ledger before it is used, so that whoever leads next has a higher one.
    pub(crate) fn outrank(&mut self, seen: u64) {
        if seen < self.version.epoch || self.raising.is_some() {
            return;
        }
        let to = seen.saturating_add(1).saturating_add(self.stride);
        self.is_leader = false;
        self.caps.forget_answers();
        self.raising = Some(to);
        self.effects.push(Effect::RaiseEpoch(to));
    }

    /// Nobody has led by this ledger before: another new one may be at the same epoch on the same store.
    pub(super) fn leave_first_epoch(&mut self) {
        self.is_first = false;
        self.raising = Some(self.version.epoch.saturating_add(1).saturating_add(self.stride));
        self.is_leader = false;
        self.caps.forget_answers();
        self.effects.extend(self.raising.map(Effect::RaiseEpoch));
        self.is_fresh = true;
    }

    /// The ledger has the higher epoch. Nothing that was answered before is certain.
    pub fn raised(&mut self, epoch: u64, now: Now) {
        if self.raising.take().is_none() || epoch <= self.version.epoch {
            return;
        }
        self.version = Version { epoch, generation: 0 };
        let is_fresh = std::mem::take(&mut self.is_fresh);
        if !is_fresh {
            tracing::warn!(
                epoch,
                "another leadership was in force: leading with a newer epoch"
            );
            self.learning_until_ms = now.mono_ms + LEARNING_TICKS * self.settings.tick_ms;
        }
        self.snapshot_due_ms = 0;
        self.caps.forget_answers();
        self.requests.clear();
        self.conflict = None;
        self.is_leader = false;
        let version = self.next_version();
        for queue in self.queues.values_mut() {
            if let Some(Managed { version: known, .. }) = &mut queue.policy {
                *known = version;
            }
        }
        for node in self.nodes.values_mut() {
            node.sent_at_ms = None;
        }
        self.adopt(now);
        self.tick_soon(now);
    }
}
