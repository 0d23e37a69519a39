//! `tidegate queue`.

use clap::Subcommand;
use serde_json::Value;
use tidegate_client::QueueView;

use crate::{
    args::{Common, Format},
    output,
};

#[derive(Subcommand)]
pub enum QueueCommand {
    /// Every queue with its numbers
    ///
    /// Example: tidegate queue list -o json
    #[command(verbatim_doc_comment)]
    List,
    /// One queue, whole
    ///
    /// Example: tidegate queue get email
    #[command(verbatim_doc_comment)]
    Get { name: String },
    /// Grant nothing more; what runs goes on
    ///
    /// Example: tidegate queue pause email
    #[command(verbatim_doc_comment)]
    Pause { name: String },
    /// Grant again
    ///
    /// Example: tidegate queue resume email
    #[command(verbatim_doc_comment)]
    Resume { name: String },
}

pub async fn run(common: &Common, command: QueueCommand) -> anyhow::Result<()> {
    let client = common.client()?;
    let queue = match command {
        QueueCommand::List => return list(common).await,
        QueueCommand::Get { name } => client.get_queue(name).await?,
        QueueCommand::Pause { name } => client.pause_queue(name).await?,
        QueueCommand::Resume { name } => client.resume_queue(name).await?,
    };
    match (common.output, output::queue(&queue)) {
        (Format::Table, Value::Object(fields)) => {
            for (name, value) in fields {
                output::line(format_args!("{name:<22}{value}"));
            }
        }
        (_, queue) => output::json_line(&queue),
    }
    Ok(())
}

async fn list(common: &Common) -> anyhow::Result<()> {
    let client = common.client()?;
    let mut queues: Vec<QueueView> = Vec::new();
    let mut token = String::new();
    loop {
        let page = client.list_queues(1_000, token).await?;
        queues.extend(page.queues);
        match page.next_page_token {
            Some(next) => token = next,
            None => break,
        }
    }
    if common.output == Format::Json {
        queues
            .iter()
            .for_each(|queue| output::json_line(&output::queue(queue)));
        return Ok(());
    }
    let row = |queue: &QueueView| {
        let cap = queue
            .effective_cap
            .map_or_else(|| "-".to_owned(), |cap| cap.to_string());
        let name = if queue.paused {
            format!("{} (paused)", queue.name)
        } else {
            queue.name.clone()
        };
        let counts = [
            queue.scheduled,
            queue.ready,
            queue.running,
            queue.slots,
            queue.dead,
            queue.succeeded_total,
        ];
        [name]
            .into_iter()
            .chain(counts.map(|n| n.to_string()))
            .chain([cap])
            .collect()
    };
    let header = [
        "QUEUE",
        "SCHEDULED",
        "READY",
        "RUNNING",
        "SLOTS",
        "DEAD",
        "SUCCEEDED",
        "CAP",
    ];
    output::table(&header, &queues.iter().map(row).collect::<Vec<_>>());
    Ok(())
}
