//! The sampler at work: asked by us before a span is made, and by the SDK for spans that come through `tracing`.

use std::sync::Arc;

use opentelemetry::trace::{Link, SpanKind, TraceContextExt, TraceId, TraceState};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{SamplingDecision, SamplingResult, ShouldSample};

use super::{ids, sampler::Sampler};
use crate::clock::Monotonic;

/// One for all spans of a process: those that share a limit must share it whoever makes them.
#[derive(Clone, Debug)]
pub(in crate::telemetry) struct Decisions {
    sampler: Arc<Sampler>,
    clock: Monotonic,
}

impl Decisions {
    /// # Errors
    /// As [`Sampler::from_env`].
    pub(in crate::telemetry) fn from_env(env: impl Fn(&str) -> Option<String>) -> anyhow::Result<Self> {
        Ok(Self {
            sampler: Arc::new(Sampler::from_env(env)?),
            clock: Monotonic::start(),
        })
    }

    /// See [`Sampler::inherits`].
    pub(super) fn inherits(&self, lineage: Option<bool>) -> Option<bool> {
        self.sampler.inherits(lineage)
    }

    /// See [`Sampler::keeps`].
    pub(super) fn keeps(&self, lineage: Option<bool>, trace: TraceId, jobs: usize) -> bool {
        self.sampler.keeps(lineage, trace, jobs, self.clock.ms())
    }
}

impl ShouldSample for Decisions {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace: TraceId,
        _: &str,
        _: &SpanKind,
        _: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let parent = parent.map(|context| context.span().span_context().clone());
        let parent = parent.filter(|parent| parent.is_valid());
        let linked = links.iter().map(|link| link.span_context.is_sampled());
        let lineage = parent.as_ref().map(|parent| parent.is_sampled());
        let lineage = lineage.or_else(|| linked.reduce(|a, b| a || b));
        // What we make is decided already, and a limit counts it once.
        let is_kept = ids::are_given() || self.keeps(lineage, trace, 1);
        SamplingResult {
            decision: match is_kept {
                true => SamplingDecision::RecordAndSample,
                false => SamplingDecision::Drop,
            },
            attributes: Vec::new(),
            trace_state: parent.map_or_else(TraceState::default, |parent| parent.trace_state().clone()),
        }
    }
}
