//! KEDA's external scaler: how many workers there should be.
//!
//! The metric is slots: what the named queues want together, which no fleet limits, or what runs, if that is more. With
//! `slotsPerWorker` as its target, KEDA makes as many workers as have those slots. When the number is not of now the answer
//! is an error, never 0: KEDA then leaves the fleet as it is. A standby passes the question on to the leader.

mod relay;

use std::{collections::HashMap, sync::Arc, time::Duration};

use tidegate_chassis::{CancellationToken, tasks::Group};
use tidegate_protocol::{
    convert::{self, Invalid},
    domain::QueueName,
    externalscaler::{self as keda, external_scaler_server::ExternalScaler},
    limits::QUEUES_PER_WORKER_MAX,
    reason,
};
use tokio::{sync::mpsc, time::sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, async_trait};

use self::relay::Relay;
use crate::{
    core::{Desired, NoNumber, Standing},
    owner::Handle,
    status::Refusal,
};

/// Streams at once: one for every ScaledObject.
pub const STREAMS_MAX: usize = 1_000;
/// The name of the only metric.
const METRIC: &str = "tidegate-slots";
/// As many as one worker may have.
const SLOTS_PER_WORKER_MAX: u32 = 4_096;
/// How soon a stream tells that work has come: a first job should not wait for KEDA's poll.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Every so many looks the same is said again, so that a connection that is gone is noticed.
const REPEAT_LOOKS: u32 = 20;
/// KEDA's own keys in a trigger's metadata, which are not ours to judge.
const KEDA_KEYS: [&str; 8] = [
    "scalerAddress",
    "tlsCertFile",
    "caCert",
    "tlsClientCert",
    "tlsClientKey",
    "unsafeSsl",
    "enableTLS",
    "metricType",
];

/// The service.
pub struct Scaler {
    source: Source,
    streams: Group,
    draining: CancellationToken,
}

/// A trigger's metadata, checked.
#[derive(Clone, Debug, PartialEq)]
struct Trigger {
    queues: Vec<QueueName>,
    slots_per_worker: u32,
    /// As it came.
    object: keda::ScaledObjectRef,
}

impl Trigger {
    fn of(wire: Option<keda::ScaledObjectRef>) -> Result<Self, Refusal> {
        let object = wire.unwrap_or_default();
        let metadata = &object.scaler_metadata;
        known(metadata)?;
        let text = |key: &str| {
            metadata
                .get(key)
                .map(|text| text.trim())
                .filter(|text| !text.is_empty())
        };
        let names =
            text("queues").ok_or_else(|| wrong("queues", "must name the queues, as in \"email,pdf\""))?;
        let mut queues = Vec::new();
        for name in names.split(',') {
            let queue = convert::queue_name("scalerMetadata.queues", name.trim())?;
            // Twice the same would count twice.
            if !queues.contains(&queue) {
                queues.push(queue);
            }
        }
        if queues.len() > QUEUES_PER_WORKER_MAX {
            return Err(wrong("queues", "names more queues than one worker may serve"));
        }
        let slots = text("slotsPerWorker").and_then(|text| text.parse().ok());
        let slots = slots.filter(|slots| (1..=SLOTS_PER_WORKER_MAX).contains(slots));
        let slots_per_worker = slots.ok_or_else(|| {
            wrong(
                "slotsPerWorker",
                "must be what the workers have as --slots, 1 to 4096",
            )
        })?;
        Ok(Self {
            queues,
            slots_per_worker,
            object,
        })
    }
}

/// A key that is spelt wrongly would be a default that nobody meant.
fn known(metadata: &HashMap<String, String>) -> Result<(), Refusal> {
    let is_known = |key: &str| ["queues", "slotsPerWorker"].contains(&key) || KEDA_KEYS.contains(&key);
    match metadata.keys().filter(|key| !is_known(key)).min() {
        None => Ok(()),
        Some(key) => Err(wrong(key, "is not known: there are queues and slotsPerWorker")),
    }
}

fn wrong(key: &str, message: &str) -> Refusal {
    let key: String = key.chars().take(100).collect();
    Invalid::new(format!("scalerMetadata.{key}"), reason::INVALID_ARGUMENT, message).into()
}

impl Scaler {
    pub fn new(owner: Handle, streams: Group, draining: CancellationToken) -> Self {
        let relay = Arc::default();
        Self {
            source: Source { owner, relay },
            streams,
            draining,
        }
    }
}

/// Where the number comes from: this controller, or the one that leads.
#[derive(Clone)]
struct Source {
    owner: Handle,
    relay: Arc<Relay>,
}

impl Source {
    async fn desired(&self, trigger: &Trigger, is_passed_on: bool) -> Result<Desired, Status> {
        let queues = trigger.queues.clone();
        let own = self.owner.ask(move |core, now| {
            let leader = match core.standing() {
                Standing::Standby(leader, _) => leader.clone(),
                Standing::Leads(_) => None,
            };
            (core.desired(&queues, now), leader)
        });
        match own.await.map_err(Refusal::from)? {
            (Err(NoNumber::Standby(_)), Some(leader)) if !is_passed_on => {
                self.relay.ask(leader, trigger.object.clone()).await
            }
            (number, _) => Ok(number.map_err(Refusal::from)?),
        }
    }
}

#[async_trait]
impl ExternalScaler for Scaler {
    async fn is_active(
        &self,
        request: Request<keda::ScaledObjectRef>,
    ) -> Result<Response<keda::IsActiveResponse>, Status> {
        let is_passed_on = Relay::is_passed_on(&request);
        let trigger = Trigger::of(Some(request.into_inner()))?;
        let result = self.source.desired(&trigger, is_passed_on).await?.is_active;
        Ok(Response::new(keda::IsActiveResponse { result }))
    }

    type StreamIsActiveStream = ReceiverStream<Result<keda::IsActiveResponse, Status>>;

    async fn stream_is_active(
        &self,
        request: Request<keda::ScaledObjectRef>,
    ) -> Result<Response<Self::StreamIsActiveStream>, Status> {
        let trigger = Trigger::of(Some(request.into_inner()))?;
        if self.draining.is_cancelled() {
            return Err(Refusal::draining().into_status());
        }
        let (out, stream) = mpsc::channel(1);
        let telling = tell(self.source.clone(), trigger, out, self.draining.clone());
        self.streams
            .spawn(telling)
            .map_err(|why| Refusal::group(&why, "scaler streams"))?;
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn get_metric_spec(
        &self,
        request: Request<keda::ScaledObjectRef>,
    ) -> Result<Response<keda::GetMetricSpecResponse>, Status> {
        let trigger = Trigger::of(Some(request.into_inner()))?;
        let spec = keda::MetricSpec {
            metric_name: METRIC.to_owned(),
            target_size: trigger.slots_per_worker.into(),
            target_size_float: trigger.slots_per_worker.into(),
        };
        Ok(Response::new(keda::GetMetricSpecResponse {
            metric_specs: vec![spec],
        }))
    }

    async fn get_metrics(
        &self,
        request: Request<keda::GetMetricsRequest>,
    ) -> Result<Response<keda::GetMetricsResponse>, Status> {
        let is_passed_on = Relay::is_passed_on(&request);
        let request = request.into_inner();
        let trigger = Trigger::of(request.scaled_object_ref)?;
        let slots = self.source.desired(&trigger, is_passed_on).await?.slots;
        // KEDA asks by the name that it was given, with a prefix of its own in some versions.
        let value = keda::MetricValue {
            metric_name: request.metric_name,
            metric_value: i64::try_from(slots).unwrap_or(i64::MAX),
            metric_value_float: slots as f64,
        };
        Ok(Response::new(keda::GetMetricsResponse {
            metric_values: vec![value],
        }))
    }
}

/// Whether there is work: at once, on every change, and now and then. Ends with an error when that is not known.
async fn tell(
    source: Source,
    trigger: Trigger,
    out: mpsc::Sender<Result<keda::IsActiveResponse, Status>>,
    draining: CancellationToken,
) {
    let mut told = None;
    let mut looks = 0_u32;
    loop {
        let active = match draining.is_cancelled() {
            true => Err(Refusal::draining().into_status()),
            false => {
                let desired = source.desired(&trigger, false).await;
                desired.map(|desired| desired.is_active)
            }
        };
        let is_due = looks.is_multiple_of(REPEAT_LOOKS);
        let message = match active {
            Ok(active) if told == Some(active) && !is_due => None,
            Ok(result) => {
                told = Some(result);
                Some(Ok(keda::IsActiveResponse { result }))
            }
            Err(status) => Some(Err(status)),
        };
        if let Some(message) = message {
            let is_last = message.is_err();
            if out.send(message).await.is_err() || is_last {
                return;
            }
        }
        looks = looks.wrapping_add(1);
        tokio::select! {
            () = out.closed() => return,
            () = draining.cancelled() => {}
            () = sleep(LOOK_EVERY) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trigger(pairs: &[(&str, &str)]) -> Result<Trigger, String> {
        let pairs = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let wire = keda::ScaledObjectRef {
            scaler_metadata: pairs.collect(),
            ..keda::ScaledObjectRef::default()
        };
        Trigger::of(Some(wire)).map_err(|refusal| refusal.into_status().message().to_owned())
    }

    #[test]
    fn metadata_is_checked_key_by_key() {
        let good = trigger(&[
            ("scalerAddress", "c:7601"),
            ("queues", "email, pdf,email"),
            ("slotsPerWorker", "20"),
        ]);
        let good = good.unwrap();
        assert_eq!((good.queues.len(), good.slots_per_worker), (2, 20));
        for (pairs, expected) in [
            (
                &[("slotsPerWorker", "20")][..],
                "scalerMetadata.queues: must name",
            ),
            (&[("queues", "")], "scalerMetadata.queues: must name"),
            (
                &[("queues", "No Such"), ("slotsPerWorker", "20")],
                "scalerMetadata.queues: ",
            ),
            (&[("queues", "a")], "scalerMetadata.slotsPerWorker: must be"),
            (
                &[("queues", "a"), ("slotsPerWorker", "0")],
                "scalerMetadata.slotsPerWorker: must be",
            ),
            (
                &[("queues", "a"), ("slotsPerWorker", "-1")],
                "scalerMetadata.slotsPerWorker: must be",
            ),
            (
                &[("queues", "a"), ("slotsPerWorker", "1e9")],
                "scalerMetadata.slotsPerWorker: must be",
            ),
            (
                &[("queue", "a"), ("slotsPerWorker", "2")],
                "scalerMetadata.queue: is not known",
            ),
        ] {
            let error = trigger(pairs).unwrap_err();
            assert!(error.starts_with(expected), "{pairs:?}: {error}");
        }
    }
}
