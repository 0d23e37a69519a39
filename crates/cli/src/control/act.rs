//! What operators change.

use std::{path::Path, time::Duration};

use anyhow::Context as _;
use serde_json::json;
use tidegate_client::ClientError;
use tidegate_protocol::{
    policy_file::{self, PolicyFile},
    v1,
};

use super::{Apply, Controller, Note};
use crate::{
    args::{Common, Format},
    exit::Usage,
    output,
};

/// Says what was done.
fn done(common: &Common, what: &str, subject: &str) {
    match common.output {
        Format::Json => output::json_line(&json!({ "done": what, "subject": subject })),
        Format::Table => output::line(format_args!("{what} {subject}")),
    }
}

fn read(path: &Path) -> anyhow::Result<PolicyFile> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read {}", path.display()))
        .map_err(|error| Usage(format!("{error:#}")))?;
    policy_file::parse(&text).map_err(|error| Usage(format!("{}: {error}", path.display())).into())
}

/// A whole file. It is read and checked before the first call; what only the controller can judge may end it half-way.
pub(super) async fn apply(
    common: &Common,
    client: &mut Controller,
    args: Apply,
    with_queues: bool,
) -> anyhow::Result<()> {
    let file = read(&args.file)?;
    let known = known_resources(client).await?;
    for entry in file.queues.iter().filter(|_| with_queues) {
        for cost in &entry.policy.costs {
            let in_file = file.resources.iter().any(|one| one.name == cost.resource);
            if !in_file && !known.contains(&cost.resource) {
                let message = format!(
                    "{}: queues.{}: costs: there is no resource {}: add [resources.{}] to the file",
                    args.file.display(),
                    entry.queue,
                    cost.resource,
                    cost.resource
                );
                return Err(Usage(message).into());
            }
        }
    }
    let word = if args.dry_run { "would apply" } else { "applied" };
    for resource in file.resources {
        let name = resource.name.clone();
        let request = v1::ApplyResourceRequest {
            resource: Some((resource, 0).into()),
            validate_only: args.dry_run,
            expected_version: None,
            who: args.note.who.clone(),
            why: args.note.why.clone(),
        };
        let answer = client.client.apply_resource(Controller::request(request)).await;
        let answer = answer.map_err(ClientError::from)?.into_inner();
        refuse(&format!("resources.{name}"), &answer.violations)?;
        done(common, word, &format!("resource {name}"));
    }
    for entry in file.queues.into_iter().filter(|_| with_queues) {
        let costs = &entry.policy.costs;
        let is_judged = costs.iter().all(|cost| known.contains(&cost.resource));
        let request = v1::ApplyPolicyRequest {
            policy: Some((entry.queue.clone(), entry.policy, None).into()),
            validate_only: args.dry_run,
            expected_version: None,
            who: args.note.who.clone(),
            why: args.note.why.clone(),
        };
        let answer = client.client.apply_policy(Controller::request(request)).await;
        let answer = answer.map_err(ClientError::from)?.into_inner();
        // A dry run knows nothing of the resources that the file would have made.
        if is_judged || !args.dry_run {
            refuse(&format!("queues.{}", entry.queue), &answer.violations)?;
        }
        done(common, word, &format!("policy {}", entry.queue));
    }
    Ok(())
}

fn refuse(place: &str, violations: &[v1::FieldViolation]) -> anyhow::Result<()> {
    let all: Vec<String> = violations
        .iter()
        .map(|violation| format!("{place}.{}: {}", violation.field, violation.description))
        .collect();
    match all.is_empty() {
        true => Ok(()),
        false => Err(Usage(all.join("; ")).into()),
    }
}

async fn known_resources(client: &mut Controller) -> Result<Vec<String>, ClientError> {
    let resources = super::show::all_resources(client).await?;
    Ok(resources.into_iter().map(|resource| resource.name).collect())
}

/// Of one queue, or of all.
fn subject(queue: &Option<String>) -> String {
    queue.clone().unwrap_or_else(|| "every queue".to_owned())
}

pub(super) async fn freeze(
    common: &Common,
    client: &mut Controller,
    queue: Option<String>,
    note: Note,
) -> anyhow::Result<()> {
    let request = v1::FreezeRequest {
        queue: queue.clone().unwrap_or_default(),
        who: note.who,
        why: note.why,
    };
    let answer = client.client.freeze(Controller::request(request)).await;
    answer.map_err(ClientError::from)?;
    done(common, "froze", &subject(&queue));
    Ok(())
}

pub(super) async fn unfreeze(
    common: &Common,
    client: &mut Controller,
    queue: Option<String>,
    note: Note,
) -> anyhow::Result<()> {
    let request = v1::UnfreezeRequest {
        queue: queue.clone().unwrap_or_default(),
        who: note.who,
        why: note.why,
    };
    let answer = client.client.unfreeze(Controller::request(request)).await;
    answer.map_err(ClientError::from)?;
    done(common, "unfroze", &subject(&queue));
    Ok(())
}

pub(super) async fn pin(
    common: &Common,
    client: &mut Controller,
    (queue, value, lasts): (String, u32, Duration),
    note: Note,
) -> anyhow::Result<()> {
    let request = v1::PinRequest {
        queue: queue.clone(),
        value,
        ttl_ms: u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX),
        who: note.who,
        why: note.why,
    };
    let answer = client.client.pin(Controller::request(request)).await;
    answer.map_err(ClientError::from)?;
    done(common, "pinned", &format!("{queue} to {value}"));
    Ok(())
}

pub(super) async fn unpin(
    common: &Common,
    client: &mut Controller,
    queue: String,
    note: Note,
) -> anyhow::Result<()> {
    let request = v1::UnpinRequest {
        queue: queue.clone(),
        who: note.who,
        why: note.why,
    };
    let answer = client.client.unpin(Controller::request(request)).await;
    answer.map_err(ClientError::from)?;
    done(common, "unpinned", &queue);
    Ok(())
}

pub(super) async fn accept_store(common: &Common, client: &mut Controller, note: Note) -> anyhow::Result<()> {
    let request = v1::AcceptStoreRequest {
        who: note.who,
        why: note.why,
    };
    let answer = client.client.accept_store(Controller::request(request)).await;
    let answer = answer.map_err(ClientError::from)?.into_inner();
    match answer.accepted {
        true => done(common, "accepted", &format!("store {}", answer.incarnation)),
        false => done(common, "nothing to accept:", "the job store is trusted"),
    }
    Ok(())
}
