//! What operators write: policies and resources, checked against each other before anything changes.

use tidegate_flow::budget;
use tidegate_protocol::{
    convert::{self, Invalid},
    domain::{Policy, QueueName, Resource},
    policy_file::PolicyFile,
    reason,
};

use super::{
    Core, Managed,
    model::{Effect, Now, Order},
};

/// Resources known at once.
const RESOURCES_MAX: usize = 1_000;

/// How a change is to be made.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Check and answer, change nothing.
    pub validate_only: bool,
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

    /// Gives the stored form with its revision.
    pub fn apply_policy(
        &mut self,
        name: QueueName,
        policy: Policy,
        change: &Change,
        now: Now,
    ) -> Result<(Policy, u64), TuningError> {
        let stored = self
            .queues
            .get(&name)
            .filter(|queue| !queue.removing)
            .and_then(|queue| queue.policy.as_ref())
            .map_or(0, |managed| managed.revision);
        expect(change, stored)?;
        let violations = self.policy_violations(&name, &policy);
        if !violations.is_empty() {
            return Err(TuningError::Invalid(violations));
        }
        if change.validate_only {
            return Ok((policy, stored));
        }
        if !self.meet(&name) {
            return Err(TuningError::Full("queues"));
        }
        let version = if self.is_leader {
            self.next_version()
        } else {
            self.version
        };
        if let Some(queue) = self.queues.get_mut(&name) {
            queue.removing = false;
            queue.policy = Some(Managed {
                value: policy.clone(),
                revision: stored + 1,
                version,
            });
            let costs = queue.costs();
            self.caps.set_queue(name.as_str(), costs);
        }
        if self.is_leader {
            let routers = self.routers();
            self.push_policies_to(&routers, Some(&name));
        }
        self.adopt(now);
        self.tick_soon(now);
        Ok((policy, stored + 1))
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

    /// A queue that costs a resource runs nothing more, and is gone when nothing of it runs.
    pub fn delete_policy(&mut self, name: &QueueName, change: &Change, now: Now) -> Result<(), TuningError> {
        let (policy, stored) = self
            .policy(name)
            .ok_or_else(|| TuningError::NoPolicy(name.to_string()))?;
        expect(change, stored)?;
        if policy.costs_a_resource() {
            if let Some(queue) = self.queues.get_mut(name) {
                queue.removing = true;
            }
        } else {
            self.forget_policy(name, now);
        }
        self.tick_soon(now);
        Ok(())
    }

    /// From here on the queue has the defaults.
    pub(super) fn forget_policy(&mut self, name: &QueueName, now: Now) {
        let version = self.next_version();
        if let Some(queue) = self.queues.get_mut(name) {
            queue.policy = None;
            queue.removing = false;
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
        self.tick_soon(now);
    }

    pub fn apply_resource(
        &mut self,
        resource: Resource,
        change: &Change,
        now: Now,
    ) -> Result<(Resource, u64), TuningError> {
        let stored = self
            .resources
            .get(&resource.name)
            .map_or(0, |managed| managed.revision);
        expect(change, stored)?;
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
        if change.validate_only {
            return Ok((resource, stored));
        }
        if stored == 0 && self.resources.len() >= RESOURCES_MAX {
            return Err(TuningError::Full("resources"));
        }
        self.caps.set_budget(&resource.name, units);
        let managed = Managed {
            value: resource.clone(),
            revision: stored + 1,
            version: self.version,
        };
        self.forget_probe(&resource.name);
        self.resources.insert(resource.name.clone(), managed);
        self.tick_soon(now);
        Ok((resource, stored + 1))
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

    pub fn delete_resource(&mut self, name: &str, change: &Change) -> Result<(), TuningError> {
        let (_, stored) = self
            .resource(name)
            .ok_or_else(|| TuningError::NoResource(name.to_owned()))?;
        expect(change, stored)?;
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
        self.resources.remove(name);
        self.caps.remove_budget(name);
        Ok(())
    }
}
