//! Bounds of spans as `OTEL_*` sets them, where the SDK does not read them itself.

use anyhow::bail;
use opentelemetry_sdk::trace::TracerProviderBuilder;

/// The specification's defaults.
const QUEUE_SIZE: usize = 2_048;

#[derive(Debug, PartialEq)]
pub(super) struct Limits {
    /// Spans that wait for their export.
    pub(super) queue_size: usize,
    /// Characters of a text; `None`: no limit.
    pub(super) value_length: Option<usize>,
    pub(super) attributes: Option<u32>,
    pub(super) attributes_per_event: Option<u32>,
    pub(super) attributes_per_link: Option<u32>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue_size: QUEUE_SIZE,
            value_length: None,
            attributes: None,
            attributes_per_event: None,
            attributes_per_link: None,
        }
    }
}

impl Limits {
    /// # Errors
    /// A bound that is no number.
    pub(super) fn from_env(env: impl Fn(&str) -> Option<String>) -> anyhow::Result<Self> {
        let number = |names: &[&str]| {
            let set = names.iter().find_map(|name| Some((name, env(name)?)));
            let Some((name, text)) = set else { return Ok(None) };
            match text.trim().parse::<u32>() {
                Ok(number) => Ok(Some(number)),
                Err(_) => bail!("{name}={text}: use a whole number"),
            }
        };
        let queue_size =
            number(&["OTEL_BSP_MAX_QUEUE_SIZE"])?.map_or(QUEUE_SIZE, |size| size.max(1) as usize);
        let value_length = number(&[
            "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
            "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
        ])?;
        Ok(Self {
            queue_size,
            value_length: value_length.map(|max| max as usize),
            attributes: number(&["OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "OTEL_ATTRIBUTE_COUNT_LIMIT"])?,
            attributes_per_event: number(&["OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT"])?,
            attributes_per_link: number(&["OTEL_LINK_ATTRIBUTE_COUNT_LIMIT"])?,
        })
    }

    pub(super) fn set(&self, mut builder: TracerProviderBuilder) -> TracerProviderBuilder {
        if let Some(max) = self.attributes {
            builder = builder.with_max_attributes_per_span(max);
        }
        if let Some(max) = self.attributes_per_event {
            builder = builder.with_max_attributes_per_event(max);
        }
        if let Some(max) = self.attributes_per_link {
            builder = builder.with_max_attributes_per_link(max);
        }
        builder
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(variables: &[(&str, &str)]) -> anyhow::Result<Limits> {
        Limits::from_env(|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn what_is_said_of_spans_wins_over_what_is_said_of_all() {
        assert_eq!(limits(&[]).expect("valid"), Limits::default());
        let both = limits(&[
            ("OTEL_ATTRIBUTE_COUNT_LIMIT", "10"),
            ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "20"),
            ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "30"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "40"),
            ("OTEL_LINK_ATTRIBUTE_COUNT_LIMIT", "50"),
            ("OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", "60"),
        ])
        .expect("valid");
        let expected = Limits {
            queue_size: 40,
            value_length: Some(30),
            attributes: Some(20),
            attributes_per_event: Some(60),
            attributes_per_link: Some(50),
        };
        assert_eq!(both, expected);
        let error = limits(&[("OTEL_BSP_MAX_QUEUE_SIZE", "many")]).expect_err("no number");
        assert_eq!(
            error.to_string(),
            "OTEL_BSP_MAX_QUEUE_SIZE=many: use a whole number"
        );
    }
}
