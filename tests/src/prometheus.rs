//! A real Prometheus that scrapes what a test started, with the rules of `deploy/`.

use crate::process::Process;
use crate::roles::http_get;
use crate::sandbox::{Sandbox, free_address};
use crate::wait::{START_TIMEOUT, eventually};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// One series of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

pub struct Prometheus {
    pub process: Process,
    url: String,
}

impl Prometheus {
    /// Scrapes (job, address) each second and evaluates the rules of the repository.
    pub async fn start(sandbox: &Sandbox, targets: &[(&str, String)]) -> Self {
        let rules = deploy("prometheus/rules.yml");
        let mut config = format!(
            "global:\n  scrape_interval: 1s\n  evaluation_interval: 1s\nrule_files: [\"{}\"]\nscrape_configs:\n",
            rules.display()
        );
        let mut jobs: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (job, address) in targets {
            let address = address.trim_start_matches("http://").trim_end_matches('/');
            jobs.entry(job).or_default().push(address);
        }
        for (job, addresses) in jobs {
            let _ = writeln!(
                config,
                "  - job_name: {job}\n    static_configs: [{{ targets: {addresses:?} }}]"
            );
        }
        let config = sandbox.write("prometheus.yml", &config);
        let listen = free_address();
        let mut command = Command::new("prometheus");
        command.args([
            "--config.file",
            &config,
            "--web.listen-address",
            &listen,
            "--storage.tsdb.path",
            &sandbox.path().join("prometheus").display().to_string(),
            "--enable-feature=exemplar-storage",
        ]);
        let process = Process::start(sandbox, command);
        process
            .wait_for_line("Server is ready to receive web requests", START_TIMEOUT)
            .await;
        Self {
            process,
            url: format!("http://{listen}"),
        }
    }

    /// What an expression gives now. An expression that cannot be evaluated panics with what Prometheus says of it.
    pub async fn query(&self, expression: &str) -> Vec<Sample> {
        let answer = self
            .get(&format!("/api/v1/query?query={}", encoded(expression)))
            .await;
        assert_eq!(answer["status"], "success", "{expression}: {answer}");
        let data = &answer["data"];
        if data["resultType"] == "scalar" {
            return vec![sample(
                &serde_json::json!({"metric": {}, "value": data["result"]}),
            )];
        }
        let samples = data["result"]
            .as_array()
            .map(|all| all.iter().map(sample).collect());
        samples.unwrap_or_default()
    }

    /// Labels of the exemplars of a series, of the last hour.
    pub async fn exemplars(&self, series: &str) -> Vec<BTreeMap<String, String>> {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .expect("after 1970");
        let (start, end) = (now.as_secs() - 3_600, now.as_secs() + 60);
        let query = encoded(series);
        let answer = self
            .get(&format!(
                "/api/v1/query_exemplars?query={query}&start={start}&end={end}"
            ))
            .await;
        let all = answer["data"].as_array().cloned().unwrap_or_default();
        let exemplars = all
            .iter()
            .filter_map(|series| series["exemplars"].as_array())
            .flatten();
        let labels = exemplars.filter_map(|exemplar| exemplar["labels"].as_object());
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        labels
            .map(|labels| {
                labels
                    .iter()
                    .map(|(name, value)| (name.clone(), text(value)))
                    .collect()
            })
            .collect()
    }

    /// Alerts that are pending or firing: (name, state).
    pub async fn alerts(&self) -> Vec<(String, String)> {
        let answer = self.get("/api/v1/alerts").await;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let alerts = answer["data"]["alerts"].as_array().cloned().unwrap_or_default();
        let pair = |alert: &Value| (text(&alert["labels"]["alertname"]), text(&alert["state"]));
        alerts.iter().map(pair).collect()
    }

    /// Waits until every target was scraped without an error.
    pub async fn wait_for_targets(&self, count: usize) {
        eventually(START_TIMEOUT, format!("{count} targets up"), async || {
            (self.query("up == 1").await.len() == count).then_some(())
        })
        .await;
    }

    async fn get(&self, path: &str) -> Value {
        let (_, body) = http_get(&self.url, path).await;
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"))
    }
}

fn sample(value: &Value) -> Sample {
    let labels = value["metric"].as_object().into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Sample {
        labels: labels.map(|(name, value)| (name.clone(), text(value))).collect(),
        value: value["value"][1]
            .as_str()
            .and_then(|text| text.parse().ok())
            .unwrap_or(f64::NAN),
    }
}

fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    let mut out = String::new();
    for byte in text.bytes() {
        match plain(byte) {
            true => out.push(byte as char),
            false => drop(write!(out, "%{byte:02X}")),
        }
    }
    out
}

/// A file of the repository's `deploy/`.
pub fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(path)
}

/// Runs `promtool` in `deploy/prometheus` with `input` on its stdin; answers what it prints, or panics with it.
pub fn promtool(args: &[&str], input: &str) -> String {
    let mut command = Command::new("promtool");
    command
        .args(args)
        .current_dir(deploy("prometheus"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| {
        panic!("promtool: {error}; `cargo xtask test` installs it (Debian: prometheus)")
    });
    let mut stdin = child.stdin.take().expect("it is piped");
    // Small enough for the pipe, or read as it is written.
    stdin.write_all(input.as_bytes()).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success(), "promtool {args:?}:\n{text}");
    text
}
