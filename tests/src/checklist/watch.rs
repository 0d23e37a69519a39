//! What the fleet is doing, ten times a second.

use std::{sync::Arc, time::Instant};

use sqlx::{Connection, PgConnection};
use tidegate_client::Client;
use tidegate_protocol::v1::{GetFleetRequest, tuning_service_client::TuningServiceClient};
use tokio::sync::Mutex;
use tonic::transport::Endpoint;

use super::{app::MARK, ground::Ground, plan::Kind};
use crate::sampler::{Sampler, Samples};

/// Sessions that are inside one of our statements, as the server knows, but for the one that asks.
const AT_WORK: &str = "SELECT count(*) FROM pg_stat_activity \
    WHERE state = 'active' AND pid <> pg_backend_pid() AND query LIKE 'SELECT pg_sleep(%' AND query LIKE $1";

/// One moment.
#[derive(Clone, Debug, Default)]
pub struct Look {
    pub queues: [QueueLook; Kind::ALL.len()],
    /// `None`: the server did not say.
    pub at_work: Option<u32>,
}

#[derive(Clone, Debug, Default)]
pub struct QueueLook {
    pub waiting: u64,
    pub running: u64,
    pub cap: Option<u32>,
    pub target: u32,
    pub reason: String,
}

pub struct Watch {
    sampler: Sampler<Look>,
    start: Instant,
}

/// Looks in order of time, since `start`.
pub struct Seen {
    pub start: Instant,
    pub looks: Samples<Look>,
}

impl Watch {
    /// # Errors
    /// An address that is none.
    pub fn start(ground: &Ground<'_>) -> anyhow::Result<Self> {
        let client = Client::connect(ground.routers().to_vec())?;
        let controller = Endpoint::from_shared(ground.controller().to_owned())?.connect_lazy();
        let tuning = TuningServiceClient::new(controller);
        let (url, session) = (ground.server().to_owned(), Arc::new(Mutex::new(None)));
        let start = Instant::now();
        let sampler = Sampler::start("the fleet", move || {
            let (client, mut tuning) = (client.clone(), tuning.clone());
            let (url, session) = (url.clone(), session.clone());
            async move {
                let fleet = tuning.get_fleet(GetFleetRequest {}).await.ok()?.into_inner();
                let mut look = Look {
                    at_work: at_work(&url, &session).await,
                    ..Look::default()
                };
                for (seen, kind) in look.queues.iter_mut().zip(Kind::ALL) {
                    let queue = client.get_queue(kind.queue()).await.ok()?;
                    seen.waiting = queue.ready + queue.scheduled;
                    seen.running = queue.running;
                    seen.cap = queue.effective_cap;
                    let decision = fleet
                        .decisions
                        .iter()
                        .find(|decision| decision.queue == kind.queue());
                    if let Some(decision) = decision {
                        seen.target = decision.target;
                        seen.reason.clone_from(&decision.reason);
                    }
                }
                Some(look)
            }
        });
        Ok(Self { sampler, start })
    }

    pub async fn stop(self) -> Seen {
        Seen {
            start: self.start,
            looks: self.sampler.stop().await,
        }
    }
}

/// Over one session, made anew when it has broken.
async fn at_work(url: &str, session: &Mutex<Option<PgConnection>>) -> Option<u32> {
    let mut session = session.lock().await;
    if session.is_none() {
        *session = PgConnection::connect(url).await.ok();
    }
    let connection = session.as_mut()?;
    let count = sqlx::query_scalar::<_, i64>(AT_WORK).bind(format!("%{MARK}%"));
    match count.fetch_one(connection).await {
        Ok(count) => u32::try_from(count).ok(),
        Err(_) => {
            *session = None;
            None
        }
    }
}
