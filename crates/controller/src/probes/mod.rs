//! Asking shared resources how full they are, once a second each.
//!
//! One task keeps a task for every probe that the core wants asked. Each look has a deadline, so a resource that hangs
//! costs its own numbers and nothing else. What the answers are worth is the core's to judge.

mod pgbouncer;
mod postgres;
mod prometheus;

use std::{collections::BTreeMap, error::Error, time::Duration};

use tidegate_chassis::{
    CancellationToken,
    clock::Monotonic,
    config::{Secret, secrets_from_env},
};
use tidegate_protocol::{convert::PROBE_ENV_PREFIX, domain::Probe};
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use self::{pgbouncer::Pgbouncer, postgres::Postgres, prometheus::Prometheus};
use crate::{
    core::{Asked, Reading},
    owner::Handle,
};

/// Enough for a mean over a tick of five seconds, and little for a server.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// For one look, connecting included: a number that comes later is not of now.
const LOOK_MAX: Duration = Duration::from_secs(2);
/// After failures in a row looks are further apart, up to this: nobody is helped by a storm of them.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How soon a changed resource is asked in its new way.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);
/// Of a fault's text.
const FAULT_CHARS_MAX: usize = 300;

/// Why a look gave no reading.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("{0}")]
    Setting(String),
    #[error("cannot ask it: {0}")]
    Connection(String),
    #[error("{0}")]
    Answer(String),
}

impl ProbeError {
    fn connection(error: &dyn Error) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        // Chains are short; the bound is for errors that quote themselves.
        for _ in 0..8 {
            let Some(error) = cause else { break };
            text = format!("{text}: {error}");
            cause = error.source();
        }
        Self::Connection(text.chars().take(FAULT_CHARS_MAX).collect())
    }

    fn sql(error: sqlx::Error) -> Self {
        Self::connection(&error)
    }
}

/// By the variable that holds it; where that ends in `_FILE`, it is the name of the file that does.
pub type Secrets = BTreeMap<String, Secret>;

/// Those that probes may name.
pub fn secrets() -> Secrets {
    secrets_from_env(PROBE_ENV_PREFIX)
}

/// Asks until `stop`.
pub async fn ask(owner: Handle, secrets: Secrets, stop: CancellationToken) {
    let mut running: BTreeMap<String, (Probe, CancellationToken)> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    let mut turns = interval(FOLLOW_EVERY);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(ended) = tasks.join_next() => {
                // One that panicked must not be silent: its resource would be measured by nobody.
                if let Err(error) = ended && error.is_panic() {
                    std::panic::resume_unwind(error.into_panic());
                }
                continue;
            }
            _ = turns.tick() => {}
        }
        let Ok(wanted) = owner.ask(|core, _| core.probes()).await else {
            break;
        };
        running.retain(|name, (probe, end)| {
            let stays = wanted
                .iter()
                .any(|asked| asked.resource == *name && asked.probe == *probe);
            if !stays {
                end.cancel();
            }
            stays
        });
        for asked in wanted {
            if running.contains_key(&asked.resource) {
                continue;
            }
            let end = stop.child_token();
            running.insert(asked.resource.clone(), (asked.probe.clone(), end.clone()));
            let asking = ask_one(owner.clone(), asked, secrets.clone());
            tasks.spawn(async move {
                tokio::select! {
                    () = end.cancelled() => {}
                    () = asking => {}
                }
            });
        }
    }
    tasks.shutdown().await;
}

/// One probe, for ever.
async fn ask_one(owner: Handle, asked: Asked, secrets: Secrets) {
    let mut prober: Option<Prober> = None;
    let mut failures = 0;
    loop {
        let began = Monotonic::start();
        let answer = look(&mut prober, &asked.probe, &secrets).await;
        let took_ms = began.seconds() * 1_000.0;
        failures = if answer.is_ok() { 0 } else { failures + 1 };
        let answer = answer
            .map(|reading| Reading { took_ms, ..reading })
            .map_err(|error| error.to_string());
        let told = asked.clone();
        if owner
            .ask(move |core, now| core.probed(&told, answer, now))
            .await
            .is_err()
        {
            return;
        }
        sleep(pause(failures, fastrand::f64())).await;
    }
}

/// With jitter, so that many probes of one server do not look together.
fn pause(failures: u32, random: f64) -> Duration {
    let pause = LOOK_EVERY * 2_u32.saturating_pow(failures.saturating_sub(1).min(8));
    pause.min(PAUSE_MAX).mul_f64(0.9 + 0.2 * random)
}

async fn look(prober: &mut Option<Prober>, probe: &Probe, secrets: &Secrets) -> Result<Reading, ProbeError> {
    if prober.is_none() {
        // Made anew after a mistake: a file with a secret may have come meanwhile.
        *prober = Some(Prober::new(probe, secrets)?);
    }
    let Some(prober) = prober else {
        return Err(ProbeError::Setting("it cannot be asked".to_owned()));
    };
    match timeout(LOOK_MAX, prober.look()).await {
        Ok(answer) => answer,
        Err(_) => Err(ProbeError::Connection(format!(
            "no answer in {} s",
            LOOK_MAX.as_secs()
        ))),
    }
}

enum Prober {
    Postgres(Box<Postgres>),
    Pgbouncer(Box<Pgbouncer>),
    Prometheus(Box<Prometheus>),
}

impl Prober {
    fn new(probe: &Probe, secrets: &Secrets) -> Result<Self, ProbeError> {
        Ok(match probe {
            Probe::Postgres(probe) => {
                let password = secret(&probe.password_env, secrets)?;
                Self::Postgres(Box::new(Postgres::new(probe, password.as_ref())?))
            }
            Probe::Pgbouncer(probe) => {
                let password = secret(&probe.password_env, secrets)?;
                Self::Pgbouncer(Box::new(Pgbouncer::new(probe, password.as_ref())?))
            }
            Probe::Prometheus(probe) => {
                let token = secret(&probe.token_env, secrets)?;
                Self::Prometheus(Box::new(Prometheus::new(probe, token.as_ref())?))
            }
            Probe::Static | Probe::Workers => {
                return Err(ProbeError::Setting("nobody has to be asked".to_owned()));
            }
        })
    }

    async fn look(&mut self) -> Result<Reading, ProbeError> {
        match self {
            Self::Postgres(probe) => probe.look().await,
            Self::Pgbouncer(probe) => probe.look().await,
            Self::Prometheus(probe) => probe.look().await,
        }
    }
}

/// `None`: the probe names none.
fn secret(name: &str, secrets: &Secrets) -> Result<Option<Secret>, ProbeError> {
    if name.is_empty() {
        return Ok(None);
    }
    if let Some(text) = secrets.get(name) {
        return Ok(Some(text.clone()));
    }
    let file = format!("{name}_FILE");
    let Some(path) = secrets.get(&file) else {
        let text = format!("neither {name} nor {file} is set for the controller");
        return Err(ProbeError::Setting(text));
    };
    let text = std::fs::read_to_string(path.expose())
        .map_err(|error| ProbeError::Setting(format!("cannot read the file that {file} names: {error}")))?;
    Ok(Some(Secret::new(text.trim_end_matches(['\r', '\n']))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_spread_looks_and_success_ends_that() {
        let of = |failures| pause(failures, 0.5).as_millis();
        assert_eq!(
            [of(0), of(1), of(2), of(3), of(4), of(100)],
            [1_000, 1_000, 2_000, 4_000, 5_000, 5_000]
        );
    }

    #[test]
    fn a_secret_comes_from_a_variable_or_from_the_file_that_one_names() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hunter2\n").unwrap();
        let secrets = Secrets::from([
            ("TIDEGATE_PROBE_A".to_owned(), Secret::new("plain")),
            (
                "TIDEGATE_PROBE_B_FILE".to_owned(),
                Secret::new(file.path().display().to_string()),
            ),
        ]);
        let text = |name| {
            secret(name, &secrets)
                .unwrap()
                .map(|secret| secret.expose().to_owned())
        };
        assert_eq!(text(""), None);
        assert_eq!(text("TIDEGATE_PROBE_A").as_deref(), Some("plain"));
        assert_eq!(text("TIDEGATE_PROBE_B").as_deref(), Some("hunter2"));
        let missing = secret("TIDEGATE_PROBE_C", &secrets).unwrap_err().to_string();
        assert!(
            missing.contains("neither TIDEGATE_PROBE_C nor TIDEGATE_PROBE_C_FILE"),
            "{missing}"
        );
    }
}
