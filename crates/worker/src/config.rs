//! The settings of a worker that delivers jobs to an app or a command: section `[worker]` of the configuration file,
//! `TIDEGATE_WORKER__*`, and flags.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tidegate_chassis::config::{ConfigError, Loaded, Loader, Secret};

use crate::{exec::GRACE_DEFAULT, worker::DRAIN_TIMEOUT_DEFAULT};

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
    /// Where jobs are POSTed. This or `exec.command` is required.
    pub app: String,
    /// How they are POSTed.
    pub http: HttpConfig,
    /// The command that runs them.
    pub exec: ExecConfig,
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
            http: HttpConfig::default(),
            exec: ExecConfig::default(),
            queues: Vec::new(),
            slots: 64,
            metrics_listen: SocketAddr::from(([127, 0, 0, 1], 9466)),
            drain_timeout: DRAIN_TIMEOUT_DEFAULT,
        }
    }
}

/// Section `[worker.http]`: delivery to an HTTP app.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// Names (`app.internal`), addresses and networks (`10.1.0.0/16`) that the worker may connect to although they are
    /// not public; `name:port` for a port below 1024.
    pub allow: Vec<String>,
    /// Webhook secrets (`whsec_...`); each signs every delivery. Empty: not signed.
    pub secrets: Vec<Secret>,
    /// Where calls of apps that answered 202 come in.
    pub callback_listen: SocketAddr,
    /// How apps reach it, e.g. `http://worker-3.internal:9467`. Empty: by its address, if the app is on this machine;
    /// else such calls are not possible.
    pub callback_url: String,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            allow: Vec::new(),
            secrets: Vec::new(),
            callback_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            callback_url: String::new(),
        }
    }
}

/// Section `[worker.exec]`: delivery to a command.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExecConfig {
    /// The program and its arguments, e.g. `["./resize.sh", "--width", "200"]`; no shell is involved.
    pub command: Vec<String>,
    /// Data that a process of it may have; 0: no limit.
    #[serde(with = "tidegate_chassis::config::size")]
    pub memory: u64,
    /// Processor time that a process of it may use; 0: no limit.
    #[serde(with = "tidegate_chassis::config::duration")]
    pub cpu: Duration,
    /// Files that a process of it may have open; 0: no limit.
    pub open_files: u64,
    /// How long before the attempt's time is up it is sent SIGTERM.
    #[serde(with = "tidegate_chassis::config::duration")]
    pub grace: Duration,
}

impl Default for ExecConfig {
    fn default() -> Self {
        Self {
            command: Vec::new(),
            memory: 0,
            cpu: Duration::ZERO,
            open_files: 0,
            grace: GRACE_DEFAULT,
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
    /// Name, address or network that the app may have although it is not public, e.g. app.internal or 10.1.0.0/16; give
    /// it once for each
    #[arg(long = "app-allow", value_name = "HOST|NET")]
    pub app_allow: Vec<String>,
    /// Address for the calls of apps that answered 202 (done later) [default: 127.0.0.1, any port]
    #[arg(long, value_name = "ADDR")]
    pub callback_listen: Option<SocketAddr>,
    /// How the app reaches that address, e.g. http://worker-3.internal:9467 [default: as it is, if the app is on this
    /// machine]
    #[arg(long, value_name = "URL")]
    pub callback_url: Option<String>,
    /// Command that runs a job: payload on standard input, result on standard output, exit code 0 = succeeded,
    /// 75 = retry, 65 = invalid. Takes the rest of the line, so put it last
    #[arg(long, value_name = "CMD ARGS", num_args = 1.., allow_hyphen_values = true)]
    pub exec: Vec<String>,
    /// Data that a process of the command may have, e.g. 512MiB [default: no limit]
    #[arg(long, value_name = "SIZE")]
    pub exec_memory: Option<String>,
    /// Processor time that a process of the command may use, e.g. 60s [default: no limit]
    #[arg(long, value_name = "TIME")]
    pub exec_cpu: Option<String>,
    /// Files that a process of the command may have open [default: no limit]
    #[arg(long, value_name = "N")]
    pub exec_files: Option<u64>,
    /// How long before its time is up the command is sent SIGTERM [default: 5s]
    #[arg(long, value_name = "TIME")]
    pub exec_grace: Option<String>,
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
            "http": {
                "allow": given(&self.app_allow),
                "callback_listen": self.callback_listen,
                "callback_url": self.callback_url,
            },
            "exec": {
                "command": given(&self.exec),
                "memory": self.exec_memory,
                "cpu": self.exec_cpu,
                "open_files": self.exec_files,
                "grace": self.exec_grace,
            },
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
    fn a_command_takes_the_rest_of_the_line() {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            worker: WorkerArgs,
        }
        let line = "worker --queue a --exec-memory 64MiB --exec-cpu 3s --exec ./run.sh --queue b -x";
        let cli: Cli = clap::Parser::try_parse_from(line.split(' ')).expect("it parses");
        let config = load(&[("TIDEGATE_WORKER__EXEC__OPEN_FILES", "99")], &cli.worker).expect("valid");
        let ExecConfig {
            command,
            memory,
            cpu,
            open_files,
            grace,
        } = config.exec;
        assert_eq!(command, ["./run.sh", "--queue", "b", "-x"]);
        assert_eq!((memory, cpu, open_files), (64 << 20, Duration::from_secs(3), 99));
        assert_eq!((config.queues, grace), (vec!["a".to_owned()], GRACE_DEFAULT));
    }

    #[test]
    fn secrets_come_from_a_file_and_are_not_shown() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("secrets");
        std::fs::write(&file, "whsec_b25l\nwhsec_dHdv\n").expect("written");
        let variable = "TIDEGATE_WORKER__HTTP__SECRETS_FILE";
        let env = [(variable, file.to_str().expect("plain"))];
        let loader = Loader::from_env(env);
        let loaded = loader
            .load::<WorkerFile>(None, WorkerArgs::default().overrides())
            .expect("valid");
        let secrets = &loaded.value.worker.http.secrets;
        assert_eq!(secrets[0].expose(), "whsec_b25l\nwhsec_dHdv");
        let shown = format!("{:?} {:?}", loaded.value, loaded.origins());
        assert!(!shown.contains("whsec_"), "{shown}");
    }

    #[test]
    fn a_misspelt_key_is_refused_with_the_right_one() {
        let error = load(&[("TIDEGATE_WORKER__SLOT", "5")], &WorkerArgs::default()).expect_err("misspelt");
        assert!(error.to_string().contains("worker.slots"), "{error}");
    }
}
