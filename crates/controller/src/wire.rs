//! Between the wire and the core: messages are checked and bounded here, once.

use tidegate_flow::histogram::Histogram;
use tidegate_protocol::{
    convert::{self, Invalid},
    domain::{QueueName, Version},
    limits, reason, v1,
};

use crate::{
    core::{
        EPOCH_MAX,
        model::{
            CapAnswer, Counts, Decision, GateOrder, Hello, Order, QueueReport, Report, ResourceReport, Role,
            Said, StoreFacts, StoreSeen,
        },
    },
    ledger::PastDecision,
};

/// Queues in one report: as many as one worker serves, or a router's store has in one page of facts.
const REPORT_QUEUES_MAX: usize = 10_000;
/// Resources in one report.
const REPORT_RESOURCES_MAX: usize = 1_000;
/// Names of nodes, for people.
const TEXT_CHARS_MAX: usize = 200;
/// Running jobs of one queue: more than any fleet has, and far from the end of the type when it is multiplied by units.
const SLOTS_MAX: u64 = u32::MAX as u64;

pub fn hello(wire: v1::NodeHello) -> Result<Hello, Invalid> {
    let role = match wire.role() {
        v1::NodeRole::Router => Role::Router,
        v1::NodeRole::Worker => Role::Worker,
        v1::NodeRole::Unspecified => {
            return Err(Invalid::new(
                "role",
                reason::INVALID_ARGUMENT,
                "must be router or worker",
            ));
        }
    };
    let node = convert::session("node", &wire.node)?.0.to_string();
    bounded("queues", wire.queues.len(), limits::QUEUES_PER_WORKER_MAX)?;
    let queue = |(at, name): (usize, &String)| convert::queue_name(&format!("queues[{at}]"), name);
    let state = report(wire.state.unwrap_or_default()).map_err(|invalid| invalid.within("state"))?;
    Ok(Hello {
        role,
        name: match wire.name.as_str() {
            "" => short(&node, 8),
            name => short(name, TEXT_CHARS_MAX),
        },
        node,
        version: short(&wire.version, TEXT_CHARS_MAX),
        applied: version("applied", wire.applied)?,
        ledger_id: short(&wire.ledger_id, TEXT_CHARS_MAX),
        store_incarnation: short(&wire.store_incarnation, TEXT_CHARS_MAX),
        queues: wire
            .queues
            .iter()
            .enumerate()
            .map(queue)
            .collect::<Result<_, _>>()?,
        slots: wire.slots,
        state,
    })
}

fn bounded(field: &str, count: usize, max: usize) -> Result<(), Invalid> {
    if count <= max {
        return Ok(());
    }
    let message = format!("{count} entries; at most {max} are taken");
    Err(Invalid::new(field, reason::BATCH_TOO_LARGE, message))
}

/// An epoch that nobody can have counted to would outrank every leader for ever.
fn version(field: &str, wire: Option<v1::Version>) -> Result<Version, Invalid> {
    let version = convert::version(wire);
    if version.epoch <= EPOCH_MAX && version.generation <= EPOCH_MAX {
        return Ok(version);
    }
    let message = format!("epochs and generations are at most {EPOCH_MAX}");
    Err(Invalid::new(field, reason::INVALID_ARGUMENT, message))
}

fn short(text: &str, chars: usize) -> String {
    text.chars().take(chars).collect()
}

/// `None`: a message of a newer contract.
pub fn said(wire: v1::AttachRequest) -> Result<Option<Said>, Invalid> {
    use v1::attach_request::Message;
    Ok(Some(match wire.message {
        None => return Ok(None),
        Some(Message::Hello(_)) => {
            let message = "a stream has one hello";
            return Err(Invalid::new("message", reason::INVALID_ARGUMENT, message));
        }
        Some(Message::Report(wire)) => {
            Said::Report(report(wire).map_err(|invalid| invalid.within("report"))?)
        }
        Some(Message::Applied(applied)) => Said::Applied(version("applied.version", applied.version)?),
        Some(Message::CapAnswers(answers)) => {
            bounded("cap_answers.items", answers.items.len(), REPORT_QUEUES_MAX)?;
            Said::CapAnswers {
                request_id: answers.request_id,
                items: answers
                    .items
                    .into_iter()
                    .enumerate()
                    .map(cap_answer)
                    .collect::<Result<_, _>>()?,
            }
        }
        Some(Message::Refusal(refusal)) => Said::Refusal {
            obeyed: version("refusal.obeyed", refusal.obeyed)?,
            ledger_id: short(&refusal.ledger_id, TEXT_CHARS_MAX),
            reason: short(&refusal.reason, TEXT_CHARS_MAX),
        },
    }))
}

fn cap_answer((at, wire): (usize, v1::cap_answers::Item)) -> Result<CapAnswer, Invalid> {
    Ok(CapAnswer {
        queue: convert::queue_name(&format!("cap_answers.items[{at}].queue"), &wire.queue)?,
        applied: wire.applied,
        record: match wire.cap {
            Some(cap) => {
                version(&format!("cap_answers.items[{at}].cap.version"), cap.version)?;
                Some(convert::cap_record(cap))
            }
            None => None,
        },
        slots: wire.slots.min(SLOTS_MAX),
        error: wire
            .error
            .map(|error| format!("{}: {}", error.reason, short(&error.message, TEXT_CHARS_MAX))),
    })
}

fn report(wire: v1::Report) -> Result<Report, Invalid> {
    bounded("queues", wire.queues.len(), REPORT_QUEUES_MAX)?;
    bounded("resources", wire.resources.len(), REPORT_RESOURCES_MAX)?;
    let resource = |wire: v1::ResourceReport| ResourceReport {
        resource: wire.resource,
        in_use: wire.in_use,
        waiters: wire.waiters,
    };
    Ok(Report {
        queues: wire
            .queues
            .into_iter()
            .enumerate()
            .map(queue_report)
            .collect::<Result<_, _>>()?,
        resources: wire.resources.into_iter().map(resource).collect(),
        store_latency: wire.store_latency.map(histogram).unwrap_or_default(),
        alarm: wire.alarm,
        slots: wire.slots,
        store: wire.store.map(|store| StoreSeen {
            incarnation: short(&store.incarnation, TEXT_CHARS_MAX),
            clock_ms: store.clock_ms,
            found_watermark_ms: store.found_watermark_ms,
            found_clock_ms: store.found_clock_ms,
            untrusted: short(&store.untrusted, TEXT_CHARS_MAX),
        }),
    })
}

/// Bounded so that sums over a fleet stay far from the end of the type.
fn few(count: u64) -> u64 {
    count.min(u64::from(u32::MAX))
}

fn queue_report((at, wire): (usize, v1::QueueReport)) -> Result<QueueReport, Invalid> {
    let mut counts = Counts {
        run_time: wire.run_time.map(histogram).unwrap_or_default(),
        submitted: few(wire.submitted),
        refused: few(wire.refused),
        gated: few(wire.gated),
        ..Counts::default()
    };
    for failure in &wire.failures {
        let class = match failure.class() {
            v1::FailureClass::Overload => &mut counts.overload,
            v1::FailureClass::Down => &mut counts.down,
            v1::FailureClass::Error => &mut counts.errors,
            v1::FailureClass::Job | v1::FailureClass::Unspecified => &mut counts.job_errors,
        };
        *class += few(failure.count);
    }
    Ok(QueueReport {
        queue: convert::queue_name(&format!("queues[{at}].queue"), &wire.queue)?,
        counts,
        mean_in_flight: match wire.mean_in_flight.is_finite() {
            true => wire.mean_in_flight.clamp(0.0, f64::from(u32::MAX)),
            false => 0.0,
        },
        is_down: wire.down,
        store: wire.store.map(|facts| StoreFacts {
            ready: facts.ready,
            running: facts.running.min(SLOTS_MAX),
            slots: facts.slots.min(SLOTS_MAX),
            oldest_ready_age_ms: facts.oldest_ready_age_ms,
            clock_ms: facts.store_clock_ms,
        }),
    })
}

fn histogram(wire: v1::Histogram) -> Histogram {
    Histogram::from_parts(&wire.buckets, wire.sum_ms, wire.sum_squares_ms)
}

pub fn order(order: Order) -> v1::AttachResponse {
    use v1::attach_response::Message;
    let message = match order {
        Order::Welcome {
            version,
            ledger_id,
            controller,
            store_refused,
        } => Message::Welcome(v1::ControlWelcome {
            version: Some(version.into()),
            ledger_id,
            controller,
            store_refused,
        }),
        Order::Policies {
            version,
            policies,
            removed,
        } => Message::Policies(v1::Policies {
            version: Some(version.into()),
            policies: policies
                .into_iter()
                .map(|(queue, policy, version)| v1::Policy::from((queue, policy, Some(version))))
                .collect(),
            removed: removed.iter().map(QueueName::to_string).collect(),
        }),
        Order::Caps {
            version,
            request_id,
            orders,
            ttl_ms,
        } => Message::Caps(v1::Caps {
            version: Some(version.into()),
            request_id,
            orders: orders
                .into_iter()
                .map(|(queue, cap)| cap_order(&queue, cap, version))
                .collect(),
            ttl_ms,
        }),
        Order::Targets {
            version,
            targets,
            ttl_ms,
        } => Message::Targets(v1::Targets {
            version: Some(version.into()),
            targets: targets
                .into_iter()
                .map(|(queue, target, reason)| v1::Target {
                    queue: queue.to_string(),
                    target,
                    reason: reason.to_owned(),
                })
                .collect(),
            ttl_ms,
        }),
        Order::CapWriter(writer) => Message::Command(v1::Command {
            command: Some(v1::command::Command::CapWriter(v1::CapWriter { writer })),
        }),
        Order::Gates {
            version,
            gates,
            ttl_ms,
            routers,
        } => Message::Gates(v1::Gates {
            version: Some(version.into()),
            gates: gates.into_iter().map(gate).collect(),
            ttl_ms,
            routers,
        }),
        Order::RefuseStore(reason) => Message::Command(v1::Command {
            command: Some(v1::command::Command::RefuseStore(v1::RefuseStore { reason })),
        }),
        Order::AcceptStore {
            incarnation,
            watermark_ms,
        } => Message::Command(v1::Command {
            command: Some(v1::command::Command::AcceptStore(v1::AcceptStore {
                incarnation,
                watermark_ms,
            })),
        }),
        Order::Refused {
            newer,
            ledger_id,
            reason,
        } => Message::Refused(v1::Refused {
            newer: Some(newer.into()),
            ledger_id,
            reason,
        }),
    };
    v1::AttachResponse {
        message: Some(message),
    }
}

fn gate(order: GateOrder) -> v1::Gate {
    let state = if order.refuse < 1.0 {
        v1::GateState::Shedding
    } else {
        v1::GateState::Closed
    };
    v1::Gate {
        queue: order.queue.to_string(),
        state: state.into(),
        refuse_probability: order.refuse,
        retry_after_ms: order.retry_after_ms,
        reason: order.reason.to_owned(),
    }
}

fn cap_order(
    queue: &QueueName,
    cap: Option<tidegate_protocol::domain::Cap>,
    version: Version,
) -> v1::CapOrder {
    v1::CapOrder {
        queue: queue.to_string(),
        cap: cap.map(|cap| v1::Cap {
            cap: cap.cap,
            retry_cap: cap.retry_cap,
            safe: cap.safe,
            // The store counts the ttl by its own clock.
            expires_at_ms: 0,
            version: Some(version.into()),
        }),
    }
}

pub fn decision(decision: Decision) -> v1::Decision {
    v1::Decision {
        at_ms: decision.at_ms,
        version: Some(decision.version.into()),
        queue: decision.queue.to_string(),
        cap: decision.cap,
        previous_cap: decision.previous_cap,
        wanted: decision.wanted,
        target: decision.target,
        reason: decision.reason.as_str().to_owned(),
        inputs: decision
            .inputs
            .into_iter()
            .map(|(name, value)| v1::Input {
                name: name.to_owned(),
                value,
            })
            .collect(),
        text: decision.text,
    }
}

/// As the ledger has it.
pub fn past_decision(decision: PastDecision) -> v1::Decision {
    let version = Version {
        epoch: decision.place.epoch,
        generation: decision.generation,
    };
    let inputs = decision.inputs.into_iter();
    v1::Decision {
        at_ms: decision.at_ms,
        version: Some(version.into()),
        queue: decision.queue,
        cap: decision.cap,
        previous_cap: decision.previous_cap,
        wanted: decision.wanted,
        target: decision.target,
        reason: decision.reason,
        inputs: inputs.map(|(name, value)| v1::Input { name, value }).collect(),
        text: decision.words,
    }
}
