//! Entering jobs.

use sha2::{Digest, Sha256};
use tidegate_chassis::{
    serve::{Hold, PeerInfo},
    telemetry::trace::{TraceContext, Work, WorkSpan, decide, is_on, within},
};
use tidegate_protocol::{
    convert::{self, Invalid},
    domain::{JobId, NewJob, PayloadHash, QueueName, SubmitOutcome, Submitted},
    limits, reason, v1,
};
use tidegate_store::StoreResult;
use tonic::{Request, metadata::MetadataMap};
use uuid::Uuid;

use super::{Jobs, too_many};
use crate::{
    admission::{Caller, SchemaOf},
    status::Refusal,
    trace::Lineage,
};

/// What a job holds in memory beside its payload, roughly.
const JOB_BYTES: usize = 512;
/// Results of duplicates in one answer; together with the rest it must stay below the message limit. A duplicate whose
/// result has no room is answered without: it is to be had by GetJob.
const RESULT_BYTES_PER_ANSWER_MAX: usize = 3 * 1024 * 1024;

/// Of one connection, waiting for the store: an eighth of what may wait in all, so that no single one can fill it.
const CONNECTION_BYTES_MAX: usize = 8 << 20;

/// Payload bytes that are checked and hashed before other calls get their turn.
const BYTES_IN_A_ROW: usize = 64 << 10;

type ItemResult = v1::submit_jobs_response::item::Result;

/// W3C trace context of the call: of its caller, and then of its span, for the jobs to carry.
struct Trace {
    parent: String,
    state: String,
    /// The call's, whether it is kept or not; `None`: tracing is off.
    context: Option<TraceContext>,
    /// Where it is kept; it ends with the call.
    span: Option<WorkSpan>,
}

impl Trace {
    fn of(metadata: &MetadataMap) -> Self {
        let text = |key: &str| {
            metadata
                .get(key)
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default()
                .to_owned()
        };
        Self {
            parent: text("traceparent"),
            state: text("tracestate"),
            context: None,
            span: None,
        }
    }

    /// Decides about the call's span. Jobs may have a context of their own, of the span in which they were made: it is
    /// linked to those, and without a caller's span they decide.
    fn begin(&mut self, wires: &[v1::NewJob]) {
        if !is_on() {
            return;
        }
        let mut creators = Lineage::default();
        for wire in wires {
            let own = Some(wire.traceparent.as_str()).filter(|text| !text.is_empty());
            creators.add(own, Some(&wire.tracestate));
        }
        let caller = TraceContext::parse(&self.parent, Some(&self.state));
        let Some(context) = decide(caller.as_ref(), creators.linked(), creators.roots) else {
            return;
        };
        if context.is_sampled() {
            let mut work = submit_work(common_queue(wires), wires.len()).linked_to(creators.kept);
            if let Some(caller) = &caller {
                work = work.child_of(caller);
            }
            self.span = work.begin_as(&context);
        }
        let (parent, state) = context.texts();
        (self.parent, self.state) = (parent, state.unwrap_or_default());
        self.context = Some(context);
    }

    /// What the job's own trace context names, if the producer gave none.
    fn fill(&self, job: &mut v1::NewJob) {
        if job.traceparent.is_empty() {
            job.traceparent.clone_from(&self.parent);
            job.tracestate.clone_from(&self.state);
        }
    }

    fn failed(&mut self, refusal: &Refusal) {
        if let Some(span) = &mut self.span {
            span.fail(refusal.reason());
        }
    }
}

/// Who submits, and over which connection.
struct Submitter {
    caller: Caller,
    peer: Option<PeerInfo>,
}

impl Submitter {
    fn of<T>(request: &Request<T>) -> Self {
        Self {
            caller: Caller::of(request.metadata(), request.extensions()),
            peer: request.extensions().get::<PeerInfo>().cloned(),
        }
    }

    /// The connection's share of what may wait for the store.
    fn hold(&self, bytes: usize) -> Result<Option<Hold>, Refusal> {
        let Some(peer) = &self.peer else { return Ok(None) };
        let hold = peer.hold(bytes, CONNECTION_BYTES_MAX);
        hold.map(Some)
            .ok_or_else(|| Refusal::overloaded("submits of one connection"))
    }
}

impl Jobs {
    pub(super) async fn submit_one(
        &self,
        request: Request<v1::SubmitJobRequest>,
    ) -> Result<v1::SubmitJobResponse, Refusal> {
        let submitter = Submitter::of(&request);
        let mut trace = Trace::of(request.metadata());
        let missing = || Invalid::new("job", reason::INVALID_ARGUMENT, "must be set");
        let mut wire = request.into_inner().job.ok_or_else(missing)?;
        let queue = convert::queue_name("job.queue", &wire.queue)?;
        if let Err(refusal) = self.condition.check_submit() {
            self.count([(&queue, Err(&refusal))].into_iter());
            return Err(refusal);
        }
        trace.begin(std::slice::from_ref(&wire));
        trace.fill(&mut wire);
        let answer = match self.check(&queue, wire, &submitter.caller, "job") {
            Ok(job) => within(trace.context.clone(), self.enter(vec![job], &submitter)).await,
            Err(refusal) => Err(refusal),
        };
        let answer = match answer {
            Ok(answers) => match answers.into_iter().next() {
                Some(Ok(submitted)) => Ok(submitted),
                Some(Err(error)) => Err(Refusal::store(&error, &queue)),
                None => Err(Refusal::internal()),
            },
            Err(refusal) => Err(refusal),
        };
        if let Err(refusal) = &answer {
            trace.failed(refusal);
        }
        self.count([(&queue, answer.as_ref())].into_iter());
        Ok(v1::SubmitJobResponse {
            job: Some(answer?.into()),
        })
    }

    pub(super) async fn submit_many(
        &self,
        request: Request<v1::SubmitJobsRequest>,
    ) -> Result<v1::SubmitJobsResponse, Refusal> {
        if let Err(refusal) = self.condition.check_submit() {
            let wires = &request.get_ref().jobs;
            // A mixed batch is counted nowhere: finding out what is in it is work for a call that is refused.
            if let Ok(queue) = common_queue(wires).parse() {
                self.count(wires.iter().map(|_| (&queue, Err(&refusal))));
            }
            return Err(refusal);
        }
        let submitter = Submitter::of(&request);
        let mut trace = Trace::of(request.metadata());
        let wires = request.into_inner().jobs;
        check_batch(&wires)?;
        trace.begin(&wires);

        let mut items: Vec<Option<ItemResult>> = Vec::with_capacity(wires.len());
        let mut jobs = Vec::with_capacity(wires.len());
        let mut bytes = 0;
        for (at, mut wire) in wires.into_iter().enumerate() {
            trace.fill(&mut wire);
            bytes += wire.payload.len();
            if bytes > BYTES_IN_A_ROW {
                bytes = 0;
                tokio::task::yield_now().await;
            }
            items.push(match self.check_item(wire, &submitter.caller, at) {
                Ok(job) => {
                    jobs.push(job);
                    None
                }
                Err(refusal) => Some(ItemResult::Error(refusal.into_item())),
            });
        }
        if !jobs.is_empty() {
            let queues: Vec<QueueName> = jobs.iter().map(|job| job.queue().clone()).collect();
            let answers = within(trace.context.clone(), self.enter(jobs, &submitter)).await;
            let answers = match answers {
                Ok(answers) => answers,
                Err(refusal) => {
                    trace.failed(&refusal);
                    self.count(queues.iter().map(|queue| (queue, Err(&refusal))));
                    return Err(refusal);
                }
            };
            self.fill_in(&mut items, &queues, answers);
        }
        let missing = || ItemResult::Error(Refusal::internal().into_item());
        let items = items.into_iter().map(|item| v1::submit_jobs_response::Item {
            result: Some(item.unwrap_or_else(missing)),
        });
        Ok(v1::SubmitJobsResponse {
            items: items.collect(),
        })
    }

    /// One job of a batch: what refuses it concerns it alone.
    fn check_item(&self, wire: v1::NewJob, caller: &Caller, at: usize) -> Result<NewJob, Refusal> {
        let place = format!("jobs[{at}]");
        let queue = convert::queue_name("queue", &wire.queue).map_err(|error| error.within(&place))?;
        let checked = self.check(&queue, wire, caller, &place);
        if let Err(refusal) = &checked
            && refusal.is_pushback()
        {
            self.count([(&queue, Err(refusal))].into_iter());
        }
        checked
    }

    /// Whether the job is taken, cheapest first: nothing is computed for one that is refused.
    fn check(
        &self,
        queue: &QueueName,
        wire: v1::NewJob,
        caller: &Caller,
        place: &str,
    ) -> Result<NewJob, Refusal> {
        self.admission.admit(queue, caller)?;
        let job = new_job(wire).map_err(|error| error.within(place))?;
        let schema = self.admission.schema(queue);
        if let Some(schema) = schema.as_ref().and_then(SchemaOf::get) {
            let violations = schema.violations(&job.payload);
            if !violations.is_empty() {
                let within = violations.into_iter().map(|invalid| invalid.within(place));
                return Err(within.collect::<Vec<_>>().into());
            }
        }
        Ok(job)
    }

    /// Puts the store's answers into the places that are still empty, in order.
    fn fill_in(
        &self,
        items: &mut [Option<ItemResult>],
        queues: &[QueueName],
        answers: Vec<StoreResult<Submitted>>,
    ) {
        let mut room = RESULT_BYTES_PER_ANSWER_MAX;
        let answers: Vec<Result<Submitted, Refusal>> = answers
            .into_iter()
            .zip(queues)
            .map(|(answer, queue)| answer.map_err(|error| Refusal::store(&error, queue)))
            .collect();
        self.count(
            queues
                .iter()
                .zip(&answers)
                .map(|(queue, answer)| (queue, answer.as_ref())),
        );
        for (item, answer) in items.iter_mut().filter(|item| item.is_none()).zip(answers) {
            *item = Some(match answer {
                Ok(mut submitted) => {
                    let bytes = submitted.result.as_ref().map_or(0, |result| result.len());
                    match room.checked_sub(bytes) {
                        Some(left) => room = left,
                        None => submitted.result = None,
                    }
                    ItemResult::Job(submitted.into())
                }
                Err(refusal) => ItemResult::Error(refusal.into_item()),
            });
        }
    }

    async fn enter(
        &self,
        jobs: Vec<NewJob>,
        submitter: &Submitter,
    ) -> Result<Vec<StoreResult<Submitted>>, Refusal> {
        let bytes = jobs.iter().map(|job| job.payload.len() + JOB_BYTES).sum();
        let _share = submitter.hold(bytes)?;
        self.condition.admit_submit()?;
        self.pipes
            .submit
            .call(jobs, bytes)
            .await
            .map_err(|why| Refusal::not_tried(why, "waiting submits"))
    }

    /// One addition for each run of jobs that came to the same, which most of a batch did.
    fn count<'a>(&self, answers: impl Iterator<Item = (&'a QueueName, Result<&'a Submitted, &'a Refusal>)>) {
        let (mut run, mut length) = (None, 0);
        for (queue, answer) in answers {
            let next = Some((queue, outcome_of(answer)));
            if run != next {
                self.count_run(std::mem::replace(&mut run, next), std::mem::take(&mut length));
            }
            length += 1;
        }
        self.count_run(run, length);
    }

    fn count_run(&self, run: Option<(&QueueName, Counted)>, length: u64) {
        let Some((queue, (outcome, reason))) = run else {
            return;
        };
        self.metrics.submitted(queue, outcome, length);
        if let Some(reason) = reason {
            self.metrics.rejected(queue, reason, length);
        }
    }
}

/// An outcome of the metrics, and why it was refused.
type Counted = (&'static str, Option<&'static str>);

fn outcome_of(answer: Result<&Submitted, &Refusal>) -> Counted {
    match answer {
        Ok(Submitted {
            outcome: SubmitOutcome::Created,
            ..
        }) => ("created", None),
        Ok(Submitted {
            outcome: SubmitOutcome::Duplicate,
            ..
        }) => ("duplicate", None),
        Err(refusal) if refusal.is_pushback() => ("refused", Some(refusal.reason())),
        Err(_) => ("failed", None),
    }
}

fn check_batch(wires: &[v1::NewJob]) -> Result<(), Refusal> {
    if wires.len() > limits::BATCH_ITEMS_MAX {
        return Err(too_many("jobs", wires.len(), limits::BATCH_ITEMS_MAX));
    }
    let bytes: usize = wires.iter().map(|wire| wire.payload.len()).sum();
    if bytes > limits::BATCH_BYTES_MAX {
        let message = format!(
            "{bytes} bytes of payload; at most {} are taken",
            limits::BATCH_BYTES_MAX
        );
        return Err(Invalid::new("jobs", reason::BATCH_TOO_LARGE, message).into());
    }
    Ok(())
}

/// Ids sort by age. One shard a queue for now.
fn new_job(wire: v1::NewJob) -> Result<NewJob, Invalid> {
    convert::new_job(
        wire,
        |queue| JobId {
            queue,
            shard: 0,
            local: Uuid::now_v7(),
        },
        payload_hash,
    )
}

/// A part of SHA-256, of which one does not find two payloads alike by accident.
fn payload_hash(payload: &[u8]) -> PayloadHash {
    let digest = Sha256::digest(payload);
    let mut hash = PayloadHash::default();
    let kept = hash.len();
    hash.copy_from_slice(&digest[..kept]);
    hash
}

fn common_queue(wires: &[v1::NewJob]) -> &str {
    match wires {
        [first, rest @ ..] if rest.iter().all(|wire| wire.queue == first.queue) => &first.queue,
        _ => "(mixed)",
    }
}

fn submit_work(queue: &str, count: usize) -> Work {
    // What the caller calls a queue may be anything until it is checked.
    let queue = if queue.len() <= limits::NAME_BYTES_MAX {
        queue
    } else {
        "(invalid)"
    };
    Work::producer(format!("submit {queue}"))
        .with("messaging.system", "tidegate")
        .with("messaging.operation.name", "submit")
        .with("messaging.operation.type", "send")
        .with("messaging.destination.name", queue.to_owned())
        .with("messaging.batch.message_count", count as i64)
}
