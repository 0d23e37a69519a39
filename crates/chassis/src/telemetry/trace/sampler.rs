//! Which traces are kept: `OTEL_TRACES_SAMPLER` as the OpenTelemetry specification has it, and one thing more. An
//! attempt is linked to its submit and not its child, so a sampler that goes by parents would draw anew for each of them,
//! and of one job in a hundred nothing but pieces would be left. So the `parentbased_*` samplers take linked spans for
//! parents: a job's attempts are kept exactly when its submit is.

use anyhow::bail;
use opentelemetry::trace::{Link, SpanKind, TraceContextExt, TraceId, TraceState};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{Sampler, SamplingDecision, SamplingResult, ShouldSample};

/// See the [module](self).
#[derive(Clone, Debug)]
pub(in crate::telemetry) struct ByLineage {
    root: Sampler,
    by_parent: bool,
}

impl ByLineage {
    /// # Errors
    /// A sampler that there is not, or an argument that is no ratio.
    pub(in crate::telemetry) fn from_env(env: impl Fn(&str) -> Option<String>) -> anyhow::Result<Self> {
        let name = env("OTEL_TRACES_SAMPLER").unwrap_or_else(|| "parentbased_always_on".to_owned());
        let (by_parent, root) = match name.strip_prefix("parentbased_") {
            Some(root) => (true, root),
            None => (false, name.as_str()),
        };
        let root = match root {
            "always_on" => Sampler::AlwaysOn,
            "always_off" => Sampler::AlwaysOff,
            "traceidratio" => Sampler::TraceIdRatioBased(ratio(env("OTEL_TRACES_SAMPLER_ARG"))?),
            _ => bail!(
                "OTEL_TRACES_SAMPLER={name}: use always_on, always_off or traceidratio, alone or after parentbased_"
            ),
        };
        Ok(Self { root, by_parent })
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

impl ShouldSample for ByLineage {
    fn should_sample(
        &self,
        parent_context: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        span_kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let parent = parent_context.map(|context| context.span().span_context().clone());
        let parent = parent.filter(|parent| self.by_parent && parent.is_valid());
        let kept = match &parent {
            Some(parent) => Some(parent.is_sampled()),
            None if self.by_parent && !links.is_empty() => {
                Some(links.iter().any(|link| link.span_context.is_sampled()))
            }
            None => None,
        };
        let Some(kept) = kept else {
            return self
                .root
                .should_sample(parent_context, trace_id, name, span_kind, attributes, links);
        };
        SamplingResult {
            decision: match kept {
                true => SamplingDecision::RecordAndSample,
                false => SamplingDecision::Drop,
            },
            attributes: Vec::new(),
            trace_state: parent.map_or_else(TraceState::default, |parent| parent.trace_state().clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::trace::TraceContext;

    fn sampler(name: &str, arg: &str) -> anyhow::Result<ByLineage> {
        ByLineage::from_env(|variable| {
            let text = match variable {
                "OTEL_TRACES_SAMPLER" => name,
                _ => arg,
            };
            Some(text.to_owned()).filter(|text| !text.is_empty())
        })
    }

    /// (root, child of a kept span, child of one that is not, linked to a kept one, linked to one that is not)
    fn kept(sampler: &ByLineage) -> [bool; 5] {
        let span = |kept| TraceContext::derived("job", 1, kept).span_context().clone();
        let ask = |parent: Option<bool>, linked: Option<bool>| {
            let parent = parent.map(|kept| Context::new().with_remote_span_context(span(kept)));
            let links: Vec<Link> = linked
                .map(|kept| Link::with_context(span(kept)))
                .into_iter()
                .collect();
            // The lower half of a trace id decides a ratio; this one is in the lowest tenth.
            let trace = TraceId::from(1_u128 << 64 | 1);
            let result = sampler.should_sample(parent.as_ref(), trace, "x", &SpanKind::Internal, &[], &links);
            result.decision == SamplingDecision::RecordAndSample
        };
        [
            ask(None, None),
            ask(Some(true), None),
            ask(Some(false), None),
            ask(None, Some(true)),
            ask(None, Some(false)),
        ]
    }

    #[test]
    fn every_sampler_of_the_specification() {
        for (name, arg, expected) in [
            ("", "", [true, true, false, true, false]),
            ("always_on", "", [true; 5]),
            ("always_off", "", [false; 5]),
            ("traceidratio", "0.1", [true; 5]),
            ("traceidratio", "0", [false; 5]),
            ("parentbased_always_on", "", [true, true, false, true, false]),
            ("parentbased_always_off", "", [false, true, false, true, false]),
            ("parentbased_traceidratio", "0", [false, true, false, true, false]),
            ("parentbased_traceidratio", "", [true, true, false, true, false]),
        ] {
            assert_eq!(
                kept(&sampler(name, arg).expect("valid")),
                expected,
                "{name} {arg}"
            );
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
            ("traceidratio", "2", "OTEL_TRACES_SAMPLER_ARG=2: use a ratio"),
        ] {
            let error = sampler(name, arg).expect_err(name);
            assert!(error.to_string().starts_with(text), "{error}");
        }
    }
}
