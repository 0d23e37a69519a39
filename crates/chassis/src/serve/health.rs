//! gRPC health: `""` and every service follow readiness, `liveness` says that the process runs.

use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::{HealthReporter, HealthService};

use crate::admin::Readiness;

/// The service name a liveness probe asks for.
pub const LIVENESS_SERVICE: &str = "liveness";

/// Changes what health checks answer; cheap to clone.
#[derive(Clone, Debug)]
pub struct HealthHandle {
    reporter: HealthReporter,
}

impl HealthHandle {
    pub(super) fn new() -> Self {
        Self {
            reporter: HealthReporter::new(),
        }
    }

    pub(super) fn service(&self) -> HealthServer<impl Health> {
        HealthServer::new(HealthService::from_health_reporter(self.reporter.clone()))
    }

    /// Sets one service's health, until the next change of readiness sets them all.
    pub async fn set(&self, service: &str, serving: bool) {
        let status = match serving {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        };
        self.reporter.set_service_status(service, status).await;
    }

    /// Copies readiness to health until `shutdown`.
    pub(super) async fn follow(
        &self,
        readiness: &Readiness,
        services: &[&'static str],
        shutdown: &CancellationToken,
    ) {
        self.set(LIVENESS_SERVICE, true).await;
        let mut changes = readiness.watch();
        loop {
            let ready = changes.borrow_and_update().ready;
            self.set_all(services, ready).await;
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                changed = changes.changed() => if changed.is_err() {
                    // Cannot happen while `readiness` lives; without news the last state stands.
                    shutdown.cancelled().await;
                    return;
                },
            }
        }
    }

    pub(super) async fn not_serving(&self, services: &[&'static str]) {
        self.set_all(services, false).await;
    }

    /// Ends the streams of clients that watch; each has received the last status.
    pub(super) async fn end_watches(&self, services: &[&'static str]) {
        let mut reporter = self.reporter.clone();
        for service in services.iter().chain(&["", LIVENESS_SERVICE]) {
            reporter.clear_service_status(service).await;
        }
    }

    async fn set_all(&self, services: &[&'static str], serving: bool) {
        for service in services.iter().chain(&[""]) {
            self.set(service, serving).await;
        }
    }
}
