//! What is seen of a lane while it runs: sessions by Postgres itself ten times a second, queues, outcomes and decisions.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::Serialize;
use tidegate_client::{Client, QueueView};
use tidegate_protocol::v1::{GetFleetRequest, tuning_service_client::TuningServiceClient};
use tonic::transport::{Channel, Endpoint};

use super::{Lane, Script, plant::Sessions};
use crate::{
    sampler::{Sampler, sum},
    try_http_get,
};

const SESSIONS_EVERY: Duration = Duration::from_millis(100);
const QUEUES_EVERY: Duration = Duration::from_millis(500);
const OTHERS_EVERY: Duration = Duration::from_secs(1);
/// Outcomes that are an attempt at the work; `released` is none.
const FAILED: [&str; 4] = ["retry", "failed", "invalid", "throttled"];

/// A queue at one moment, as the store has it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct QueueLook {
    pub ready: u64,
    pub slots: u64,
    pub cap: Option<u32>,
    /// Which leadership the cap is of.
    pub epoch: u64,
    pub idle: bool,
}

impl From<&QueueView> for QueueLook {
    fn from(queue: &QueueView) -> Self {
        Self {
            ready: queue.ready,
            slots: queue.slots,
            cap: queue.effective_cap,
            epoch: queue.cap.as_ref().map_or(0, |cap| cap.version.epoch),
            idle: queue.ready + queue.scheduled + queue.running == 0,
        }
    }
}

/// Outcomes of a queue since the start, as routers recorded them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub succeeded: u64,
    pub failed: u64,
    pub leases_lost: u64,
}

/// A decision that is in force.
#[derive(Clone, Debug, Serialize)]
pub struct Decided {
    pub queue: String,
    pub target: u32,
    pub reason: String,
    /// What it rests on.
    pub numbers: BTreeMap<String, f64>,
}

/// Everything that was seen, in order, with seconds since the start.
#[derive(Default, Serialize)]
pub struct Trace {
    pub sessions: Vec<(f64, Sessions)>,
    /// Of each queue, in the order of the scenario.
    pub queues: Vec<(f64, Vec<QueueLook>)>,
    pub counts: Vec<(f64, Vec<Counts>)>,
    pub decided: Vec<(f64, Vec<Decided>)>,
}

/// Begins with its value.
pub struct Watch {
    sessions: Option<Sampler<Sessions>>,
    queues: Sampler<Vec<QueueLook>>,
    counts: Sampler<Vec<Counts>>,
    decided: Sampler<Vec<Decided>>,
}

impl Watch {
    pub fn begin(lane: &Lane<'_>, script: &Script) -> Self {
        let names: Arc<[String]> = script.model.queues.keys().cloned().collect();
        let sessions = lane.plant().cloned().map(|plant| {
            Sampler::every(SESSIONS_EVERY, "sessions", move || {
                let plant = plant.clone();
                async move { plant.look().await.ok() }
            })
        });
        let (client, queues) = (lane.client.clone(), names.clone());
        let queues = Sampler::every(QUEUES_EVERY, "queues", move || {
            let (client, names) = (client.clone(), queues.clone());
            async move { looks(&client, &names).await }
        });
        let url = lane.router.metrics_url();
        let counts = Sampler::every(OTHERS_EVERY, "outcomes", move || {
            let (url, names) = (url.clone(), names.clone());
            async move { counts(&url, &names).await }
        });
        let endpoint = |url: String| {
            Endpoint::from_shared(url)
                .expect("a URL of the harness")
                .connect_lazy()
        };
        let controllers: Vec<Channel> = lane
            .controllers
            .iter()
            .map(|one| endpoint(one.grpc_url()))
            .collect();
        let decided = Sampler::every(OTHERS_EVERY, "decisions", move || {
            let controllers = controllers.clone();
            async move { decided(controllers).await }
        });
        Self {
            sessions,
            queues,
            counts,
            decided,
        }
    }

    pub async fn end(self) -> Trace {
        let sessions = match self.sessions {
            Some(sessions) => seconds(sessions).await,
            None => Vec::new(),
        };
        Trace {
            sessions,
            queues: seconds(self.queues).await,
            counts: seconds(self.counts).await,
            decided: seconds(self.decided).await,
        }
    }
}

async fn seconds<T: Send + 'static>(sampler: Sampler<T>) -> Vec<(f64, T)> {
    let seen = sampler.stop().await.seen;
    seen.into_iter()
        .map(|(at, value)| (at.as_secs_f64(), value))
        .collect()
}

pub async fn looks(client: &Client, names: &[String]) -> Option<Vec<QueueLook>> {
    let mut looks = Vec::with_capacity(names.len());
    for name in names {
        looks.push(QueueLook::from(&client.get_queue(name).await.ok()?));
    }
    Some(looks)
}

pub async fn counts(metrics_url: &str, names: &[String]) -> Option<Vec<Counts>> {
    let (_, page) = try_http_get(metrics_url, "/metrics").await.ok()?;
    let settled = |queue: &str, outcome: &str| {
        let labels = [("queue", queue), ("outcome", outcome)];
        sum(&page, "tidegate_jobs_settled_total", &labels) as u64
    };
    let of = |queue: &String| Counts {
        succeeded: settled(queue, "succeeded"),
        failed: FAILED.iter().map(|outcome| settled(queue, outcome)).sum(),
        leases_lost: sum(&page, "tidegate_leases_lost_total", &[("queue", queue)]) as u64,
    };
    Some(names.iter().map(of).collect())
}

async fn decided(controllers: Vec<Channel>) -> Option<Vec<Decided>> {
    for channel in controllers {
        let fleet = TuningServiceClient::new(channel)
            .get_fleet(GetFleetRequest {})
            .await;
        let Some(fleet) = fleet
            .ok()
            .map(tonic::Response::into_inner)
            .filter(|fleet| fleet.leader)
        else {
            continue;
        };
        let decided = fleet.decisions.into_iter().map(|decision| Decided {
            queue: decision.queue,
            target: decision.target,
            reason: decision.reason,
            numbers: decision
                .inputs
                .into_iter()
                .map(|input| (input.name, input.value))
                .collect(),
        });
        return Some(decided.collect());
    }
    None
}
