//! One lane: its processes, and what they say.

use std::sync::{Arc, Mutex};

use anyhow::Context;
use tidegate_client::{Client, QueueView};
use tidegate_protocol::v1::{Decision, GetFleetRequest, tuning_service_client::TuningServiceClient};

use super::{
    FIXED, QUEUES,
    app::KneeApp,
    load::{Clock, Plan},
};
use crate::{Controller, ControllerOptions, Router, RouterOptions, Sandbox, WorkerOptions, WorkerProc};

/// Slots of an adaptive worker: a ceiling, the controller says how many run.
const SLOTS: u32 = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Fixed,
    Adaptive,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Fixed => "fixed",
            Kind::Adaptive => "adaptive",
        }
    }
}

pub struct Lane {
    pub kind: Kind,
    pub client: Client,
    pub app: KneeApp,
    controller: Option<Controller>,
    _router: Router,
    _workers: Vec<WorkerProc>,
    /// Last seen target of each queue, and how often it changed.
    targets: Mutex<([u32; QUEUES.len()], u64)>,
}

/// A queue at one moment.
#[derive(Default)]
pub struct QueueLook {
    pub waiting: u64,
    pub running: u64,
    pub target: u32,
    pub p99_ms: Option<f64>,
    pub errors: u64,
    pub reason: String,
}

/// A lane at one moment.
pub struct Look {
    pub kind: Kind,
    pub in_flight: u32,
    pub queues: Vec<QueueLook>,
}

impl Look {
    /// Jobs that have not come to their end.
    pub fn open(&self) -> u64 {
        self.queues
            .iter()
            .map(|queue| queue.waiting + queue.running)
            .sum()
    }
}

impl Lane {
    pub async fn start(
        sandbox: &Sandbox,
        kind: Kind,
        store: Option<String>,
        plan: Arc<Plan>,
        clock: Clock,
    ) -> anyhow::Result<Self> {
        let app = KneeApp::start(plan, clock).await?;
        let file = || {
            format!(
                "sqlite:{}",
                sandbox.path().join(format!("{}.db", kind.name())).display()
            )
        };
        let store = store.unwrap_or_else(file);
        let controller = match kind {
            Kind::Fixed => None,
            Kind::Adaptive => Some(Controller::start(sandbox, options()).await),
        };
        let attach: Vec<String> = controller
            .iter()
            .flat_map(|controller| ["--controller".to_owned(), controller.grpc_url()])
            .collect();
        let router = RouterOptions {
            args: attach.clone(),
            ..RouterOptions::default()
        };
        let router = Router::start(sandbox, &store, router).await;
        let client = Client::connect([router.grpc_url()])?;
        let mut workers = Vec::new();
        for queue in &QUEUES {
            if let Ok(old) = client.get_queue(queue.name).await {
                anyhow::ensure!(
                    old.submitted_total == 0,
                    "the store has jobs already: use an empty database"
                );
            }
            let slots = Some(if kind == Kind::Fixed { FIXED } else { SLOTS });
            let options = WorkerOptions {
                slots,
                args: attach.clone(),
                ..WorkerOptions::default()
            };
            workers.push(
                WorkerProc::start(sandbox, &[router.grpc_url()], &app.url, &[queue.name], options).await,
            );
        }
        let targets = Mutex::default();
        Ok(Self {
            kind,
            client,
            app,
            controller,
            _router: router,
            _workers: workers,
            targets,
        })
    }

    pub async fn look(&self) -> Look {
        let mut queues = Vec::new();
        for (i, queue) in QUEUES.iter().enumerate() {
            let view = self.client.get_queue(queue.name).await.ok();
            queues.push(self.queue(i, view));
        }
        if let Some(controller) = &self.controller
            && let Ok(decisions) = decisions(&controller.grpc_url()).await
        {
            self.note(&mut queues, decisions);
        }
        let in_flight = self
            .app
            .counts
            .in_flight
            .load(std::sync::atomic::Ordering::Relaxed);
        Look {
            kind: self.kind,
            in_flight,
            queues,
        }
    }

    fn queue(&self, i: usize, view: Option<QueueView>) -> QueueLook {
        let counts = &self.app.counts;
        let view = view.as_ref();
        QueueLook {
            waiting: view.map_or(0, |view| view.ready + view.scheduled),
            running: view.map_or(0, |view| view.running),
            target: FIXED,
            p99_ms: counts.latency(Some(i), 200, 0.99),
            errors: counts.errors[i].load(std::sync::atomic::Ordering::Relaxed),
            reason: String::new(),
        }
    }

    fn note(&self, queues: &mut [QueueLook], decisions: Vec<Decision>) {
        let mut targets = self.targets.lock().expect("nothing panics under this lock");
        for (i, queue) in QUEUES.iter().enumerate() {
            let Some(decision) = decisions.iter().find(|decision| decision.queue == queue.name) else {
                continue;
            };
            if targets.0[i] != decision.target {
                targets.0[i] = decision.target;
                targets.1 += 1;
            }
            queues[i].target = decision.target;
            queues[i].reason.clone_from(&decision.reason);
        }
    }

    /// How often a target was seen to change; the first ones are no change.
    pub fn target_changes(&self) -> u64 {
        let first = if self.kind == Kind::Fixed {
            0
        } else {
            QUEUES.len() as u64
        };
        self.targets
            .lock()
            .expect("nothing panics under this lock")
            .1
            .saturating_sub(first)
    }

    pub async fn queue_views(&self) -> anyhow::Result<Vec<QueueView>> {
        let mut views = Vec::new();
        for queue in &QUEUES {
            let view = self.client.get_queue(queue.name).await;
            views.push(
                view.with_context(|| format!("the {} lane's router does not answer", self.kind.name()))?,
            );
        }
        Ok(views)
    }
}

fn options() -> ControllerOptions {
    // A tick of a second for show; five are the default.
    ControllerOptions {
        config: Some("[controller]\ntick = \"1s\"\n".to_owned()),
        ..ControllerOptions::default()
    }
}

async fn decisions(controller: &str) -> anyhow::Result<Vec<Decision>> {
    let mut client = TuningServiceClient::connect(controller.to_owned()).await?;
    Ok(client.get_fleet(GetFleetRequest {}).await?.into_inner().decisions)
}
