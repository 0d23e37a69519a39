//! What operators write: policies and resources, checked against each other before anything changes.
//!
//! A change is planned as the row that the ledger is to have, and committed when it has it: so what is in force is what a
//! restart would find.

use tidegate_flow::{budget, governor::Reason};
use tidegate_protocol::{
    convert::{self, Invalid},
    domain::{Policy, QueueName, Resource},
    policy_file::PolicyFile,
    reason,
};

use super::{
    Core, Managed,
    facts::Goal,
    model::{Effect, Now, Order},
};
use crate::ledger::Row;

/// Resources known at once.
const RESOURCES_MAX: usize = 1_000;

/// How a change is to be made.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Refuse unless this is the stored revision; 0: nothing may be stored.
    pub expected: Option<u64>,
}

/// Why an operator's call was not carried out.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TuningError {
    #[error("{}", first(.0))]
    Invalid(Vec<Invalid>),
    #[error("there is no policy of {0}")]
    NoPolicy(String),
    #[error("there is no resource {0}")]
    NoResource(String),
    #[error("there is no queue {0}")]
    NoQueue(String),
    #[error("version {stored} is stored, not {expected}")]
    Stale { stored: u64, expected: u64 },
    #[error("{resource} is cost by the policies of {}", queues.join(", "))]
    InUse { resource: String, queues: Vec<String> },
    #[error("this controller holds as many {0} as it may")]
    Full(&'static str),
    #[error("no router that serves a job store is attached")]
    NoStore,
    #[error("{0}")]
    Standby(String),
}

fn first(violations: &[Invalid]) -> String {
    violations.first().map(Invalid::to_string).unwrap_or_default()
}

fn expect(change: &Change, stored: u64) -> Result<(), TuningError> {
    match change.expected {
        Some(expected) if expected != stored => Err(TuningError::Stale { stored, expected }),
        _ => Ok(()),
    }
}

impl Core {
    /// Takes a whole file at start. Resources first: policies cost them.
    pub fn seed(&mut self, file: PolicyFile, now: Now) -> Result<(), TuningError> {
        for resource in file.resources {
            self.apply_resource(resource, &Change::default(), now)?;
        }
        for entry in file.queues {
            let place = format!("queues.{}", entry.queue);
            let applied = self.apply_policy(entry.queue, entry.policy, &Change::default(), now);
            applied.map_err(|error| match error {
                TuningError::Invalid(all) => {
                    TuningError::Invalid(all.into_iter().map(|one| one.within(&place)).collect())
                }
                other => other,
            })?;
        }
        // Nobody has heard of it: the first word to the store shall be the oldest one, see `adopt`.
        self.version.generation = 0;
        let version = self.version;
        let policies = self.queues.values_mut().filter_map(|queue| queue.policy.as_mut());
        policies.for_each(|policy| policy.version = version);
        Ok(())
    }

    /// Every mistake of a policy, alone and beside what is stored.
    pub fn policy_violations(&self, name: &QueueName, policy: &Policy) -> Vec<Invalid> {
        let mut found = convert::policy_violations(policy);
        for (at, cost) in policy.costs.iter().enumerate() {
            let field = format!("costs[{at}].resource");
            let Some(managed) = self.resources.get(&cost.resource) else {
                let message = format!("there is no resource {}: apply it first", cost.resource);
                found.push(Invalid::new(field, reason::RESOURCE_NOT_FOUND, message));
                continue;
            };
            if cost.units > managed.value.capacity {
                let message = format!(
                    "{} units are more than {} has, {}",
                    cost.units, cost.resource, managed.value.capacity
                );
                found.push(Invalid::new(
                    format!("costs[{at}].units"),
                    reason::BUDGET_EXCEEDED,
                    message,
                ));
                continue;
            }
            let budget = budget::budget(managed.value.capacity, managed.value.headroom);
            let others = self.floors(&cost.resource, Some(name));
            let mine = u64::from(cost.units) * u64::from(policy.min);
            if others + mine > budget {
                let message = format!(
                    "{} x {} units of {} and the floors of other queues, {others}, are above its budget, {budget}",
                    policy.min, cost.units, cost.resource
                );
                found.push(Invalid::new("min", reason::BUDGET_EXCEEDED, message));
            }
        }
        found
    }

    /// Units that the floors of queues hold.
    fn floors(&self, resource: &str, except: Option<&QueueName>) -> u64 {
        let others = self
            .queues
            .iter()
            .filter(|(name, queue)| except != Some(name) && !queue.removing);
        let managed = others.filter_map(|(_, queue)| queue.policy.as_ref());
        let floor = |policy: &Policy| {
            let costs = policy.costs.iter().filter(|cost| cost.resource == resource);
            costs
                .map(|cost| u64::from(cost.units) * u64::from(policy.min))
                .sum::<u64>()
        };
        managed.map(|managed| floor(&managed.value)).sum()
    }

    /// The row of a policy, if it may be applied.
    pub fn plan_policy(&self, name: QueueName, policy: Policy, change: &Change) -> Result<Row, TuningError> {
        let stored = self.queues.get(&name).filter(|queue| !queue.removing);
        let managed = stored.and_then(|queue| queue.policy.as_ref());
        let revision = managed.map_or(0, |managed| managed.revision);
        expect(change, revision)?;
        let violations = self.policy_violations(&name, &policy);
        if !violations.is_empty() {
            return Err(TuningError::Invalid(violations));
        }
        if !self.has_room_for(&name) {
            return Err(TuningError::Full("queues"));
        }
        Ok(Row::Policy {
            queue: name,
            revision: revision + 1,
            policy,
            removing: false,
        })
    }

    /// At once: for a file at the start, and where nothing is kept.
    pub fn apply_policy(
        &mut self,
        name: QueueName,
        policy: Policy,
        change: &Change,
        now: Now,
    ) -> Result<(), TuningError> {
        let row = self.plan_policy(name, policy, change)?;
        self.commit(row, now);
        Ok(())
    }

    /// The ledger has it.
    pub fn commit(&mut self, row: Row, now: Now) {
        match row {
            Row::Policy {
                queue,
                removing: true,
                ..
            } => {
                if let Some(queue) = self.queues.get_mut(&queue) {
                    queue.removing = true;
                }
            }
            Row::Policy {
                queue,
                revision,
                policy,
                ..
            } => {
                self.put_policy(&queue, policy, revision);
                if self.is_leader {
                    let routers = self.routers();
                    self.push_policies_to(&routers, Some(&queue), now);
                }
                self.adopt(now);
            }
            Row::NoPolicy(queue) => self.forget_policy(&queue, now),
            Row::Resource { resource, revision } => self.put_resource(resource, revision),
            Row::NoResource(name) => {
                self.resources.remove(&name);
                self.caps.remove_budget(&name);
            }
            Row::Override { queue, held } => self.put_override(&queue, held, now),
            Row::StoreAccepted {
                incarnation,
                watermark_ms,
            } => self.put_store(incarnation, watermark_ms, now),
        }
        self.tick_soon(now);
    }

    pub(super) fn put_policy(&mut self, name: &QueueName, policy: Policy, revision: u64) {
        if !self.meet(name) {
            return;
        }
        let version = if self.is_leader {
            self.next_version()
        } else {
            self.version
        };
        if let Some(queue) = self.queues.get_mut(name) {
            queue.removing = false;
            queue.policy = Some(Managed {
                value: policy,
                revision,
                version,
            });
            let costs = queue.costs();
            self.caps.set_queue(name.as_str(), costs);
        }
    }

    pub fn policy(&self, name: &QueueName) -> Option<(Policy, u64)> {
        let queue = self.queues.get(name).filter(|queue| !queue.removing)?;
        let managed = queue.policy.as_ref()?;
        Some((managed.value.clone(), managed.revision))
    }

    /// In name order, after a name.
    pub fn policies(&self, after: Option<&QueueName>, size: usize) -> Vec<(QueueName, Policy, u64)> {
        let rest = self
            .queues
            .iter()
            .filter(|(name, _)| after.is_none_or(|after| *name > after));
        let managed = rest.filter_map(|(name, _)| {
            let (policy, revision) = self.policy(name)?;
            Some((name.clone(), policy, revision))
        });
        managed.take(size).collect()
    }

    /// A queue that costs a resource runs nothing more, and leaves the budget when nothing of it runs.
    pub fn plan_policy_deletion(&self, name: &QueueName, change: &Change) -> Result<Row, TuningError> {
        let (policy, revision) = self
            .policy(name)
            .ok_or_else(|| TuningError::NoPolicy(name.to_string()))?;
        expect(change, revision)?;
        Ok(match policy.costs_a_resource() {
            true => Row::Policy {
                queue: name.clone(),
                revision,
                policy,
                removing: true,
            },
            false => Row::NoPolicy(name.clone()),
        })
    }

    /// From here on the queue has the defaults.
    pub(super) fn forget_policy(&mut self, name: &QueueName, now: Now) {
        if let Some(queue) = self.queues.get_mut(name) {
            queue.removing = false;
        }
        self.drop_policy(name);
        self.tick_soon(now);
    }

    /// Nothing of it runs any more. What waits in it goes on waiting, for a policy that says what it costs.
    pub(super) fn retire_policy(&mut self, name: &QueueName) {
        self.drop_policy(name);
    }

    fn drop_policy(&mut self, name: &QueueName) {
        let version = self.next_version();
        if let Some(queue) = self.queues.get_mut(name) {
            queue.policy = None;
        }
        self.caps.set_queue(name.as_str(), Vec::new());
        for router in self.routers() {
            let order = Order::Policies {
                version,
                policies: Vec::new(),
                removed: vec![name.clone()],
            };
            self.effects.push(Effect::Send(router, order));
        }
    }

    /// The row of a resource, if it may be applied.
    pub fn plan_resource(&self, resource: Resource, change: &Change) -> Result<Row, TuningError> {
        let stored = self.resources.get(&resource.name);
        let revision = stored.map_or(0, |managed| managed.revision);
        expect(change, revision)?;
        let mut violations = convert::resource_violations(&resource);
        let units = budget::budget(resource.capacity, resource.headroom);
        let floors = self.floors(&resource.name, None);
        if violations.is_empty() && floors > units {
            let message =
                format!("a budget of {units} units is below the floors of the queues that cost it, {floors}");
            violations.push(Invalid::new("capacity", reason::BUDGET_EXCEEDED, message));
        }
        if !violations.is_empty() {
            return Err(TuningError::Invalid(violations));
        }
        if stored.is_none() && self.resources.len() >= RESOURCES_MAX {
            return Err(TuningError::Full("resources"));
        }
        Ok(Row::Resource {
            resource,
            revision: revision + 1,
        })
    }

    /// At once, as [`Core::apply_policy`].
    pub fn apply_resource(
        &mut self,
        resource: Resource,
        change: &Change,
        now: Now,
    ) -> Result<(), TuningError> {
        let row = self.plan_resource(resource, change)?;
        self.commit(row, now);
        Ok(())
    }

    pub(super) fn put_resource(&mut self, resource: Resource, revision: u64) {
        let units = budget::budget(resource.capacity, resource.headroom);
        self.caps.set_budget(&resource.name, units);
        let managed = Managed {
            value: resource.clone(),
            revision,
            version: self.version,
        };
        self.forget_probe(&resource.name);
        self.resources.insert(resource.name, managed);
    }

    /// At each tick: resources of which more is held than there is for jobs, because an operator took some away.
    pub(super) fn find_overfull(&mut self) {
        let is_overfull = |name: &&String| {
            let held = self.held_on(name);
            self.budget_of(name).is_some_and(|budget| held > budget)
        };
        self.overfull = self.resources.keys().filter(is_overfull).cloned().collect();
    }

    /// What is over drains before anything is granted again; floors alone stay.
    pub(super) fn drain_first(&self, name: &QueueName, goal: &mut Goal) {
        let Some(queue) = self.queues.get(name).filter(|_| !self.overfull.is_empty()) else {
            return;
        };
        let costs = queue.costs();
        let full = costs
            .iter()
            .find(|(resource, _)| self.overfull.contains(resource));
        let floor = queue.policy().min;
        if let Some((resource, _)) = full
            && goal.cap > floor
        {
            goal.cap = floor;
            goal.reason = Reason::Draining;
            goal.limited_by = Some(resource.clone());
        }
    }

    pub fn resource(&self, name: &str) -> Option<(Resource, u64)> {
        let managed = self.resources.get(name)?;
        Some((managed.value.clone(), managed.revision))
    }

    pub fn resources(&self, after: Option<&str>, size: usize) -> Vec<(Resource, u64)> {
        let rest = self
            .resources
            .iter()
            .filter(|(name, _)| after.is_none_or(|after| name.as_str() > after));
        let pairs = rest.map(|(_, managed)| (managed.value.clone(), managed.revision));
        pairs.take(size).collect()
    }

    pub fn plan_resource_deletion(&self, name: &str, change: &Change) -> Result<Row, TuningError> {
        let (_, revision) = self
            .resource(name)
            .ok_or_else(|| TuningError::NoResource(name.to_owned()))?;
        expect(change, revision)?;
        let costs_it = |queue: &super::Queue| queue.costs().iter().any(|(resource, _)| resource == name);
        let users: Vec<String> = self
            .queues
            .iter()
            .filter(|(_, queue)| costs_it(queue))
            .map(|(queue, _)| queue.to_string())
            .collect();
        if !users.is_empty() {
            return Err(TuningError::InUse {
                resource: name.to_owned(),
                queues: users,
            });
        }
        Ok(Row::NoResource(name.to_owned()))
    }
}
