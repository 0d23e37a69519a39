//! One of each service, attached to each other.

use tidegate_tests::{
    App, Controller, ControllerOptions, Redis, RedisOptions, Router, RouterOptions, Sandbox, WorkerOptions,
    WorkerProc,
};

pub const POLICIES: &str = "[resources.pg-main]\ncapacity = 20\nheadroom = 0.7\n\
    [queues.email]\nmax = 8\ncosts = { pg-main = 1 }\n\
    [queues.full]\nmax_depth = 1\n[queues.doomed]\nlease_ttl = \"2s\"\n\
    [queues.email.retry]\nbackoff_base = \"50ms\"\nbackoff_max = \"50ms\"\n";

pub struct Fleet {
    pub router: Router,
    pub controller: Controller,
    pub worker: WorkerProc,
    /// Ends what it started when it is dropped: last.
    pub sandbox: Sandbox,
}

impl Fleet {
    /// Queue `email`, at most 8 at a time, on a Redis; attempts that fail are tried again soon.
    pub async fn start(app: &App, env: &[(String, String)]) -> Self {
        let sandbox = Sandbox::new();
        let store = Redis::start(&sandbox, RedisOptions::default()).await.url();
        Self::on(sandbox, &store, app, env).await
    }

    pub async fn on(sandbox: Sandbox, store: &str, app: &App, env: &[(String, String)]) -> Self {
        let options = ControllerOptions {
            policies: Some(POLICIES.to_owned()),
            config: Some("[controller]\ntick = \"500ms\"\n".to_owned()),
            env: env.to_vec(),
            ..ControllerOptions::default()
        };
        let controller = Controller::start(&sandbox, options).await;
        let attach = vec!["--controller".to_owned(), controller.grpc_url()];
        let options = RouterOptions {
            args: attach.clone(),
            env: env.to_vec(),
            ..RouterOptions::default()
        };
        let router = Router::start(&sandbox, store, options).await;
        let options = WorkerOptions {
            args: attach,
            env: env.to_vec(),
            ..WorkerOptions::default()
        };
        let worker = WorkerProc::start(&sandbox, &[router.grpc_url()], &app.url(), &["email"], options).await;
        Self {
            router,
            controller,
            worker,
            sandbox,
        }
    }

    pub fn routers(&self) -> Vec<String> {
        vec![self.router.grpc_url()]
    }

    /// (service, its metrics page)
    pub async fn pages(&self) -> [(&'static str, String); 3] {
        [
            ("router", self.router.metrics().await),
            ("controller", self.controller.metrics().await),
            ("worker", self.worker.metrics().await),
        ]
    }
}
