//! `tidegate submit`.

use std::{io::Read as _, path::PathBuf, time::Duration};

use anyhow::Context as _;
use serde_json::{Value, json};
use tidegate_client::{Client, ClientError, JobState, Submission, SubmitOutcome, Submitted};
use tidegate_protocol::limits::PAYLOAD_BYTES_MAX;

use crate::{
    args::{Common, Format},
    exit::{Failed, Usage},
    output, time,
};

/// Jobs entered per round of `--count`.
const ROUND: usize = 500;

#[derive(clap::Args)]
pub struct SubmitArgs {
    /// Queue name
    queue: String,
    /// Payload as JSON; `-` reads it from standard input
    #[arg(
        value_name = "JSON",
        conflicts_with = "file",
        required_unless_present = "file"
    )]
    payload: Option<String>,
    /// Read the payload from a file; `-` is standard input
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// Idempotency key: one key is one job
    #[arg(long)]
    key: Option<String>,
    /// Not before this time: +5m or 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", conflicts_with = "delay")]
    at: Option<String>,
    /// Not before this long from now, by the store's clock
    #[arg(long, value_name = "DURATION")]
    delay: Option<String>,
    /// Give up after this time: +1h or 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    deadline: Option<String>,
    /// A header, NAME=VALUE; repeatable
    #[arg(long = "header", value_name = "NAME=VALUE")]
    headers: Vec<String>,
    /// Wait for the outcome and print the result
    #[arg(long)]
    wait: bool,
    /// How long --wait waits
    #[arg(long, value_name = "DURATION", default_value = "60s")]
    timeout: String,
    /// Enter the same payload this many times
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: u32,
}

pub async fn run(common: &Common, args: SubmitArgs) -> anyhow::Result<()> {
    let submission = submission(&args)?;
    let timeout = time::duration(&args.timeout).map_err(Usage)?;
    let client = common.client()?;
    if args.count > 1 {
        if args.wait || args.key.is_some() {
            return Err(Usage("--count goes with neither --wait nor --key".into()).into());
        }
        return many(common, &client, &submission, args.count as usize).await;
    }
    let mut answers = client.submit_many([submission]).await;
    let submitted = answers.pop().context("no answer")??;
    if !args.wait {
        print(common, &submitted);
        return Ok(());
    }
    wait(common, &client, &submitted, timeout).await
}

fn submission(args: &SubmitArgs) -> anyhow::Result<Submission> {
    let payload = payload(args)?;
    if payload.len() > PAYLOAD_BYTES_MAX {
        let size = payload.len();
        let message =
            format!("the payload has {size} bytes, the limit is 256 KiB: submit a reference to it instead");
        return Err(Usage(message).into());
    }
    if let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(&payload) {
        return Err(Usage(format!("the payload is no JSON: {error}; nothing was submitted")).into());
    }
    let now = tidegate_chassis::clock::wall();
    let mut submission = Submission::raw(args.queue.clone(), payload);
    if let Some(key) = &args.key {
        submission = submission.key(key);
    }
    if let Some(at) = &args.at {
        submission = submission.at(time::parse(at, now).map_err(Usage)?);
    }
    if let Some(delay) = &args.delay {
        submission = submission.delay(time::duration(delay).map_err(Usage)?);
    }
    if let Some(deadline) = &args.deadline {
        submission = submission.deadline(time::parse(deadline, now).map_err(Usage)?);
    }
    for header in &args.headers {
        let Some((name, value)) = header.split_once('=') else {
            return Err(Usage(format!("--header {header:?}: use NAME=VALUE")).into());
        };
        submission = submission.header(name, value);
    }
    Ok(if args.wait {
        submission.want_result()
    } else {
        submission
    })
}

fn payload(args: &SubmitArgs) -> anyhow::Result<Vec<u8>> {
    let dash = |text: &str| text == "-";
    match (&args.payload, &args.file) {
        (Some(text), _) if !dash(text) => Ok(text.clone().into_bytes()),
        (_, Some(path)) if !path.to_str().is_some_and(dash) => {
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
        }
        _ => {
            let mut bytes = Vec::new();
            // One byte more than allowed shows that it is too much; the rest need not be read.
            let limit = PAYLOAD_BYTES_MAX as u64 + 1;
            std::io::stdin()
                .take(limit)
                .read_to_end(&mut bytes)
                .context("cannot read standard input")?;
            Ok(bytes)
        }
    }
}

fn print(common: &Common, submitted: &Submitted) {
    let outcome = match submitted.outcome {
        SubmitOutcome::Created => "created",
        SubmitOutcome::Duplicate => "duplicate",
    };
    let state = submitted.state.map(JobState::as_str);
    match common.output {
        Format::Json => output::json_line(&json!({
            "id": submitted.id.to_string(), "outcome": outcome, "state": state,
        })),
        Format::Table => output::line(format_args!(
            "{}  {outcome}  {}",
            submitted.id,
            state.unwrap_or("gone")
        )),
    }
}

async fn wait(
    common: &Common,
    client: &Client,
    submitted: &Submitted,
    timeout: Duration,
) -> anyhow::Result<()> {
    if let (SubmitOutcome::Duplicate, true) = (submitted.outcome, submitted.result_expired) {
        print(common, submitted);
        return Err(Failed("the job has finished earlier and its result is no longer kept".into()).into());
    }
    let job = client.wait(&submitted.id, timeout).await?;
    match common.output {
        Format::Json => output::json_line(&output::job(&job)),
        Format::Table => {
            output::line(format_args!("{}  {}", job.id, job.state.as_str()));
            if !job.result.is_empty() {
                match output::payload(&job.result) {
                    Value::String(text) => output::line(text),
                    value => output::json_line(&value),
                }
            }
        }
    }
    match job.state {
        JobState::Succeeded => Ok(()),
        state => Err(Failed(format!(
            "the job ended {}: {} {}",
            state.as_str(),
            job.reason,
            job.error
        ))
        .into()),
    }
}

async fn many(common: &Common, client: &Client, submission: &Submission, count: usize) -> anyhow::Result<()> {
    let mut created = 0;
    let mut first_error: Option<ClientError> = None;
    while created < count && first_error.is_none() {
        let round = (count - created).min(ROUND);
        for answer in client.submit_many((0..round).map(|_| submission.clone())).await {
            match answer {
                Ok(_) => created += 1,
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
    }
    match common.output {
        Format::Json => output::json_line(&json!({ "submitted": created, "failed": count - created })),
        Format::Table => output::line(format_args!("{created} of {count} submitted")),
    }
    first_error.map_or(Ok(()), |error| Err(error.into()))
}
