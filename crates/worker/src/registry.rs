//! Which queue's jobs are run by what.

use std::{collections::HashMap, sync::Arc};

use tidegate_protocol::{domain::QueueName, limits::QUEUES_PER_WORKER_MAX};

use crate::{Delivery, JobLayer, PoolStats, WorkerError, pools::Pool, schema::checked};

pub(crate) type Deliveries = HashMap<QueueName, Arc<dyn Delivery>>;

struct Registered {
    queue: String,
    schema: Option<&'static str>,
    delivery: Arc<dyn Delivery>,
}

struct RegisteredPool {
    resource: String,
    /// Empty: all.
    queues: Vec<String>,
    stats: Arc<dyn PoolStats>,
}

/// Everything a worker was given to run jobs with. What is wrong with it is said by [`Registry::build`], so that the
/// worker's methods need not fail one by one.
#[derive(Default)]
pub(crate) struct Registry {
    registered: Vec<Registered>,
    pools: Vec<RegisteredPool>,
    layers: Vec<Box<dyn JobLayer>>,
    /// `None`: all of them.
    only: Option<Vec<String>>,
}

impl Registry {
    pub(crate) fn add(
        &mut self,
        queue: impl Into<String>,
        schema: Option<&'static str>,
        delivery: Arc<dyn Delivery>,
    ) {
        let queue = queue.into();
        self.registered.push(Registered {
            queue,
            schema,
            delivery,
        });
    }

    pub(crate) fn pool(&mut self, resource: String, queues: Vec<String>, stats: Arc<dyn PoolStats>) {
        self.pools.push(RegisteredPool {
            resource,
            queues,
            stats,
        });
    }

    pub(crate) fn layer(&mut self, layer: impl JobLayer) {
        self.layers.push(Box::new(layer));
    }

    pub(crate) fn only(&mut self, names: impl IntoIterator<Item = impl Into<String>>) {
        self.only = Some(names.into_iter().map(Into::into).collect());
    }

    /// What runs the jobs of each queue that is served: handlers in their layers, behind their schema.
    pub(crate) fn build(&self) -> Result<Deliveries, WorkerError> {
        let mut deliveries = Deliveries::new();
        for registered in &self.registered {
            let name = &registered.queue;
            let queue: QueueName = name.parse()?;
            if deliveries.insert(queue, self.wrapped(registered)?).is_some() {
                return Err(WorkerError::DuplicateQueue(name.clone()));
            }
        }
        if let Some(only) = &self.only {
            deliveries = served(deliveries, only)?;
        }
        match deliveries.len() {
            0 => Err(WorkerError::NoQueue),
            queues if queues > QUEUES_PER_WORKER_MAX => Err(WorkerError::TooManyQueues(queues)),
            _ => Ok(deliveries),
        }
    }

    /// The pools of the queues that are served.
    pub(crate) fn pools(&self, served: &Deliveries) -> Result<Vec<Pool>, WorkerError> {
        let mut pools = Vec::new();
        for pool in &self.pools {
            let resource: QueueName = pool.resource.parse()?; // resources are named like queues
            let mut queues = Vec::new();
            for name in &pool.queues {
                if !self.registered.iter().any(|registered| registered.queue == *name) {
                    return Err(WorkerError::PoolOfStranger(name.clone()));
                }
                queues.push(name.parse::<QueueName>()?);
            }
            let is_used = queues.is_empty() || queues.iter().any(|queue| served.contains_key(queue));
            queues.retain(|queue| served.contains_key(queue));
            if is_used {
                pools.push(Pool::new(resource.to_string(), queues, Arc::clone(&pool.stats)));
            }
        }
        Ok(pools)
    }

    fn wrapped(&self, registered: &Registered) -> Result<Arc<dyn Delivery>, WorkerError> {
        let delivery = Arc::clone(&registered.delivery);
        let layered = self
            .layers
            .iter()
            .fold(delivery, |inner, layer| layer.around(inner));
        match registered.schema {
            Some(schema) => checked(&registered.queue, schema, layered),
            None => Ok(layered),
        }
    }
}

fn served(mut all: Deliveries, only: &[String]) -> Result<Deliveries, WorkerError> {
    let mut names: Vec<&str> = all.keys().map(QueueName::as_str).collect();
    names.sort_unstable();
    let registered = names.join(", ");
    let mut served = Deliveries::new();
    for name in only {
        let queue: QueueName = name.parse()?;
        match all.remove(&queue) {
            Some(delivery) => {
                served.insert(queue, delivery);
            }
            None if served.contains_key(&queue) => {} // named twice
            None => {
                let queue = name.clone();
                return Err(WorkerError::UnregisteredQueue { queue, registered });
            }
        }
    }
    Ok(served)
}
