//! The settings of a worker that delivers jobs to an app: section `[worker]` of the configuration file,
//! `TIDEGATE_WORKER__*`, and flags.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tidegate_chassis::config::{ConfigError, Loaded, Loader};

use crate::worker::DRAIN_TIMEOUT_DEFAULT;

/// What one worker needs to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorkerConfig {
    /// Routers of one job store; one is used at a time.
    pub routers: Vec<String>,
    /// Controllers of one group; one is used at a time. Empty: every queue may use all slots.
    pub controllers: Vec<String>,
    /// How it calls itself to the controller; empty: a random name.
    pub name: String,
    /// Where jobs are POSTed. Required.
    pub app: String,
    /// Queues to serve. Required.
    pub queues: Vec<String>,
    /// Jobs that may run at once over all queues: a ceiling, the controller says how many do.
    pub slots: u32,
    /// The operator's port: `/metrics`, `/healthz`, `/readyz`.
    pub metrics_listen: SocketAddr,
    /// How long running jobs may take to end once the worker is told to stop.
    #[serde(with = "tidegate_chassis::config::duration")]
    pub drain_timeout: Duration,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            routers: vec!["http://127.0.0.1:7600".to_owned()],
            controllers: Vec::new(),
            name: String::new(),
            app: String::new(),
            queues: Vec::new(),
            slots: 64,
            metrics_listen: SocketAddr::from(([127, 0, 0, 1], 9466)),
            drain_timeout: DRAIN_TIMEOUT_DEFAULT,
        }
    }
}

impl WorkerConfig {
    /// Defaults < file < `TIDEGATE_WORKER__*` < flags.
    ///
    /// # Errors
    /// Any [`ConfigError`]; nothing is half-loaded.
    pub fn load(args: &WorkerArgs) -> Result<Loaded<WorkerFile>, ConfigError> {
        Loader::from_process().load(args.config.as_deref(), args.overrides())
    }
}

/// The file as a worker reads it. The sections of other roles may stand in the same file; they are theirs to check.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkerFile {
    pub worker: WorkerConfig,
    router: Value,
    controller: Value,
    client: Value,
    dev: Value,
}

/// Flags of `tidegate worker` and `tidegate-worker`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct WorkerArgs {
    /// Router to take jobs from; give it once for each [default: http://127.0.0.1:7600]
    #[arg(long = "router", value_name = "URL")]
    pub routers: Vec<String>,
    /// Controller that says how many jobs run; give it once for each [default: none, all slots are used]
    #[arg(long = "controller", value_name = "URL")]
    pub controllers: Vec<String>,
    /// Where jobs are POSTed, e.g. http://127.0.0.1:8080/jobs
    #[arg(long, value_name = "URL")]
    pub app: Option<String>,
    /// Queue to serve; give it once for each
    #[arg(long = "queue", value_name = "NAME")]
    pub queues: Vec<String>,
    /// Jobs that may run at once over all queues [default: 64]
    #[arg(long, value_name = "N")]
    pub slots: Option<u32>,
    /// Address of the operator's port: /metrics, /healthz, /readyz [default: 127.0.0.1:9466]
    #[arg(long, value_name = "ADDR")]
    pub metrics_listen: Option<SocketAddr>,
    /// Configuration file [default: ./tidegate.toml, then /etc/tidegate/tidegate.toml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl WorkerArgs {
    /// What was given; null is "not given".
    fn overrides(&self) -> Value {
        let given = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
        json!({ "worker": {
            "routers": given(&self.routers),
            "controllers": given(&self.controllers),
            "app": self.app,
            "queues": given(&self.queues),
            "slots": self.slots,
            "metrics_listen": self.metrics_listen,
        } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(env: &[(&str, &str)], args: &WorkerArgs) -> Result<WorkerConfig, ConfigError> {
        let loader = Loader::from_env(env.iter().copied());
        let loaded = loader.load::<WorkerFile>(args.config.as_deref(), args.overrides())?;
        Ok(loaded.value.worker)
    }

    #[test]
    fn flags_win_over_the_environment_and_the_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("tidegate.toml");
        let text = "[worker]\nqueues = ['a', 'b']\nslots = 3\ndrain_timeout = '7s'\n[router]\nname = 'x'\n";
        std::fs::write(&file, text).expect("written");
        let args = WorkerArgs {
            config: Some(file),
            slots: Some(5),
            controllers: vec!["http://c:7601".to_owned()],
            ..Default::default()
        };
        let config = load(&[("TIDEGATE_WORKER__APP", "http://app/")], &args).expect("valid");
        assert_eq!((config.slots, config.app.as_str()), (5, "http://app/"));
        assert_eq!(
            (config.queues.len(), config.drain_timeout),
            (2, Duration::from_secs(7))
        );
        assert_eq!(config.routers, ["http://127.0.0.1:7600"]);
        assert_eq!(config.controllers, ["http://c:7601"]);
    }

    #[test]
    fn a_misspelt_key_is_refused_with_the_right_one() {
        let error = load(&[("TIDEGATE_WORKER__SLOT", "5")], &WorkerArgs::default()).expect_err("misspelt");
        assert!(error.to_string().contains("worker.slots"), "{error}");
    }
}
