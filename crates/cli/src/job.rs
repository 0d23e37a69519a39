//! `tidegate job`.

use clap::{Args, Subcommand};
use serde_json::json;
use tidegate_chassis::clock::wall;
use tidegate_client::{ActProgress, ActionResult, Client, JobAction, JobFilter, JobState};

use crate::{
    args::{Common, Format},
    control::Controller,
    exit::Usage,
    output, time,
};

#[derive(Subcommand)]
pub enum JobCommand {
    /// One job, whole
    ///
    /// Example: tidegate job get email:0:0190163d8694739b8e1cdbf4a7ee1b8e
    #[command(verbatim_doc_comment)]
    Get { id: String },
    /// Why a job does not run yet, or what has become of it
    ///
    /// Example: tidegate job explain email:0:0190163d8694739b8e1cdbf4a7ee1b8e
    #[command(verbatim_doc_comment)]
    Explain {
        id: String,
        /// The controller; repeat for several
        #[arg(
            long,
            value_name = "URL",
            env = "TIDEGATE_CONTROLLER",
            value_delimiter = ',',
            default_value = "http://127.0.0.1:7601"
        )]
        controller: Vec<String>,
    },
    /// Jobs of a queue, by state, time and key
    ///
    /// Example: tidegate job list --queue email --state dead --since 1h --limit 20
    #[command(verbatim_doc_comment)]
    List {
        #[arg(long)]
        queue: String,
        #[command(flatten)]
        which: Which,
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
    /// Cancel jobs that are not finished: by id, or all that a filter names
    ///
    /// Examples:
    ///   tidegate job cancel ID...
    ///   tidegate job cancel --queue email --since 10m --yes
    #[command(verbatim_doc_comment)]
    Cancel(Targets),
    /// Put dead jobs back to ready: by id, or all that a filter names
    ///
    /// Examples:
    ///   tidegate job redrive ID...
    ///   tidegate job redrive --queue email --since 1h --yes
    #[command(verbatim_doc_comment)]
    Redrive(Targets),
    /// Remove jobs in whatever state: by id, or all that a filter names
    ///
    /// Examples:
    ///   tidegate job delete ID... --yes
    ///   tidegate job delete --queue email --state dead --yes
    #[command(verbatim_doc_comment)]
    Delete(Targets),
}

/// Narrows the jobs of a queue.
#[derive(Args)]
pub struct Which {
    /// scheduled, ready, running, succeeded, dead, cancelled or expired [default: all]
    #[arg(long)]
    state: Option<String>,
    /// Submitted since: 90s, 10m, 1h ago, or a time like 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Submitted before: the same
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// With this idempotency key
    #[arg(long)]
    key: Option<String>,
}

impl Which {
    fn filter(&self, queue: &str) -> anyhow::Result<JobFilter> {
        let mut filter = JobFilter::of(queue);
        if let Some(text) = &self.state {
            let known = JobState::ALL.into_iter().find(|known| known.as_str() == text);
            filter = filter.state(known.ok_or_else(|| {
                let names = JobState::ALL.map(JobState::as_str).join(", ");
                Usage(format!("no state {text:?}; there are {names}"))
            })?);
        }
        let now = wall();
        if let Some(text) = &self.since {
            filter = filter.created_from(time::parse_past(text, now).map_err(Usage)?);
        }
        if let Some(text) = &self.until {
            filter = filter.created_before(time::parse_past(text, now).map_err(Usage)?);
        }
        Ok(match &self.key {
            Some(key) => filter.key(key),
            None => filter,
        })
    }

    fn is_empty(&self) -> bool {
        self.state.is_none() && self.since.is_none() && self.until.is_none() && self.key.is_none()
    }
}

/// Whose state is to be changed.
#[derive(Args)]
pub struct Targets {
    ids: Vec<String>,
    /// Instead of ids: the jobs of this queue
    #[arg(long)]
    queue: Option<String>,
    #[command(flatten)]
    which: Which,
    /// Do it
    #[arg(long)]
    yes: bool,
}

pub async fn run(common: &Common, command: JobCommand) -> anyhow::Result<()> {
    let client = common.client()?;
    match command {
        JobCommand::Get { id } => {
            let job = output::job(&client.get(id).await?);
            match (common.output, job) {
                (Format::Table, serde_json::Value::Object(fields)) => {
                    for (name, value) in fields {
                        output::line(format_args!("{name:<14}{value}"));
                    }
                }
                (_, job) => output::json_line(&job),
            }
            Ok(())
        }
        JobCommand::Explain { id, controller } => explain(common, &id, &controller).await,
        JobCommand::List { queue, which, limit } => list(common, which.filter(&queue)?, limit).await,
        JobCommand::Cancel(targets) => act(common, JobAction::Cancel, targets).await,
        JobCommand::Redrive(targets) => act(common, JobAction::Redrive, targets).await,
        JobCommand::Delete(targets) => act(common, JobAction::Delete, targets).await,
    }
}

async fn act(common: &Common, action: JobAction, targets: Targets) -> anyhow::Result<()> {
    let client = common.client()?;
    let Targets {
        ids,
        queue,
        which,
        yes,
    } = targets;
    match queue {
        Some(_) if !ids.is_empty() => Err(Usage("give ids or --queue, not both".into()).into()),
        Some(_) if !yes => Err(Usage(
            "this is for all jobs that fit: look at them with job list, then add --yes".into(),
        )
        .into()),
        Some(queue) => act_on_all(common, &client, action, which.filter(&queue)?).await,
        None if ids.is_empty() || !which.is_empty() => {
            Err(Usage("give ids, or --queue with --state, --since, --until or --key".into()).into())
        }
        None if action == JobAction::Delete && !yes => {
            Err(Usage("delete removes jobs for good: add --yes".into()).into())
        }
        None => {
            let results = match action {
                JobAction::Cancel => client.cancel(ids).await?,
                JobAction::Redrive => client.redrive(ids).await?,
                JobAction::Delete => client.delete(ids).await?,
            };
            report(common, results)
        }
    }
}

/// A line a batch, so that one sees it move; the last one is the result.
async fn act_on_all(
    common: &Common,
    client: &Client,
    action: JobAction,
    filter: JobFilter,
) -> anyhow::Result<()> {
    let mut acting = client.act_on(action, filter).await?;
    let mut last = ActProgress::default();
    while let Some(progress) = acting.next().await {
        let next = progress?;
        if next == last {
            continue;
        }
        last = next;
        let ActProgress {
            examined,
            done,
            refused,
            finished,
        } = last;
        match common.output {
            Format::Json => output::json_line(
                &json!({ "examined": examined, "done": done, "refused": refused, "finished": finished }),
            ),
            Format::Table => {
                let end = if finished { ", finished" } else { "" };
                output::line(format_args!("{done} done, {refused} refused of {examined}{end}"));
            }
        }
    }
    if last.finished {
        return Ok(());
    }
    anyhow::bail!(
        "the router went away before the end: run the same command again, what is done no longer fits"
    )
}

/// The router knows the job, the controller what its queue waits for.
async fn explain(common: &Common, id: &str, controllers: &[String]) -> anyhow::Result<()> {
    let job = common.client()?.get(id).await?;
    let attempt = format!("attempt {} of {}", job.attempts, job.max_attempts);
    let text = match job.state {
        JobState::Ready => {
            let waits = match Controller::of(controllers).await {
                Ok(mut controller) => controller.why_waiting(id.to_owned()).await,
                Err(error) => Err(error),
            };
            let waits = waits.unwrap_or_else(|error| {
                format!("waiting, and the controller does not say for what: {error}")
            });
            format!(
                "ready, {} attempts used of {}. {waits}",
                job.attempts, job.max_attempts
            )
        }
        JobState::Scheduled => format!("scheduled: it waits for its time, {attempt} is over or not begun"),
        JobState::Running => format!("running: {attempt}"),
        JobState::Succeeded => format!("succeeded: {attempt}"),
        JobState::Dead => format!("dead after {attempt}: {}", job.error),
        JobState::Cancelled => "cancelled".to_owned(),
        JobState::Expired => "expired: its deadline passed before it ran".to_owned(),
    };
    match common.output {
        Format::Json => output::json_line(&json!({ "id": id, "state": job.state.as_str(), "text": text })),
        Format::Table => output::line(format_args!("{id}: {text}")),
    }
    Ok(())
}

async fn list(common: &Common, filter: JobFilter, limit: u32) -> anyhow::Result<()> {
    let client = common.client()?;
    let mut jobs = Vec::new();
    let mut token = String::new();
    while jobs.len() < limit as usize {
        let wanted = (limit - jobs.len() as u32).min(1_000);
        let page = client.search(filter.clone(), wanted, token).await?;
        jobs.extend(page.jobs);
        match page.next_page_token {
            Some(next) => token = next,
            None => break,
        }
    }
    if common.output == Format::Json {
        jobs.iter().for_each(|job| output::json_line(&output::job(job)));
        return Ok(());
    }
    let row = |job: &tidegate_client::JobView| {
        let attempts = format!("{}/{}", job.attempts, job.max_attempts);
        vec![
            job.id.to_string(),
            job.state.as_str().to_owned(),
            attempts,
            job.error.clone(),
        ]
    };
    output::table(
        &["ID", "STATE", "ATTEMPTS", "ERROR"],
        &jobs.iter().map(row).collect::<Vec<_>>(),
    );
    Ok(())
}

/// One line an id; the first failure decides the exit code.
fn report(common: &Common, results: Vec<ActionResult>) -> anyhow::Result<()> {
    let mut first = None;
    for result in results {
        let state = result.state.map_or("gone", JobState::as_str);
        let error = result.error.as_ref().map(ToString::to_string);
        match common.output {
            Format::Json => {
                output::json_line(&json!({ "id": result.job_id, "state": state, "error": error }))
            }
            Format::Table => {
                let text = error.as_deref().unwrap_or(state);
                output::line(format_args!("{}  {text}", result.job_id));
            }
        }
        first = first.or(result.error);
    }
    first.map_or(Ok(()), |error| Err(error.into()))
}
