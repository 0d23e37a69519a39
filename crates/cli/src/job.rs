//! `tidegate job`.

use clap::Subcommand;
use serde_json::json;
use tidegate_client::{ActionResult, JobState};

use crate::{
    args::{Common, Format},
    exit::Usage,
    output,
};

#[derive(Subcommand)]
pub enum JobCommand {
    /// One job, whole
    ///
    /// Example: tidegate job get email:0:0190163d8694739b8e1cdbf4a7ee1b8e
    #[command(verbatim_doc_comment)]
    Get { id: String },
    /// Jobs of a queue in one state
    ///
    /// Example: tidegate job list --queue email --state dead --limit 20
    #[command(verbatim_doc_comment)]
    List {
        #[arg(long)]
        queue: String,
        /// scheduled, ready, running, succeeded, dead, cancelled or expired
        #[arg(long, default_value = "ready")]
        state: String,
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
    /// Cancel jobs that are not finished
    ///
    /// Example: tidegate job cancel ID...
    #[command(verbatim_doc_comment)]
    Cancel {
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Put dead jobs back to ready
    ///
    /// Example: tidegate job redrive ID...
    #[command(verbatim_doc_comment)]
    Redrive {
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Remove jobs, in whatever state
    ///
    /// Example: tidegate job delete ID... --yes
    #[command(verbatim_doc_comment)]
    Delete {
        #[arg(required = true)]
        ids: Vec<String>,
        /// Do it
        #[arg(long)]
        yes: bool,
    },
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
        JobCommand::List { queue, state, limit } => list(common, queue, &state, limit).await,
        JobCommand::Cancel { ids } => report(common, client.cancel(ids).await?),
        JobCommand::Redrive { ids } => report(common, client.redrive(ids).await?),
        JobCommand::Delete { yes: false, .. } => {
            Err(Usage("delete removes jobs for good: add --yes".into()).into())
        }
        JobCommand::Delete { ids, .. } => report(common, client.delete(ids).await?),
    }
}

async fn list(common: &Common, queue: String, state: &str, limit: u32) -> anyhow::Result<()> {
    let known = JobState::ALL.into_iter().find(|known| known.as_str() == state);
    let state = known.ok_or_else(|| {
        let names = JobState::ALL.map(JobState::as_str).join(", ");
        Usage(format!("no state {state:?}; there are {names}"))
    })?;
    let client = common.client()?;
    let mut jobs = Vec::new();
    let mut token = String::new();
    while jobs.len() < limit as usize {
        let wanted = (limit - jobs.len() as u32).min(1_000);
        let page = client.list(queue.clone(), state, wanted, token).await?;
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
