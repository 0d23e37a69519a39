//! Operators: one place to tune everything, and every decision explained.

mod pages;
mod show;

use tidegate_chassis::{CancellationToken, tasks::Group};
use tidegate_protocol::{
    convert,
    domain::{JobId, QueueName},
    v1,
};
use tokio::sync::{broadcast::error::RecvError, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, async_trait};

use std::sync::Arc;

use crate::{
    core::{Change, Core, Standing, Subject, TuningError, model::Now},
    edits::Editor,
    ledger::{Ledger, Note, Row, Scribe},
    owner::Handle,
    status::Refusal,
    wire,
};

/// Watchers at once.
pub const WATCHERS_MAX: usize = 256;
/// Of who and of why.
const NOTE_CHARS_MAX: usize = 1_000;
/// Decisions that a watcher may be behind in its own stream.
const WATCH_MESSAGES: usize = 64;

/// The service.
pub struct Tuning {
    pub owner: Handle,
    pub editor: Arc<Editor>,
    pub ledger: Arc<Ledger>,
    pub scribe: Scribe,
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

/// A job's id names its queue.
fn job_queue(text: &str) -> Result<QueueName, Refusal> {
    let id: JobId = convert::job_id("job_id", text)?;
    Ok(id.queue)
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

/// Who and why, for the ledger.
fn note(who: String, why: String) -> Note {
    let short = |text: String| text.chars().take(NOTE_CHARS_MAX).collect();
    Note {
        who: short(who),
        why: short(why),
    }
}

#[async_trait]
impl v1::tuning_service_server::TuningService for Tuning {
    async fn get_policy(&self, request: Request<v1::GetPolicyRequest>) -> Answer<v1::GetPolicyResponse> {
        let name = queue(&request.get_ref().queue)?;
        let asked = name.clone();
        let found = self.ask_leader(move |core, _| core.policy(&asked)).await?;
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
            expected: wire.expected_version,
        };
        let plan = move |core: &Core, _| core.plan_policy_deletion(&name, &change).map(Some);
        self.editor.edit(note(wire.who, wire.why), plan).await?;
        answer(v1::DeletePolicyResponse {})
    }

    async fn get_resource(
        &self,
        request: Request<v1::GetResourceRequest>,
    ) -> Answer<v1::GetResourceResponse> {
        let name = request.into_inner().name;
        convert::queue_name("name", &name).map_err(Refusal::from)?;
        let asked = name.clone();
        let found = self.ask_leader(move |core, _| core.resource(&asked)).await?;
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
            expected: wire.expected_version,
        };
        let plan = move |core: &Core, _| core.plan_resource_deletion(&wire.name, &change).map(Some);
        self.editor.edit(note(wire.who, wire.why), plan).await?;
        answer(v1::DeleteResourceResponse {})
    }

    async fn history(&self, request: Request<v1::HistoryRequest>) -> Answer<v1::HistoryResponse> {
        answer(self.past(request.into_inner()).await?)
    }

    async fn freeze(&self, request: Request<v1::FreezeRequest>) -> Answer<v1::FreezeResponse> {
        let wire = request.into_inner();
        self.set_frozen(&wire.queue, true, note(wire.who, wire.why))
            .await?;
        answer(v1::FreezeResponse {})
    }

    async fn unfreeze(&self, request: Request<v1::UnfreezeRequest>) -> Answer<v1::UnfreezeResponse> {
        let wire = request.into_inner();
        self.set_frozen(&wire.queue, false, note(wire.who, wire.why))
            .await?;
        answer(v1::UnfreezeResponse {})
    }

    async fn pin(&self, request: Request<v1::PinRequest>) -> Answer<v1::PinResponse> {
        let wire = request.into_inner();
        let name = queue(&wire.queue)?;
        let (value, ttl_ms) = (wire.value, wire.ttl_ms);
        let plan = move |core: &Core, now| core.plan_pin(&name, value, ttl_ms, now).map(Some);
        self.editor.edit(note(wire.who, wire.why), plan).await?;
        answer(v1::PinResponse {})
    }

    async fn unpin(&self, request: Request<v1::UnpinRequest>) -> Answer<v1::UnpinResponse> {
        let wire = request.into_inner();
        let name = queue(&wire.queue)?;
        let plan = move |core: &Core, now| core.plan_unpin(&name, now).map(Some);
        self.editor.edit(note(wire.who, wire.why), plan).await?;
        answer(v1::UnpinResponse {})
    }

    async fn accept_store(
        &self,
        request: Request<v1::AcceptStoreRequest>,
    ) -> Answer<v1::AcceptStoreResponse> {
        let wire = request.into_inner();
        let plan = |core: &Core, _| core.plan_acceptance();
        let row = self.editor.edit(note(wire.who, wire.why), plan).await?;
        answer(match row {
            Some(Row::StoreAccepted { incarnation, .. }) => v1::AcceptStoreResponse {
                accepted: true,
                incarnation,
            },
            _ => v1::AcceptStoreResponse::default(),
        })
    }

    async fn explain(&self, request: Request<v1::ExplainRequest>) -> Answer<v1::ExplainResponse> {
        let (name, is_job) = match request.into_inner().subject {
            Some(v1::explain_request::Subject::Queue(name)) => (queue(&name)?, false),
            Some(v1::explain_request::Subject::JobId(id)) => (job_queue(&id)?, true),
            None => {
                let message = "say a queue or a job";
                let invalid =
                    convert::Invalid::new("subject", tidegate_protocol::reason::INVALID_ARGUMENT, message);
                return Err(Refusal::from(invalid).into_status());
            }
        };
        let asked = name.clone();
        let explained = self.ask_leader(move |core, now| match is_job {
            true => core.explain_waiting(&asked, now),
            false => core.explain(&asked, now),
        });
        let (text, decisions) = explained
            .await?
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
        let ledger = v1::LedgerStatus {
            ledger_id: fleet.ledger_id.clone(),
            kind: self.ledger.kind().to_owned(),
            ..show::ledger(self.scribe.condition())
        };
        answer(show::fleet(fleet, ledger))
    }
}

impl Tuning {
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Core, Now) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        Ok(self.owner.ask(question).await?)
    }

    /// What only a leader knows.
    async fn ask_leader<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Core, Now) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let asked = self.ask(move |core, now| match core.standing() {
            Standing::Leads(_) => Ok(question(core, now)),
            Standing::Standby(leader, _) => Err((leader.clone(), core.standby_reason())),
        });
        asked
            .await?
            .map_err(|(leader, why)| Refusal::not_leading(leader, why))
    }

    async fn apply(&self, wire: v1::ApplyPolicyRequest) -> Result<v1::ApplyPolicyResponse, Refusal> {
        let (name, policy) = convert::policy_unchecked(wire.policy.unwrap_or_default())
            .map_err(|invalid| invalid.within("policy"))?;
        let change = Change {
            expected: wire.expected_version,
        };
        let plan = move |core: &Core, _| core.plan_policy(name, policy, &change).map(Some);
        let applied = |row: Option<Row>, is_dry: bool| match row {
            Some(Row::Policy {
                queue,
                revision,
                policy,
                ..
            }) => v1::ApplyPolicyResponse {
                policy: Some((queue, policy, None).into()),
                version: revision - u64::from(is_dry),
                violations: Vec::new(),
            },
            _ => v1::ApplyPolicyResponse::default(),
        };
        if !wire.validate_only {
            let row = self.editor.edit(note(wire.who, wire.why), plan).await?;
            return Ok(applied(row, false));
        }
        match self.dry_run(plan).await? {
            Ok(row) => Ok(applied(row, true)),
            Err(violations) => Ok(v1::ApplyPolicyResponse {
                violations,
                ..v1::ApplyPolicyResponse::default()
            }),
        }
    }

    async fn apply_a_resource(
        &self,
        wire: v1::ApplyResourceRequest,
    ) -> Result<v1::ApplyResourceResponse, Refusal> {
        let resource = convert::resource(wire.resource.unwrap_or_default())
            .map_err(|invalid| invalid.within("resource"))?;
        let change = Change {
            expected: wire.expected_version,
        };
        let plan = move |core: &Core, _| core.plan_resource(resource, &change).map(Some);
        let applied = |row: Option<Row>, is_dry: bool| match row {
            Some(Row::Resource { resource, revision }) => v1::ApplyResourceResponse {
                resource: Some((resource, revision - u64::from(is_dry)).into()),
                violations: Vec::new(),
            },
            _ => v1::ApplyResourceResponse::default(),
        };
        if !wire.validate_only {
            let row = self.editor.edit(note(wire.who, wire.why), plan).await?;
            return Ok(applied(row, false));
        }
        match self.dry_run(plan).await? {
            Ok(row) => Ok(applied(row, true)),
            Err(violations) => Ok(v1::ApplyResourceResponse {
                violations,
                ..v1::ApplyResourceResponse::default()
            }),
        }
    }

    /// The row as it would be, or every mistake.
    async fn dry_run(
        &self,
        plan: impl FnOnce(&Core, Now) -> Result<Option<Row>, TuningError> + Send + 'static,
    ) -> Result<Result<Option<Row>, Vec<v1::FieldViolation>>, Refusal> {
        let planned = self.ask_leader(move |core, now| plan(core, now)).await?;
        match planned {
            Ok(row) => Ok(Ok(row)),
            Err(error) => violations(error).map(Err),
        }
    }

    async fn set_frozen(&self, text: &str, frozen: bool, note: Note) -> Result<(), Refusal> {
        let subject = subject(text)?;
        let plan = move |core: &Core, now| core.plan_freeze(&subject, frozen, now).map(Some);
        self.editor.edit(note, plan).await?;
        Ok(())
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
