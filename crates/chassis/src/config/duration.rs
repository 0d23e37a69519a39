//! Durations as text with a unit: `"5s"`, `"250ms"`, `"1h 30m"`. Use with `#[serde(with = "...::duration")]`.
//!
//! A bare number is refused: whether 30 means seconds or milliseconds is how outages start.

use std::fmt;
use std::time::Duration;

use serde::{Deserializer, Serializer, de};

/// Parses `"5s"`, `"250ms"`, `"1h 30m"`.
///
/// # Errors
/// A missing or unknown unit, a negative number, or anything that is not a number.
pub fn parse(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text.trim())
        .map_err(|error| format!("`{text}` is not a duration such as \"5s\" or \"250ms\": {error}"))
}

/// The text form: `"5s"`, `"1m 30s"`. [`parse`] reads it back exactly.
pub fn format(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format(*duration))
}

pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    deserializer.deserialize_str(DurationVisitor)
}

struct DurationVisitor;

impl de::Visitor<'_> for DurationVisitor {
    type Value = Duration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration as text with a unit, such as \"5s\" or \"250ms\"")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
        parse(text).map_err(E::custom)
    }
}

/// The same for `Option<Duration>`; absent or null is `None`.
pub mod option {
    use super::*;
    use serde::Deserialize;

    pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => serializer.serialize_some(&format(*duration)),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        Option::<String>::deserialize(deserializer)?
            .map(|text| parse(&text).map_err(de::Error::custom))
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_what_it_writes() {
        for text in ["0s", "250ms", "5s", "1m 30s", "1h"] {
            let duration = parse(text).expect("a duration");
            assert_eq!(format(duration), text);
        }
    }

    #[test]
    fn a_unit_is_required() {
        let error = parse("30").expect_err("no unit");
        assert!(error.contains("\"5s\""), "{error}");
    }
}
