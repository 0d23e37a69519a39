//! A standby asks the controller that leads: a Service leads to all of them alike, and KEDA cannot tell which is which.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tidegate_protocol::externalscaler::{self as keda, external_scaler_client::ExternalScalerClient};
use tokio::time::timeout;
use tonic::{
    Request, Status,
    transport::{Channel, Endpoint},
};

use crate::{core::Desired, ledger::Leader, status::Refusal};

/// Marks what was passed on: two controllers that both take the other one for the leader must not ask in circles.
const PASSED_ON: &str = "tidegate-passed-on";
/// KEDA gives up after three seconds by default.
const ASK_MAX: Duration = Duration::from_secs(2);

/// See the [module](self).
#[derive(Default)]
pub struct Relay {
    /// The leader that was asked last, and the way to it.
    known: Mutex<Option<(String, Channel)>>,
}

impl Relay {
    /// Whether this was passed on by another controller.
    pub fn is_passed_on<T>(request: &Request<T>) -> bool {
        request.metadata().contains_key(PASSED_ON)
    }

    /// What the leader says, also when it refuses.
    pub async fn ask(&self, leader: Leader, object: keda::ScaledObjectRef) -> Result<Desired, Status> {
        let Some(channel) = self.channel(&leader.url) else {
            let why = "this controller stands by, and the leader's address cannot be used";
            return Err(Refusal::not_leading(Some(leader), why).into_status());
        };
        let (mut slots, mut active) = (
            ExternalScalerClient::new(channel.clone()),
            ExternalScalerClient::new(channel),
        );
        let metrics = keda::GetMetricsRequest {
            scaled_object_ref: Some(object.clone()),
            metric_name: super::METRIC.to_owned(),
        };
        let asked = timeout(ASK_MAX, async {
            tokio::try_join!(
                slots.get_metrics(passed_on(metrics)),
                active.is_active(passed_on(object))
            )
        });
        let Ok(answers) = asked.await else {
            let why = "this controller stands by, and the leader does not answer";
            return Err(Refusal::not_leading(Some(leader), why).into_status());
        };
        let (metrics, active) = answers?;
        let values = metrics.into_inner().metric_values;
        let slots = values.first().map_or(0, |value| value.metric_value);
        Ok(Desired {
            slots: u64::try_from(slots).unwrap_or(0),
            is_active: active.into_inner().result,
        })
    }

    /// One connection a leader. `None`: what it says of itself is no address.
    fn channel(&self, url: &str) -> Option<Channel> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, channel)) = &*known
            && of == url
        {
            return Some(channel.clone());
        }
        let endpoint = Endpoint::from_shared(url.to_owned()).ok()?;
        let channel = endpoint.connect_timeout(ASK_MAX).connect_lazy();
        *known = Some((url.to_owned(), channel.clone()));
        Some(channel)
    }
}

fn passed_on<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert(PASSED_ON, tonic::metadata::MetadataValue::from_static("1"));
    request
}
