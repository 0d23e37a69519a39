//! What is compared: the same programs on the same load, under another policy.

use std::{fmt, fmt::Write as _, str::FromStr};

use serde::Deserialize;
use tidegate_sim::scenario::{Queue, Scenario};

use super::plant::{API_NAME, JOBS_NAME, ROLE};

/// Finished jobs are kept until they have been counted.
const KEEP_FINISHED: u32 = 200_000;
/// A job that runs longer has met something else than this plant.
const TIMEOUT: &str = "60s";

/// One way to decide how much runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub enum Arm {
    Adaptive,
    /// So many jobs of each queue, as a config file says it.
    Fixed(u32),
    EmaAimd,
    /// Adaptive, without the fault of the scenario.
    Calm,
    /// The other users of the resource by themselves, without a job.
    Alone,
}

impl Arm {
    /// Whether the promises of Tidegate's own strategy are judged by it.
    pub fn is_judged(self) -> bool {
        self == Arm::Adaptive
    }

    pub fn has_jobs(self) -> bool {
        self != Arm::Alone
    }

    /// Whether its workers tell an overloaded database from a broken job. To users of a fixed number a failure is a failure:
    /// it uses an attempt, and nobody holds back for it.
    pub fn blames_nobody(self) -> bool {
        matches!(self, Arm::Fixed(_))
    }

    pub fn has_faults(self) -> bool {
        self != Arm::Calm
    }
}

impl fmt::Display for Arm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Arm::Adaptive => f.write_str("adaptive"),
            Arm::Fixed(n) => write!(f, "fixed{n}"),
            Arm::EmaAimd => f.write_str("ema_aimd"),
            Arm::Calm => f.write_str("calm"),
            Arm::Alone => f.write_str("alone"),
        }
    }
}

impl FromStr for Arm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fixed = || text.strip_prefix("fixed").and_then(|n| n.parse().ok());
        match text {
            "adaptive" => Ok(Arm::Adaptive),
            "ema_aimd" => Ok(Arm::EmaAimd),
            "calm" => Ok(Arm::Calm),
            "alone" => Ok(Arm::Alone),
            _ => fixed().filter(|n| *n > 0).map(Arm::Fixed).ok_or_else(|| {
                format!("{text:?} is no arm: there are adaptive, fixedN, ema_aimd, calm and alone")
            }),
        }
    }
}

impl TryFrom<String> for Arm {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// The policies file of an arm. `probe_url`: where the controller looks at the resource, if there is one.
///
/// Only Tidegate's own strategy declares what its queues cost, and is kept within the budget of it. A fixed number knows
/// nothing of the pool. `ema_aimd` reads how full the pool is: for that it declares the resource, but with no headroom and
/// with every session counted as a job's, so that no budget worth the name protects it (47 of 50).
pub fn policies(arm: Arm, scenario: &Scenario, probe_url: Option<&str>) -> String {
    let mut text = String::new();
    let resource = scenario.resources.iter().next();
    let declared = match arm {
        Arm::Fixed(_) => None,
        _ => resource.zip(probe_url),
    };
    if let Some(((name, resource), url)) = declared {
        let (headroom, jobs) = match arm {
            Arm::EmaAimd => (1.0, common_prefix()),
            _ => (resource.headroom, JOBS_NAME),
        };
        let _ = write!(
            text,
            "[resources.{name}]\ncapacity = {}\nheadroom = {headroom:?}\n\
             [resources.{name}.probe.postgres]\nurl = \"{url}\"\nrole = \"{ROLE}\"\napplication_name = \"{jobs}\"\n",
            resource.capacity
        );
    }
    for (name, queue) in &scenario.queues {
        let cost = declared.map(|((resource, _), _)| resource.as_str());
        text.push_str(&table(arm, scenario, name, queue, cost));
    }
    text
}

fn table(arm: Arm, scenario: &Scenario, name: &str, queue: &Queue, cost: Option<&str>) -> String {
    let (strategy, max) = match arm {
        Arm::Fixed(n) => ("fixed", n),
        Arm::EmaAimd => ("ema_aimd", queue.max),
        Arm::Adaptive | Arm::Calm | Arm::Alone => ("adaptive", queue.max),
    };
    let mut text = format!(
        "[queues.{name}]\nstrategy = \"{strategy}\"\nmin = {}\nmax = {max}\nweight = {:?}\n\
         timeout = \"{TIMEOUT}\"\nkeep_finished = {KEEP_FINISHED}\nretry.max_attempts = {}\n",
        queue.min.min(max),
        queue.weight,
        queue.attempts
    );
    if let Some(resource) = cost.filter(|_| !queue.work.is_empty()) {
        let _ = writeln!(text, "costs = {{ {resource} = 1 }}");
    }
    // Refusing by the predicted wait is a part of what is compared.
    if let Some(deadline_s) = queue.deadline_s.filter(|_| scenario.admission && cost.is_some()) {
        let place = scenario
            .queues
            .keys()
            .position(|known| known == name)
            .unwrap_or(0);
        let _ = writeln!(text, "max_wait = \"{deadline_s}s\"\ntier = {place}");
    }
    text
}

/// What the names of all sessions of the role begin with.
fn common_prefix() -> &'static str {
    let same = JOBS_NAME
        .bytes()
        .zip(API_NAME.bytes())
        .take_while(|(a, b)| a == b);
    &JOBS_NAME[..same.count()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_protocol::policy_file;

    #[test]
    fn an_arm_is_what_it_is_called() {
        for name in ["adaptive", "fixed25", "ema_aimd", "calm", "alone"] {
            assert_eq!(name.parse::<Arm>().expect(name).to_string(), name);
        }
        for name in ["", "fixed", "fixed0", "static10"] {
            assert!(
                name.parse::<Arm>().is_err_and(|why| why.contains("fixedN")),
                "{name}"
            );
        }
    }

    #[test]
    fn only_our_own_arm_is_kept_within_a_budget() {
        for script in super::super::Script::all().expect("the scenarios") {
            for arm in &script.live.arms {
                let url = Some("postgres://monitor@127.0.0.1:1/postgres");
                let text = policies(*arm, &script.model, url);
                let file = policy_file::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
                assert_eq!(file.queues.len(), script.model.queues.len());
                let costs = file.queues.iter().any(|queue| !queue.policy.costs.is_empty());
                let works = script.model.queues.values().any(|queue| !queue.work.is_empty());
                assert_eq!(costs, works && !matches!(arm, Arm::Fixed(_)), "{arm}: {text}");
            }
        }
        assert!(API_NAME.starts_with(common_prefix()) && common_prefix().len() > 2);
    }
}
