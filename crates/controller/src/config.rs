//! The controller's settings: section `[controller]` of the configuration file, `TIDEGATE_CONTROLLER__*`, and flags.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tidegate_chassis::config::{ConfigError, Loaded, Loader, Secret, duration};

/// Shorter turns would judge noise; longer ones would outlive the nodes' patience with their orders.
const TICK_MIN: Duration = Duration::from_millis(50);
const TICK_MAX: Duration = Duration::from_secs(60);

/// What one controller needs to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ControllerConfig {
    /// Where routers, workers and operators connect.
    pub listen: SocketAddr,
    /// The operator's port: `/metrics`, `/healthz`, `/readyz`.
    pub metrics_listen: SocketAddr,
    /// How often it decides.
    #[serde(with = "duration")]
    pub tick: Duration,
    /// A TOML file of policies and resources to start with; later changes are made by calls.
    pub policies: Option<PathBuf>,
    /// What outlives it: `sqlite:PATH`, `postgres://USER@HOST/DATABASE` for several controllers, or `memory:`. A secret,
    /// because it may hold a password.
    pub ledger: Secret,
    /// Where others reach it, as a standby names the leader; empty: the address it listens on.
    pub advertise: String,
    /// How it calls itself to nodes; empty: a random name.
    pub name: String,
    /// Serves gRPC reflection, so that grpcurl needs no files.
    pub reflection: bool,
    /// How long calls may take to end once the controller is told to stop.
    #[serde(with = "duration")]
    pub drain_timeout: Duration,
    /// Nobody else can lead, because the whole fleet is this process.
    #[serde(skip)]
    pub alone: bool,
    /// The policies file is the place to edit: at each start it wins over the ledger.
    #[serde(skip)]
    pub policies_win: bool,
}

impl Default for ControllerConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7601)),
            metrics_listen: SocketAddr::from(([127, 0, 0, 1], 9465)),
            tick: Duration::from_secs(5),
            policies: None,
            ledger: "sqlite:./.tidegate/ledger.db".into(),
            advertise: String::new(),
            name: String::new(),
            reflection: false,
            drain_timeout: Duration::from_secs(5),
            alone: false,
            policies_win: false,
        }
    }
}

impl ControllerConfig {
    /// Defaults < file < `TIDEGATE_CONTROLLER__*` < flags.
    ///
    /// # Errors
    /// Any [`ConfigError`]; nothing is half-loaded.
    pub fn load(args: &ControllerArgs) -> Result<Loaded<ControllerFile>, ConfigError> {
        Loader::from_process()
            .standard_env(&[("DATABASE_URL", "controller.ledger")])
            .load(args.config.as_deref(), args.overrides())
    }

    /// What the types cannot say.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.tick < TICK_MIN || self.tick > TICK_MAX {
            return Err(format!(
                "controller.tick: {} is outside {} to {}",
                duration::format(self.tick),
                duration::format(TICK_MIN),
                duration::format(TICK_MAX)
            ));
        }
        Ok(())
    }
}

/// The file as a controller reads it. The sections of other roles may stand in the same file; they are theirs to check.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ControllerFile {
    pub controller: ControllerConfig,
    router: Value,
    worker: Value,
    client: Value,
    dev: Value,
}

/// Flags of `tidegate controller` and `tidegate-controller`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ControllerArgs {
    /// Address for routers, workers and operators [default: 127.0.0.1:7601]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// Address of the operator's port: /metrics, /healthz, /readyz [default: 127.0.0.1:9465]
    #[arg(long, value_name = "ADDR")]
    pub metrics_listen: Option<SocketAddr>,
    /// How often it decides, e.g. 1s [default: 5s]
    #[arg(long, value_name = "DURATION")]
    pub tick: Option<String>,
    /// TOML file of policies and resources to start with
    #[arg(long, value_name = "FILE")]
    pub policies: Option<PathBuf>,
    /// What outlives it: sqlite:PATH, postgres://... for several controllers, or memory: [default: sqlite:./.tidegate/ledger.db]
    #[arg(long, value_name = "URL")]
    pub ledger: Option<String>,
    /// Where others reach it, as a standby names the leader [default: the address it listens on]
    #[arg(long, value_name = "URL")]
    pub advertise: Option<String>,
    /// How it calls itself to nodes [default: a random name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Configuration file [default: ./tidegate.toml, then /etc/tidegate/tidegate.toml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Serve gRPC reflection
    #[arg(long)]
    pub reflection: bool,
}

impl ControllerArgs {
    /// What was given; null is "not given".
    fn overrides(&self) -> Value {
        json!({ "controller": {
            "listen": self.listen,
            "metrics_listen": self.metrics_listen,
            "tick": self.tick,
            "policies": self.policies,
            "ledger": self.ledger,
            "advertise": self.advertise,
            "name": self.name,
            "reflection": self.reflection.then_some(true),
        } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(env: &[(&str, &str)], args: &ControllerArgs) -> Result<ControllerConfig, ConfigError> {
        Loader::from_env(env.iter().copied())
            .load::<ControllerFile>(args.config.as_deref(), args.overrides())
            .map(|loaded| loaded.value.controller)
    }

    #[test]
    fn flags_win_over_the_environment_and_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tidegate.toml");
        std::fs::write(
            &file,
            "[controller]\ntick = \"1s\"\nname = \"file\"\n[router]\nstore = \"x\"\n",
        )
        .unwrap();
        let args = ControllerArgs {
            config: Some(file),
            tick: Some("200ms".into()),
            ..ControllerArgs::default()
        };
        let config = load(&[("TIDEGATE_CONTROLLER__NAME", "env")], &args).unwrap();
        assert_eq!(
            (config.name.as_str(), config.tick),
            ("env", Duration::from_millis(200))
        );
        assert_eq!(config.check(), Ok(()));
        let args = ControllerArgs {
            tick: Some("5".into()),
            ..ControllerArgs::default()
        };
        let error = load(&[], &args).unwrap_err().to_string();
        assert!(
            error.contains("controller.tick") && error.contains("\"5s\""),
            "{error}"
        );
    }

    #[test]
    fn a_tick_out_of_range_is_refused() {
        let config = ControllerConfig {
            tick: Duration::from_millis(1),
            ..ControllerConfig::default()
        };
        assert_eq!(
            config.check().unwrap_err(),
            "controller.tick: 1ms is outside 50ms to 1m"
        );
    }
}
