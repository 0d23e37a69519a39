//! The router's settings: section `[router]` of the configuration file, `TIDEGATE_ROUTER__*`, and flags.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tidegate_chassis::{
    config::{ConfigError, Loaded, Loader, Secret},
    serve::Limits,
};
use tidegate_store::OpenOptions;

/// What one router needs to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RouterConfig {
    /// Where producers, operators and workers connect.
    pub listen: SocketAddr,
    /// The operator's port: `/metrics`, `/healthz`, `/readyz`.
    pub metrics_listen: SocketAddr,
    /// `redis://HOST:PORT/DB`, `sqlite:PATH` or `memory:`. A secret, because it may hold a password.
    pub store: Secret,
    /// Replicas of Redis that must have a change before it is acknowledged; 0: the server's own word is enough.
    pub min_replica_acks: u32,
    /// Controllers of one group; one is used at a time. Empty: policies and caps stay as the store has them.
    pub controllers: Vec<String>,
    /// Serves gRPC reflection, so that grpcurl needs no files.
    pub reflection: bool,
    /// A TOML file of queue policies, written to the store at start.
    pub policies: Option<PathBuf>,
    /// How long calls and workers may take to end once the router is told to stop.
    #[serde(with = "tidegate_chassis::config::duration")]
    pub drain_timeout: Duration,
    /// From NOT_SERVING to closing the listener: what a load balancer needs to notice.
    #[serde(with = "tidegate_chassis::config::duration")]
    pub drain_notice: Duration,
    /// Connections at once; more are closed as they come.
    pub connections_max: usize,
    /// Connections at once from one address; raise it where many clients come through one balancer.
    pub connections_per_ip_max: usize,
    /// How it calls itself to workers; empty: a random name.
    pub name: String,
}

impl Default for RouterConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7600)),
            metrics_listen: SocketAddr::from(([127, 0, 0, 1], 9464)),
            store: "sqlite:./.tidegate/jobs.db".into(),
            min_replica_acks: 0,
            controllers: Vec::new(),
            reflection: false,
            policies: None,
            drain_timeout: Duration::from_secs(20),
            drain_notice: Duration::ZERO,
            connections_max: Limits::default().connections_max,
            connections_per_ip_max: Limits::default().connections_per_ip_max,
            name: String::new(),
        }
    }
}

impl RouterConfig {
    /// Defaults < file < `TIDEGATE_ROUTER__*` < `REDIS_URL` < flags.
    pub fn load(args: &RouterArgs) -> Result<Loaded<RouterFile>, ConfigError> {
        Loader::from_process()
            .standard_env(&[("REDIS_URL", "router.store")])
            .load(args.config.as_deref(), args.overrides())
    }

    /// How the store is opened.
    pub fn store_options(&self) -> OpenOptions {
        OpenOptions {
            min_replica_acks: self.min_replica_acks,
        }
    }
}

/// The file as a router reads it. The sections of other roles may stand in the same file; they are theirs to check.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RouterFile {
    pub router: RouterConfig,
    worker: Value,
    controller: Value,
    client: Value,
    dev: Value,
}

/// Flags of `tidegate router` and `tidegate-router`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct RouterArgs {
    /// Address for producers, operators and workers [default: 127.0.0.1:7600]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// Address of the operator's port: /metrics, /healthz, /readyz [default: 127.0.0.1:9464]
    #[arg(long, value_name = "ADDR")]
    pub metrics_listen: Option<SocketAddr>,
    /// Job store: redis://HOST:PORT/DB, sqlite:PATH or memory: [default: sqlite:./.tidegate/jobs.db]
    #[arg(long, value_name = "URL")]
    pub store: Option<String>,
    /// Replicas of Redis that must have a change before it is acknowledged [default: 0]
    #[arg(long, value_name = "N")]
    pub min_replica_acks: Option<u32>,
    /// Controller that sets policies and caps; give it once for each [default: none]
    #[arg(long = "controller", value_name = "URL")]
    pub controllers: Vec<String>,
    /// TOML file of queue policies, written to the store at start
    #[arg(long, value_name = "FILE")]
    pub policies: Option<PathBuf>,
    /// Configuration file [default: ./tidegate.toml, then /etc/tidegate/tidegate.toml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Serve gRPC reflection
    #[arg(long)]
    pub reflection: bool,
}

impl RouterArgs {
    /// What was given; null is "not given".
    fn overrides(&self) -> Value {
        let controllers = (!self.controllers.is_empty()).then(|| self.controllers.clone());
        json!({ "router": {
            "controllers": controllers,
            "listen": self.listen,
            "metrics_listen": self.metrics_listen,
            "min_replica_acks": self.min_replica_acks,
            "store": self.store,
            "policies": self.policies,
            "reflection": self.reflection.then_some(true),
        } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(env: &[(&str, &str)], args: &RouterArgs) -> Result<RouterConfig, ConfigError> {
        let loader = Loader::from_env(env.iter().copied()).standard_env(&[("REDIS_URL", "router.store")]);
        loader
            .load::<RouterFile>(args.config.as_deref(), args.overrides())
            .map(|loaded| loaded.value.router)
    }

    #[test]
    fn flags_win_over_the_environment_and_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tidegate.toml");
        std::fs::write(
            &file,
            "[router]\ndrain_timeout = \"7s\"\nname = \"file\"\n[worker]\nslots = 3\n",
        )
        .unwrap();
        let args = RouterArgs {
            config: Some(file),
            store: Some("memory:".into()),
            controllers: vec!["http://c:7601".into()],
            ..Default::default()
        };
        let env = [
            ("TIDEGATE_ROUTER__NAME", "env"),
            ("REDIS_URL", "redis://:secret@host/1"),
        ];
        let config = load(&env, &args).unwrap();
        assert_eq!((config.name.as_str(), config.store.expose()), ("env", "memory:"));
        assert_eq!(config.drain_timeout, Duration::from_secs(7));
        assert_eq!(config.controllers, ["http://c:7601"]);
        let config = load(&env, &RouterArgs::default()).unwrap();
        assert_eq!(config.store.expose(), "redis://:secret@host/1");
        assert!(!format!("{config:?}").contains("secret@"));
    }

    #[test]
    fn a_misspelt_key_is_refused_with_the_right_one() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tidegate.toml");
        std::fs::write(&file, "[router]\ndrain_timout = \"7s\"\n").unwrap();
        let args = RouterArgs {
            config: Some(file),
            ..Default::default()
        };
        let error = load(&[], &args).unwrap_err().to_string();
        assert!(error.contains("did you mean `router.drain_timeout`"), "{error}");
    }
}
