//! Operators: one place to tune everything, and every decision explained.

mod pages;
mod show;

use tidegate_chassis::{CancellationToken, tasks::Group};
use tidegate_protocol::{convert, domain::QueueName, v1};
use tokio::sync::{broadcast::error::RecvError, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, async_trait};

use crate::{
    core::{Change, Subject, TuningError},
    owner::Handle,
    status::Refusal,
    wire,
};

/// Watchers at once.
pub const WATCHERS_MAX: usize = 256;
/// Decisions that a watcher may be behind in its own stream.
const WATCH_MESSAGES: usize = 64;

/// The service.
pub struct Tuning {
    pub owner: Handle,
    pub watchers: Group,
    pub draining: CancellationToken,
}

type Answer<T> = Result<Response<T>, Status>;

fn answer<T>(value: T) -> Answer<T> {
    Ok(Response::new(value))
}

fn queue(text: &str) -> Result<QueueName, Refusal> {
    Ok(convert::queue_name("queue", text)?)
}

/// Empty is every queue.
fn subject(text: &str) -> Result<Subject, Refusal> {
    match text {
        "" => Ok(Subject::Everything),
        text => Ok(Subject::Queue(queue(text)?)),
    }
}

/// Mistakes as a dry run answers them.
fn violations(error: TuningError) -> Result<Vec<v1::FieldViolation>, Refusal> {
    match error {
        TuningError::Invalid(all) => Ok(all
            .into_iter()
            .map(|invalid| v1::FieldViolation {
                field: invalid.field,
                description: invalid.message,
            })
            .collect()),
        other => Err(other.into()),
    }
}

/// What an operator did, where others will look for it.
fn note(what: &str, subject: &str, who: &str, why: &str) {
    tracing::info!(what, subject, who, why, "an operator changed something");
}

#[async_trait]
impl v1::tuning_service_server::TuningService for Tuning {
    async fn get_policy(&self, request: Request<v1::GetPolicyRequest>) -> Answer<v1::GetPolicyResponse> {
        let name = queue(&request.get_ref().queue)?;
        let asked = name.clone();
        let found = self.ask(move |core, _| core.policy(&asked)).await?;
        let (policy, version) = found
            .ok_or_else(|| TuningError::NoPolicy(name.to_string()))
            .map_err(Refusal::from)?;
        answer(v1::GetPolicyResponse {
            policy: Some((name, policy, None).into()),
            version,
        })
    }

    async fn list_policies(
        &self,
        request: Request<v1::ListPoliciesRequest>,
    ) -> Answer<v1::ListPoliciesResponse> {
        answer(self.policies(request.into_inner()).await?)
    }

    async fn apply_policy(
        &self,
        request: Request<v1::ApplyPolicyRequest>,
    ) -> Answer<v1::ApplyPolicyResponse> {
        answer(self.apply(request.into_inner()).await?)
    }

    async fn delete_policy(
        &self,
        request: Request<v1::DeletePolicyRequest>,
    ) -> Answer<v1::DeletePolicyResponse> {
        let wire = request.into_inner();
        let name = queue(&wire.queue)?;
        let change = Change {
            validate_only: false,
            expected: wire.expected_version,
        };
        let deleted = self
            .ask(move |core, now| core.delete_policy(&name, &change, now))
            .await?;
        deleted.map_err(Refusal::from)?;
        note("delete policy", &wire.queue, &wire.who, &wire.why);
        answer(v1::DeletePolicyResponse {})
    }

    async fn get_resource(
        &self,
        request: Request<v1::GetResourceRequest>,
    ) -> Answer<v1::GetResourceResponse> {
        let name = request.into_inner().name;
        convert::queue_name("name", &name).map_err(Refusal::from)?;
        let asked = name.clone();
        let found = self.ask(move |core, _| core.resource(&asked)).await?;
        let resource = found
            .ok_or(TuningError::NoResource(name))
            .map_err(Refusal::from)?;
        answer(v1::GetResourceResponse {
            resource: Some(resource.into()),
        })
    }

    async fn list_resources(
        &self,
        request: Request<v1::ListResourcesRequest>,
    ) -> Answer<v1::ListResourcesResponse> {
        answer(self.resources(request.into_inner()).await?)
    }

    async fn apply_resource(
        &self,
        request: Request<v1::ApplyResourceRequest>,
    ) -> Answer<v1::ApplyResourceResponse> {
        answer(self.apply_a_resource(request.into_inner()).await?)
    }

    async fn delete_resource(
        &self,
        request: Request<v1::DeleteResourceRequest>,
    ) -> Answer<v1::DeleteResourceResponse> {
        let wire = request.into_inner();
        convert::queue_name("name", &wire.name).map_err(Refusal::from)?;
        let change = Change {
            validate_only: false,
            expected: wire.expected_version,
        };
        let name = wire.name.clone();
        let deleted = self
            .ask(move |core, _| core.delete_resource(&name, &change))
            .await?;
        deleted.map_err(Refusal::from)?;
        note("delete resource", &wire.name, &wire.who, &wire.why);
        answer(v1::DeleteResourceResponse {})
    }

    async fn history(&self, request: Request<v1::HistoryRequest>) -> Answer<v1::HistoryResponse> {
        answer(self.past(request.into_inner()).await?)
    }

    async fn freeze(&self, request: Request<v1::FreezeRequest>) -> Answer<v1::FreezeResponse> {
        let wire = request.into_inner();
        self.set_frozen(&wire.queue, true).await?;
        note("freeze", &wire.queue, &wire.who, &wire.why);
        answer(v1::FreezeResponse {})
    }

    async fn unfreeze(&self, request: Request<v1::UnfreezeRequest>) -> Answer<v1::UnfreezeResponse> {
        let wire = request.into_inner();
        self.set_frozen(&wire.queue, false).await?;
        note("unfreeze", &wire.queue, &wire.who, &wire.why);
        answer(v1::UnfreezeResponse {})
    }

    async fn pin(&self, request: Request<v1::PinRequest>) -> Answer<v1::PinResponse> {
        let wire = request.into_inner();
        let name = queue(&wire.queue)?;
        let (value, ttl_ms) = (wire.value, wire.ttl_ms);
        let pinned = self
            .ask(move |core, now| core.pin(&name, value, ttl_ms, now))
            .await?;
        pinned.map_err(Refusal::from)?;
        note("pin", &wire.queue, &wire.who, &wire.why);
        answer(v1::PinResponse {})
    }

    async fn unpin(&self, request: Request<v1::UnpinRequest>) -> Answer<v1::UnpinResponse> {
        let wire = request.into_inner();
        let name = queue(&wire.queue)?;
        let unpinned = self.ask(move |core, now| core.unpin(&name, now)).await?;
        unpinned.map_err(Refusal::from)?;
        note("unpin", &wire.queue, &wire.who, &wire.why);
        answer(v1::UnpinResponse {})
    }

    async fn explain(&self, request: Request<v1::ExplainRequest>) -> Answer<v1::ExplainResponse> {
        let name = match request.into_inner().subject {
            Some(v1::explain_request::Subject::Queue(name)) => queue(&name)?,
            Some(v1::explain_request::Subject::JobId(_)) => {
                return Err(Refusal::not_implemented("explaining a job").into_status());
            }
            None => {
                let message = "say a queue";
                let invalid =
                    convert::Invalid::new("subject", tidegate_protocol::reason::INVALID_ARGUMENT, message);
                return Err(Refusal::from(invalid).into_status());
            }
        };
        let asked = name.clone();
        let explained = self.ask(move |core, _| core.explain(&asked)).await?;
        let (text, decisions) = explained
            .ok_or_else(|| TuningError::NoQueue(name.to_string()))
            .map_err(Refusal::from)?;
        answer(v1::ExplainResponse {
            text,
            decisions: decisions.into_iter().map(wire::decision).collect(),
        })
    }

    type WatchDecisionsStream = ReceiverStream<Result<v1::WatchDecisionsResponse, Status>>;

    async fn watch_decisions(
        &self,
        request: Request<v1::WatchDecisionsRequest>,
    ) -> Answer<Self::WatchDecisionsStream> {
        let subject = subject(&request.get_ref().queue)?;
        answer(self.watch(subject)?)
    }

    async fn get_fleet(&self, _: Request<v1::GetFleetRequest>) -> Answer<v1::GetFleetResponse> {
        let fleet = self.ask(|core, now| core.view(now)).await?;
        answer(show::fleet(fleet))
    }
}

impl Tuning {
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut crate::core::Core, crate::core::model::Now) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        Ok(self.owner.ask(question).await?)
    }

    async fn apply(&self, wire: v1::ApplyPolicyRequest) -> Result<v1::ApplyPolicyResponse, Refusal> {
        let (name, policy) = convert::policy_unchecked(wire.policy.unwrap_or_default())
            .map_err(|invalid| invalid.within("policy"))?;
        let change = Change {
            validate_only: wire.validate_only,
            expected: wire.expected_version,
        };
        let queue = name.clone();
        let applied = self
            .ask(move |core, now| core.apply_policy(name, policy, &change, now))
            .await?;
        match applied {
            Ok((policy, version)) => {
                if !wire.validate_only {
                    note("apply policy", queue.as_str(), &wire.who, &wire.why);
                }
                Ok(v1::ApplyPolicyResponse {
                    policy: Some((queue, policy, None).into()),
                    version,
                    violations: Vec::new(),
                })
            }
            Err(error) if wire.validate_only => Ok(v1::ApplyPolicyResponse {
                policy: None,
                version: 0,
                violations: violations(error)?,
            }),
            Err(error) => Err(error.into()),
        }
    }

    async fn apply_a_resource(
        &self,
        wire: v1::ApplyResourceRequest,
    ) -> Result<v1::ApplyResourceResponse, Refusal> {
        let resource = convert::resource(wire.resource.unwrap_or_default())
            .map_err(|invalid| invalid.within("resource"))?;
        let change = Change {
            validate_only: wire.validate_only,
            expected: wire.expected_version,
        };
        let name = resource.name.clone();
        let applied = self
            .ask(move |core, now| core.apply_resource(resource, &change, now))
            .await?;
        match applied {
            Ok(resource) => {
                if !wire.validate_only {
                    note("apply resource", &name, &wire.who, &wire.why);
                }
                Ok(v1::ApplyResourceResponse {
                    resource: Some(resource.into()),
                    violations: Vec::new(),
                })
            }
            Err(error) if wire.validate_only => Ok(v1::ApplyResourceResponse {
                resource: None,
                violations: violations(error)?,
            }),
            Err(error) => Err(error.into()),
        }
    }

    async fn set_frozen(&self, text: &str, frozen: bool) -> Result<(), Refusal> {
        let subject = subject(text)?;
        Ok(self
            .ask(move |core, now| core.freeze(&subject, frozen, now))
            .await??)
    }

    fn watch(
        &self,
        subject: Subject,
    ) -> Result<ReceiverStream<Result<v1::WatchDecisionsResponse, Status>>, Refusal> {
        if self.draining.is_cancelled() {
            return Err(Refusal::draining());
        }
        let (out, stream) = mpsc::channel(WATCH_MESSAGES);
        let mut decisions = self.owner.watch();
        let draining = self.draining.clone();
        let watching = async move {
            loop {
                let next = tokio::select! {
                    () = draining.cancelled() => Err(Refusal::draining()),
                    () = out.closed() => return,
                    next = decisions.recv() => match next {
                        Ok(decision) => Ok(decision),
                        Err(RecvError::Lagged(_)) => Err(Refusal::slow_reader()),
                        Err(RecvError::Closed) => Err(Refusal::draining()),
                    },
                };
                let message = match next {
                    Ok(decision) if !concerns(&subject, &decision.queue) => continue,
                    Ok(decision) => Ok(v1::WatchDecisionsResponse {
                        decision: Some(wire::decision(decision)),
                    }),
                    Err(refusal) => Err(refusal.into_status()),
                };
                let is_last = message.is_err();
                if out.send(message).await.is_err() || is_last {
                    return;
                }
            }
        };
        self.watchers
            .spawn(watching)
            .map_err(|why| Refusal::group(&why, "watchers"))?;
        Ok(ReceiverStream::new(stream))
    }
}

fn concerns(subject: &Subject, queue: &QueueName) -> bool {
    match subject {
        Subject::Everything => true,
        Subject::Queue(name) => name == queue,
    }
}
