//! Which traces are kept: `OTEL_TRACES_SAMPLER` as the OpenTelemetry specification has it, and two things more.
//!
//! An attempt is linked to its submit and not its child, so a sampler that goes by parents would draw anew for each of
//! them, and of one job in a hundred nothing but pieces would be left. So the `parentbased_*` samplers take linked spans
//! for parents: a job's attempts are kept exactly when its submit is.
//!
//! And it is decided before a span is made, not while the SDK makes it: a job that is not kept makes none. (Only spans that
//! the application makes outside of any job are decided by the SDK, with the same sampler: `super::decisions`.)

use std::sync::{Mutex, PoisonError};

use anyhow::bail;
use opentelemetry::trace::{SpanKind, TraceId};
use opentelemetry_sdk::trace::{Sampler as SdkSampler, SamplingDecision, ShouldSample};

use super::limit::Limit;

/// Where `OTEL_TRACES_SAMPLER` is not set. By the specification it would be all: at thousands of jobs a second that is a
/// fifth more CPU a job, which nobody would have asked for.
const DEFAULT: &str = "parentbased_ratelimited";
/// Jobs a second of which traces begin in one process. What they cost is then at most some 2 ms of CPU a second.
const JOBS_PER_SECOND: f64 = 100.0;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Sampler {
    root: Root,
    by_parent: bool,
}

#[derive(Debug)]
enum Root {
    /// As the specification has it.
    Standard(SdkSampler),
    Limited(Mutex<Limit>),
}

impl Sampler {
    /// # Errors
    /// A sampler that there is not, or an argument that does not fit it.
    pub(super) fn from_env(env: impl Fn(&str) -> Option<String>) -> anyhow::Result<Self> {
        let set = env("OTEL_TRACES_SAMPLER");
        // By the specification the argument counts only where the sampler is named.
        let arg = set.is_some().then(|| env("OTEL_TRACES_SAMPLER_ARG")).flatten();
        let name = set.as_deref().unwrap_or(DEFAULT);
        let (by_parent, root) = match name.strip_prefix("parentbased_") {
            Some(root) => (true, root),
            None => (false, name),
        };
        let root = match root {
            "always_on" => Root::Standard(SdkSampler::AlwaysOn),
            "always_off" => Root::Standard(SdkSampler::AlwaysOff),
            "traceidratio" => Root::Standard(SdkSampler::TraceIdRatioBased(ratio(arg)?)),
            "ratelimited" if by_parent => Root::Limited(Mutex::new(Limit::new(rate(arg)?))),
            _ => bail!(
                "OTEL_TRACES_SAMPLER={name}: use always_on, always_off or traceidratio, alone or after parentbased_, \
                 or parentbased_ratelimited"
            ),
        };
        Ok(Self { root, by_parent })
    }

    /// What is decided already. `lineage`: whether the parent is kept or, where there is none, any linked span; `None`:
    /// there is neither.
    pub(super) fn inherits(&self, lineage: Option<bool>) -> Option<bool> {
        lineage.filter(|_| self.by_parent)
    }

    /// Whether a span of this trace is kept; `jobs`: how many come with it. `now_ms`: on a clock that begins at 0.
    pub(super) fn keeps(&self, lineage: Option<bool>, trace: TraceId, jobs: usize, now_ms: u64) -> bool {
        if let Some(kept) = self.inherits(lineage) {
            return kept;
        }
        match &self.root {
            Root::Standard(sampler) => {
                let result = sampler.should_sample(None, trace, "", &SpanKind::Internal, &[], &[]);
                result.decision == SamplingDecision::RecordAndSample
            }
            Root::Limited(limit) => {
                let mut limit = limit.lock().unwrap_or_else(PoisonError::into_inner);
                limit.takes(jobs, now_ms)
            }
        }
    }
}

/// The specification's default is all.
fn ratio(text: Option<String>) -> anyhow::Result<f64> {
    let Some(text) = text else { return Ok(1.0) };
    match text.parse() {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
        _ => bail!("OTEL_TRACES_SAMPLER_ARG={text}: use a ratio from 0 to 1"),
    }
}

fn rate(text: Option<String>) -> anyhow::Result<f64> {
    let Some(text) = text else {
        return Ok(JOBS_PER_SECOND);
    };
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate.is_finite() => Ok(rate),
        _ => bail!("OTEL_TRACES_SAMPLER_ARG={text}: use jobs a second, more than 0"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(name: &str, arg: &str) -> anyhow::Result<Sampler> {
        Sampler::from_env(|variable| {
            let text = match variable {
                "OTEL_TRACES_SAMPLER" => name,
                _ => arg,
            };
            Some(text.to_owned()).filter(|text| !text.is_empty())
        })
    }

    /// (with neither parent nor link, of kept ones, of ones that are not)
    fn kept(sampler: &Sampler) -> [bool; 3] {
        // The lower half of a trace id decides a ratio; this one is in the lowest tenth.
        let trace = TraceId::from(1_u128 << 64 | 1);
        [None, Some(true), Some(false)].map(|lineage| sampler.keeps(lineage, trace, 1, 0))
    }

    #[test]
    fn every_sampler_of_the_specification() {
        for (name, arg, expected) in [
            ("always_on", "", [true; 3]),
            ("always_off", "", [false; 3]),
            ("traceidratio", "0.1", [true; 3]),
            ("traceidratio", "0", [false; 3]),
            ("parentbased_always_on", "", [true, true, false]),
            ("parentbased_always_off", "", [false, true, false]),
            ("parentbased_traceidratio", "0", [false, true, false]),
            ("parentbased_traceidratio", "", [true, true, false]),
        ] {
            assert_eq!(
                kept(&sampler(name, arg).expect("valid")),
                expected,
                "{name} {arg}"
            );
        }
    }

    #[test]
    fn by_default_a_hundred_jobs_a_second_begin_a_trace() {
        let trace = TraceId::from(1);
        for (name, arg, expected) in [
            ("", "", 100),
            ("", "7", 100), // counts only with a sampler
            ("parentbased_ratelimited", "", 100),
            ("parentbased_ratelimited", "7", 7),
        ] {
            let sampler = sampler(name, arg).expect("valid");
            let begun = (0..1_000).filter(|_| sampler.keeps(None, trace, 1, 0)).count();
            assert_eq!(begun, expected, "{name} {arg}");
            // What somebody else has decided needs no room.
            assert!(sampler.keeps(Some(true), trace, 1, 0));
            assert!(!sampler.keeps(Some(false), trace, 1, 60_000));
            assert!(sampler.keeps(None, trace, 1, 60_000), "{name} {arg}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (name, arg, text) in [
            (
                "jaeger_remote",
                "",
                "OTEL_TRACES_SAMPLER=jaeger_remote: use always_on",
            ),
            // Each attempt would draw anew.
            (
                "ratelimited",
                "",
                "OTEL_TRACES_SAMPLER=ratelimited: use always_on",
            ),
            ("traceidratio", "2", "OTEL_TRACES_SAMPLER_ARG=2: use a ratio"),
            (
                "parentbased_ratelimited",
                "0",
                "OTEL_TRACES_SAMPLER_ARG=0: use jobs a second",
            ),
        ] {
            let error = sampler(name, arg).expect_err(name);
            assert!(error.to_string().starts_with(text), "{error}");
        }
    }
}
