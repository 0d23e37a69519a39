//! `tidegate control`: the controller's state, its decisions, and what operators change.

mod act;
mod replay;
mod show;

use std::{path::PathBuf, time::Duration};

use clap::Subcommand;
use tidegate_client::{ClientError, endpoint};
use tidegate_protocol::{
    limits::MESSAGE_BYTES_MAX,
    v1::{self, tuning_service_client::TuningServiceClient},
};
use tonic::transport::Channel;

use crate::{args::Common, exit::Usage};

/// A call to the controller: it answers from memory.
const CALL_MAX: Duration = Duration::from_secs(5);

#[derive(clap::Args)]
pub struct ControlArgs {
    /// The controller; repeat for several, of which the one that leads is asked
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "TIDEGATE_CONTROLLER",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:7601"
    )]
    controller: Vec<String>,
    #[command(subcommand)]
    command: ControlCommand,
}

#[derive(Subcommand)]
enum ControlCommand {
    /// Who leads, which nodes are attached, and what each queue has
    ///
    /// Example: tidegate control status
    #[command(verbatim_doc_comment)]
    Status,
    /// Past decisions, newest first
    ///
    /// Example: tidegate control history --queue email --limit 50
    #[command(verbatim_doc_comment)]
    History {
        /// Of one queue
        #[arg(long, value_name = "NAME")]
        queue: Option<String>,
        /// Not older than this, e.g. 2h
        #[arg(long, value_name = "DURATION", value_parser = crate::time::duration)]
        since: Option<Duration>,
        /// Decisions at most
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
    /// Decisions as they are made, until it is interrupted
    ///
    /// Example: tidegate control watch email -o json
    #[command(verbatim_doc_comment)]
    Watch {
        queue: Option<String>,
        /// End after this many
        #[arg(long, value_name = "N")]
        count: Option<usize>,
    },
    /// Decide every recorded tick again and compare: the same inputs must give the same decisions, byte for byte
    ///
    /// Reads the ledger itself, beside the controller that has it open. Exit code 1: something differs.
    ///
    /// Example: tidegate control replay --ledger sqlite:./.tidegate/ledger.db
    #[command(verbatim_doc_comment)]
    Replay {
        /// sqlite:PATH or postgres://...
        #[arg(long, value_name = "URL", default_value = "sqlite:./.tidegate/ledger.db")]
        ledger: String,
        /// Not the leaderships before this one
        #[arg(long, value_name = "EPOCH", default_value_t = 0)]
        from_epoch: u64,
    },
    /// Go on with the job store as it is, though it came back with less than it had acknowledged
    ///
    /// Until then routers take no submits and grant nothing; jobs that were lost with the store stay lost.
    ///
    /// Example: tidegate control accept-store --yes --why "restored the backup of 3 am"
    #[command(verbatim_doc_comment)]
    AcceptStore {
        /// Do it
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        note: Note,
    },
    /// Why a queue runs as much as it does
    ///
    /// Example: tidegate control why email
    #[command(verbatim_doc_comment)]
    Why { queue: String },
    /// What is said about queues
    ///
    /// Example: tidegate control policy apply policies.toml
    #[command(subcommand, verbatim_doc_comment)]
    Policy(PolicyCommand),
    /// What queues share
    ///
    /// Example: tidegate control resource list
    #[command(subcommand, verbatim_doc_comment)]
    Resource(ResourceCommand),
    /// Stop every change of caps and targets, of one queue or of all
    ///
    /// Example: tidegate control freeze email --why "deploy of pg-main"
    #[command(verbatim_doc_comment)]
    Freeze {
        queue: Option<String>,
        #[command(flatten)]
        note: Note,
    },
    /// Allow changes again
    ///
    /// Example: tidegate control unfreeze email
    #[command(verbatim_doc_comment)]
    Unfreeze {
        queue: Option<String>,
        #[command(flatten)]
        note: Note,
    },
    /// Replace a queue's demand for a time; never the budget
    ///
    /// Example: tidegate control pin email 12 --for 30m
    #[command(verbatim_doc_comment)]
    Pin {
        queue: String,
        value: u32,
        /// How long
        #[arg(long = "for", value_name = "DURATION", value_parser = crate::time::duration, default_value = "1h")]
        lasts: Duration,
        #[command(flatten)]
        note: Note,
    },
    /// Decide by the signals again
    ///
    /// Example: tidegate control unpin email
    #[command(verbatim_doc_comment)]
    Unpin {
        queue: String,
        #[command(flatten)]
        note: Note,
    },
}

#[derive(Subcommand)]
enum PolicyCommand {
    /// One queue's policy, or every one
    ///
    /// Example: tidegate control policy get email -o json
    #[command(verbatim_doc_comment)]
    Get { queue: Option<String> },
    /// Apply every queue of a file, after the resources in it; ends at the first that is refused
    ///
    /// Example: tidegate control policy apply policies.toml --why "more for email"
    #[command(verbatim_doc_comment)]
    Apply(Apply),
}

#[derive(Subcommand)]
enum ResourceCommand {
    /// Every resource with what is in use
    ///
    /// Example: tidegate control resource list -o json
    #[command(verbatim_doc_comment)]
    List,
    /// Apply every resource of a file, and no queue
    ///
    /// Example: tidegate control resource apply policies.toml
    #[command(verbatim_doc_comment)]
    Apply(Apply),
}

#[derive(clap::Args)]
struct Apply {
    /// A TOML file with [queues.NAME] and [resources.NAME]
    file: PathBuf,
    /// Check, change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    note: Note,
}

/// Kept with the change.
#[derive(clap::Args)]
struct Note {
    /// Why
    #[arg(long, default_value = "")]
    why: String,
    /// Who
    #[arg(long, env = "USER", default_value = "")]
    who: String,
}

pub async fn run(common: &Common, args: ControlArgs) -> anyhow::Result<()> {
    if let ControlCommand::Replay { ledger, from_epoch } = args.command {
        return replay::run(common, &ledger, from_epoch).await;
    }
    let mut client = Controller::of(&args.controller).await?;
    match args.command {
        ControlCommand::Status => show::status(common, &mut client).await,
        ControlCommand::History { queue, since, limit } => {
            show::history(common, &mut client, (queue, since), limit).await
        }
        ControlCommand::Watch { queue, count } => show::watch(common, &mut client, queue, count).await,
        ControlCommand::Replay { .. } => Ok(()),
        ControlCommand::AcceptStore { yes: false, .. } => {
            let message = "what the store lost stays lost: add --yes";
            Err(Usage(message.into()).into())
        }
        ControlCommand::AcceptStore { note, .. } => act::accept_store(common, &mut client, note).await,
        ControlCommand::Why { queue } => show::why(common, &mut client, queue).await,
        ControlCommand::Policy(PolicyCommand::Get { queue }) => {
            show::policies(common, &mut client, queue).await
        }
        ControlCommand::Policy(PolicyCommand::Apply(apply)) => {
            act::apply(common, &mut client, apply, true).await
        }
        ControlCommand::Resource(ResourceCommand::List) => show::resources(common, &mut client).await,
        ControlCommand::Resource(ResourceCommand::Apply(apply)) => {
            act::apply(common, &mut client, apply, false).await
        }
        ControlCommand::Freeze { queue, note } => act::freeze(common, &mut client, queue, note).await,
        ControlCommand::Unfreeze { queue, note } => act::unfreeze(common, &mut client, queue, note).await,
        ControlCommand::Pin {
            queue,
            value,
            lasts,
            note,
        } => act::pin(common, &mut client, (queue, value, lasts), note).await,
        ControlCommand::Unpin { queue, note } => act::unpin(common, &mut client, queue, note).await,
    }
}

/// One controller; calls have a deadline and their errors are the client library's.
pub(crate) struct Controller {
    client: TuningServiceClient<Channel>,
}

impl Controller {
    /// Of several the one that leads, or else the last one that answers: it says what is wrong.
    pub(crate) async fn of(urls: &[String]) -> Result<Self, ClientError> {
        let mut last = None;
        for url in urls {
            let mut one = Self::new(url)?;
            if urls.len() == 1 {
                return Ok(one);
            }
            match one.fleet().await {
                Ok(fleet) if fleet.leader => return Ok(one),
                Ok(_) => last = Some(Ok(one)),
                Err(error) => last = last.or(Some(Err(error))),
            }
        }
        last.unwrap_or_else(|| Self::new("http://127.0.0.1:7601"))
    }

    pub(crate) fn new(url: &str) -> Result<Self, ClientError> {
        let channel = endpoint(url)?.connect_lazy();
        let client = TuningServiceClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Ok(Self { client })
    }

    fn request<T>(message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request.set_timeout(CALL_MAX);
        request
    }

    /// Why a job that is ready does not run yet.
    pub(crate) async fn why_waiting(&mut self, job_id: String) -> Result<String, ClientError> {
        let request = v1::ExplainRequest {
            subject: Some(v1::explain_request::Subject::JobId(job_id)),
        };
        let answer = self.client.explain(Self::request(request)).await?;
        Ok(answer.into_inner().text)
    }

    async fn fleet(&mut self) -> Result<v1::GetFleetResponse, ClientError> {
        let answer = self
            .client
            .get_fleet(Self::request(v1::GetFleetRequest {}))
            .await?;
        Ok(answer.into_inner())
    }
}
