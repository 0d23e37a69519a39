//! Figures of each phase, and what they say to the checklist: pure.

use std::time::Instant;

use super::{
    app::Ran,
    ground::Shown,
    offer::{Answer, Offered},
    plan::{Kind, Phase, Plan},
    watch::Seen,
};
use crate::load::Latencies;

/// The article's two goals for three times the peak.
const P99_MS_MAX: f64 = 50.0;
const ERRORS_PCT_MAX: f64 = 2.0;
/// A hundredth of fewer says nothing.
const JOBS_MIN: u64 = 200;
/// Where what was full drains, before the speed after a slowdown counts; of the phase.
const SETTLING: f64 = 0.5;

/// Of one kind of job in one phase, by when it was due.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    pub phase: &'static str,
    pub queue: &'static str,
    pub sent: u64,
    pub admitted: u64,
    /// Over capacity.
    pub refused: u64,
    /// Submits that failed otherwise.
    pub failed: u64,
    /// Admitted and not done at the end.
    pub lost: u64,
    /// Done, and not by the first attempt.
    pub retried: u64,
    /// What the first refusal and the first failure said.
    pub refusal: Option<String>,
    pub failure: Option<String>,
    pub measured: u64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

impl Figures {
    fn percent(&self, part: u64) -> f64 {
        100.0 * part as f64 / self.sent.max(1) as f64
    }

    pub fn errors_pct(&self) -> f64 {
        self.percent(self.failed + self.lost)
    }

    pub fn refused_pct(&self) -> f64 {
        self.percent(self.refused)
    }
}

/// One line of the answer. `holds`: `None` where nothing could be looked at.
#[derive(Clone, Debug)]
pub struct Check {
    pub id: &'static str,
    pub wanted: String,
    pub found: String,
    pub holds: Option<bool>,
}

pub struct Verdict {
    pub start: Instant,
    pub figures: Vec<Figures>,
    pub checks: Vec<Check>,
    pub offered: Vec<Offered>,
    pub ran: Vec<Ran>,
    pub seen: Seen,
}

impl Verdict {
    pub fn holds(&self) -> bool {
        self.checks.iter().all(|check| check.holds != Some(false))
    }
}

pub fn judge(
    plan: &Plan,
    budget: u32,
    (start, offered): (Instant, Vec<Offered>),
    ran: Vec<Ran>,
    seen: Seen,
    shown: &Shown,
) -> Verdict {
    let pairs = || offered.iter().zip(&ran);
    let mut figures = Vec::new();
    for phase in &plan.phases {
        for kind in Kind::ALL {
            let of_both = pairs().filter(|(offered, _)| {
                offered.arrival.kind == kind && (phase.from..phase.to).contains(&offered.arrival.due)
            });
            figures.push(of(phase, kind, of_both));
        }
    }
    let settled = plan.phases.last().map(|last| Phase {
        from: last.from + (last.to - last.from).mul_f64(SETTLING),
        ..last.clone()
    });
    let after = settled.map(|phase| {
        let late = pairs()
            .filter(|(offered, _)| offered.arrival.kind == Kind::Short && offered.arrival.due >= phase.from);
        of(&phase, Kind::Short, late)
    });
    let mut checks = speed(&figures, after);
    checks.extend(truth(&offered, &ran));
    checks.push(saturation(budget, &seen));
    checks.extend(looked(shown));
    Verdict {
        start,
        figures,
        checks,
        offered,
        ran,
        seen,
    }
}

fn of<'a>(phase: &Phase, kind: Kind, pairs: impl Iterator<Item = (&'a Offered, &'a Ran)>) -> Figures {
    let mut figures = Figures {
        phase: phase.name,
        queue: kind.queue(),
        ..Figures::default()
    };
    let mut latencies = Latencies::default();
    for (offered, ran) in pairs {
        figures.sent += 1;
        match &offered.answer {
            Answer::Refused(why) => {
                figures.refused += 1;
                figures.refusal.get_or_insert_with(|| why.clone());
            }
            Answer::Failed(why) => {
                figures.failed += 1;
                figures.failure.get_or_insert_with(|| why.clone());
            }
            Answer::Admitted { .. } => {
                figures.admitted += 1;
                figures.retried += u64::from(ran.attempts > 1);
                match ran.done {
                    Some(done) => latencies.add(done.saturating_duration_since(offered.due)),
                    None => figures.lost += 1,
                }
            }
        }
    }
    figures.measured = latencies.count();
    [figures.p50_ms, figures.p99_ms, figures.max_ms] = [0.5, 0.99, 1.0].map(|at| latencies.ms(at));
    figures
}

fn speed(figures: &[Figures], after: Option<Figures>) -> Vec<Check> {
    let short = |name: &str| {
        let mut found = figures.iter();
        found
            .find(|one| one.phase == name && one.queue == Kind::Short.queue())
            .cloned()
    };
    let fast = |id: &'static str, when: &str, figures: Option<Figures>| {
        let figures = figures.unwrap_or_default();
        let enough = figures.measured >= JOBS_MIN;
        let few = if enough {
            String::new()
        } else {
            format!(", too few for a verdict: {}", figures.measured)
        };
        Check {
            id,
            wanted: format!("p99 of admitted short jobs {when} < {P99_MS_MAX} ms"),
            found: format!("{:.1} ms{few}", figures.p99_ms),
            holds: Some(enough && figures.p99_ms < P99_MS_MAX),
        }
    };
    let worst =
        |id: &'static str, what: &str, phases: &[&str], of: fn(&Figures) -> (f64, Option<&String>)| {
            let judged = figures
                .iter()
                .filter(|one| phases.is_empty() || phases.contains(&one.phase));
            let worst = judged.max_by(|a, b| of(a).0.total_cmp(&of(b).0));
            let percent = worst.map_or(0.0, |one| of(one).0);
            let found = match worst {
                Some(one) if percent > 0.0 => {
                    let why = of(one).1.map(|why| format!(": {why}")).unwrap_or_default();
                    format!("at most {percent:.2} %, {} of {}{why}", one.phase, one.queue)
                }
                _ => "0 %".to_owned(),
            };
            Check {
                id,
                wanted: format!("{what} < {ERRORS_PCT_MAX} %"),
                found,
                holds: Some(percent < ERRORS_PCT_MAX),
            }
        };
    vec![
        fast("peak.p99", "at 3x the baseline", short("peak")),
        worst("errors", "errors in every phase", &[], |one| {
            (one.errors_pct(), one.failure.as_ref())
        }),
        // Else refusing everything would pass. When the database is slow, refusing is what is wanted.
        worst(
            "peak.refused",
            "refused as over capacity, baseline and peak",
            &["baseline", "peak"],
            |one| (one.refused_pct(), one.refusal.as_ref()),
        ),
        fast("recovery.p99", "after the slowdown", after),
    ]
}

/// Each admitted job ran to one success, and a second submit with its key made no second job.
fn truth(offered: &[Offered], ran: &[Ran]) -> Vec<Check> {
    let pairs = || offered.iter().zip(ran);
    let lost = pairs()
        .filter(|(offered, ran)| offered.is_admitted() && ran.done.is_none())
        .count();
    let twice = ran.iter().filter(|ran| ran.successes > 1).count();
    let repeats: Vec<bool> = offered
        .iter()
        .filter_map(|offered| match offered.answer {
            Answer::Admitted { repeat } => repeat,
            Answer::Refused(_) | Answer::Failed(_) => None,
        })
        .collect();
    let known = repeats.iter().filter(|known| **known).count();
    vec![
        Check {
            id: "lost",
            wanted: "every admitted job is done".to_owned(),
            found: format!("{lost} not"),
            holds: Some(lost == 0),
        },
        Check {
            id: "idempotency",
            wanted: "a second submit with the same key is answered as a duplicate, and runs nothing"
                .to_owned(),
            found: format!("{known} of {}; {twice} jobs done twice", repeats.len()),
            holds: Some(known == repeats.len() && !repeats.is_empty() && twice == 0),
        },
    ]
}

fn saturation(budget: u32, seen: &Seen) -> Check {
    let looks: Vec<u32> = seen
        .looks
        .seen
        .iter()
        .filter_map(|(_, look)| look.at_work)
        .collect();
    let most = looks.iter().copied().max();
    Check {
        id: "saturation",
        wanted: format!("never more than 0.7 of the pool, {budget} connections, at work"),
        found: most.map_or_else(
            || "the server did not say".to_owned(),
            |most| format!("at most {most} in {} samples", looks.len()),
        ),
        holds: Some(most.is_some_and(|most| (1..=budget).contains(&most))),
    }
}

fn looked(shown: &Shown) -> Vec<Check> {
    let exporter = match shown.missing.as_deref() {
        None => ("no page was named: --metrics".to_owned(), None),
        Some([]) => ("all there".to_owned(), Some(true)),
        Some(missing) => (format!("missing: {}", missing.join(" ")), Some(false)),
    };
    let redis = match shown.redis {
        None => ("not ours to look at".to_owned(), None),
        Some((listening, commands)) => (
            format!("{listening} that listen, {commands} for commands"),
            Some(listening > 0 && commands > 0),
        ),
    };
    [
        (
            "exporter",
            "depth, utilisation, retries, run time, circuit and targets on /metrics",
            exporter,
        ),
        (
            "redis.clients",
            "commands and subscriptions on connections of their own",
            redis,
        ),
    ]
    .map(|(id, wanted, (found, holds))| Check {
        id,
        wanted: wanted.to_owned(),
        found,
        holds,
    })
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use crate::{
        checklist::{
            plan::Arrival,
            watch::{Look, Seen},
        },
        sampler::Samples,
    };

    /// A run of 300 s in which every job took `latency` and `change` happened to some.
    fn verdict(latency: Duration, at_work: u32, change: impl Fn(usize, &mut Offered, &mut Ran)) -> Verdict {
        let plan = Plan::new(Duration::from_secs(60), 100.0);
        let start = Instant::now();
        let mut offered = Vec::new();
        let mut ran = Vec::new();
        for (number, arrival) in plan.arrivals().into_iter().enumerate() {
            let Arrival { due, .. } = arrival;
            let mut one = Offered {
                arrival,
                due: start + due,
                answer: Answer::Admitted {
                    repeat: (number.is_multiple_of(50)).then_some(true),
                },
            };
            let mut run = Ran {
                attempts: 1,
                successes: 1,
                done: Some(one.due + latency),
            };
            change(number, &mut one, &mut run);
            offered.push(one);
            ran.push(run);
        }
        let look = Look {
            at_work: Some(at_work),
            ..Look::default()
        };
        let seen = Seen {
            start,
            looks: Samples::of("the fleet", vec![(Duration::ZERO, look)]),
        };
        let shown = Shown {
            missing: Some(Vec::new()),
            redis: Some((1, 3)),
        };
        judge(&plan, 14, (start, offered), ran, seen, &shown)
    }

    fn failed(verdict: &Verdict) -> Vec<&'static str> {
        let failed = verdict.checks.iter().filter(|check| check.holds == Some(false));
        failed.map(|check| check.id).collect()
    }

    const FAST: Duration = Duration::from_millis(20);

    #[test]
    fn what_is_well_passes() {
        let verdict = verdict(FAST, 14, |_, _, _| {});
        assert_eq!(failed(&verdict), [""; 0]);
        assert!(verdict.holds());
        let peak = verdict
            .figures
            .iter()
            .find(|one| one.phase == "peak")
            .expect("figures");
        assert!((19.0..21.0).contains(&peak.p99_ms), "{peak:?}");
    }

    #[test]
    fn each_goal_can_be_missed() {
        assert_eq!(
            failed(&verdict(Duration::from_millis(60), 14, |_, _, _| {})),
            ["peak.p99", "recovery.p99"]
        );
        assert_eq!(failed(&verdict(FAST, 15, |_, _, _| {})), ["saturation"]);
        // Nobody at work: then nothing was measured.
        assert_eq!(failed(&verdict(FAST, 0, |_, _, _| {})), ["saturation"]);
        let lost = verdict(FAST, 14, |number, _, ran| {
            if number == 77 {
                ran.done = None;
            }
        });
        assert_eq!(failed(&lost), ["lost"]);
        let failing = verdict(FAST, 14, |number, offered, _| {
            if number % 40 == 1 {
                offered.answer = Answer::Failed("down".to_owned());
            }
        });
        assert_eq!(failed(&failing), ["errors"]);
        let refusing = verdict(FAST, 14, |number, offered, _| {
            if number % 40 == 1 {
                offered.answer = Answer::Refused("QUEUE_FULL".to_owned());
            }
        });
        assert_eq!(failed(&refusing), ["peak.refused"]);
        let twice = verdict(FAST, 14, |number, _, ran| ran.successes += u32::from(number == 9));
        assert_eq!(failed(&twice), ["idempotency"]);
        let unknown = verdict(FAST, 14, |number, offered, _| {
            if number == 50 {
                offered.answer = Answer::Admitted { repeat: Some(false) };
            }
        });
        assert_eq!(failed(&unknown), ["idempotency"]);
    }

    #[test]
    fn refusals_of_a_slow_database_are_no_miss() {
        let plan = Plan::new(Duration::from_secs(60), 100.0);
        let slow = plan
            .phases
            .iter()
            .find(|phase| phase.slow > 1)
            .expect("one is")
            .clone();
        let verdict = verdict(FAST, 14, |_, offered, _| {
            if (slow.from..slow.to).contains(&offered.arrival.due) {
                offered.answer = Answer::Refused("WAIT_TOO_LONG".to_owned());
            }
        });
        assert_eq!(failed(&verdict), [""; 0]);
    }
}
