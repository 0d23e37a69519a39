//! A queue's payload schema (JSON Schema 2020-12), compiled once and asked for every payload.
//!
//! An operator writes the schema, anybody writes payloads, and both are checked on a router's hot path: so a schema is
//! taken only if the work that a payload can cause is in proportion to its size. References are local and never lead back
//! to themselves, patterns are matched in linear time, what a schema unfolds to is bounded, and nothing is ever fetched.

mod shape;

use jsonschema::{Draft, PatternOptions, Validator};
use serde_json::Value;

use crate::{convert::Invalid, reason};

/// A policy is stored beside its queue and read with every lease call.
pub const SCHEMA_BYTES_MAX: usize = 64 * 1024;
/// Told of one payload; the first mistakes are enough to mend it.
pub const VIOLATIONS_MAX: usize = 16;
/// Of one violation's text and of its place: both may quote names of the payload.
const TEXT_CHARS_MAX: usize = 200;
/// A pattern's compiled size.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// See the [module](self).
#[derive(Debug)]
pub struct PayloadSchema(Validator);

impl PayloadSchema {
    /// # Errors
    /// What is wrong with the schema, and where: `payload_schema#/properties/id`.
    pub fn compile(text: &str) -> Result<Self, Invalid> {
        let wrong = |place: &str, message: String| {
            let field = format!("payload_schema{place}");
            Invalid::new(field, reason::INVALID_ARGUMENT, cut(&message))
        };
        if text.len() > SCHEMA_BYTES_MAX {
            return Err(wrong("", format!("is longer than {SCHEMA_BYTES_MAX} bytes")));
        }
        let schema: Value =
            serde_json::from_str(text).map_err(|error| wrong("", format!("is not JSON: {error}")))?;
        shape::check(&schema).map_err(|(place, message)| wrong(&format!("#{place}"), message))?;
        let patterns = PatternOptions::regex()
            .size_limit(PATTERN_BYTES_MAX)
            .dfa_size_limit(PATTERN_BYTES_MAX);
        jsonschema::options()
            .with_draft(Draft::Draft202012)
            .with_pattern_options(patterns)
            .offline()
            .build(&schema)
            .map(Self)
            .map_err(|error| wrong(&format!("#{}", error.instance_path()), error.to_string()))
    }

    /// Every mistake of a payload, up to [`VIOLATIONS_MAX`]: `payload#/to`. Values are not quoted: payloads are not for logs.
    pub fn violations(&self, payload: &[u8]) -> Vec<Invalid> {
        let wrong = |place: String, message: &str| {
            Invalid::new(format!("payload{place}"), reason::INVALID_PAYLOAD, cut(message))
        };
        let value: Value = match serde_json::from_slice(payload) {
            Ok(value) => value,
            Err(error) => {
                let message = format!("is not JSON: line {}, column {}", error.line(), error.column());
                return vec![wrong(String::new(), &message)];
            }
        };
        if self.0.is_valid(&value) {
            return Vec::new();
        }
        self.0
            .iter_errors(&value)
            .take(VIOLATIONS_MAX)
            .map(|error| {
                let place = cut(&format!("#{}", error.instance_path()));
                wrong(place, &error.masked().to_string())
            })
            .collect()
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(TEXT_CHARS_MAX) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile(text: &str) -> PayloadSchema {
        PayloadSchema::compile(text).expect("a good schema")
    }

    #[test]
    fn violations_say_where_and_never_quote_the_payload() {
        let schema = compile(
            r##"{"type": "object", "required": ["to"], "additionalProperties": false,
                "properties": {"to": {"type": "string", "pattern": "^[^@]+@[^@]+$"},
                               "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}}},
                "$defs": {"line": {"type": "integer", "minimum": 1}}}"##,
        );
        assert_eq!(schema.violations(br#"{"to": "a@b", "lines": [1, 2]}"#), []);
        let found = schema.violations(br#"{"to": "s3cret", "lines": [1, 0, "s3cret"]}"#);
        let mut fields: Vec<&str> = found.iter().map(|found| found.field.as_str()).collect();
        fields.sort_unstable();
        assert_eq!(fields, ["payload#/lines/1", "payload#/lines/2", "payload#/to"]);
        assert!(!format!("{found:?}").contains("s3cret"), "{found:?}");
        assert!(found.iter().all(|found| found.reason == reason::INVALID_PAYLOAD));
        for broken in [&b"{\"to\""[..], b"", b"\xff\xfe", &[b'['; 100_000]] {
            assert_eq!(schema.violations(broken).len(), 1);
        }
    }

    #[test]
    fn violations_are_bounded() {
        let schema = compile(r#"{"items": {"type": "string"}}"#);
        let many = format!("[{}1]", "1,".repeat(10_000));
        assert_eq!(schema.violations(many.as_bytes()).len(), VIOLATIONS_MAX);
        let schema = compile(r#"{"additionalProperties": false}"#);
        let long = format!(r#"{{"{}": 1}}"#, "x".repeat(100_000));
        let found = schema.violations(long.as_bytes());
        assert!(
            found[0].message.len() < 400 && found[0].field.len() < 400,
            "{found:?}"
        );
    }

    #[test]
    fn a_pattern_takes_linear_time() {
        let schema = compile(r#"{"type": "string", "pattern": "^(a+)+$"}"#);
        let text = format!("\"{}b\"", "a".repeat(200_000));
        assert_eq!(schema.violations(text.as_bytes()).len(), 1, "and this test ends");
        for pattern in ["(?=a)b", "(a)\\\\1", "(((((a{100}){100}){100}){100}){100})"] {
            let text = format!(r#"{{"pattern": "{pattern}"}}"#);
            assert!(PayloadSchema::compile(&text).is_err(), "{pattern}");
        }
    }

    #[test]
    fn a_bad_schema_is_refused_with_its_place() {
        for (text, place) in [
            ("{", "payload_schema"),
            ("7", "payload_schema#"),
            (r#"{"type": "strin"}"#, "payload_schema#/type"),
            (
                r#"{"properties": {"a": {"minimum": "1"}}}"#,
                "payload_schema#/properties/a/minimum",
            ),
            (
                r#"{"$ref": "https://example.com/x.json"}"#,
                "payload_schema#/$ref",
            ),
            (
                r#"{"items": {"$ref": "file:///etc/passwd"}}"#,
                "payload_schema#/items/$ref",
            ),
        ] {
            let error = PayloadSchema::compile(text).expect_err(text);
            assert_eq!(error.field, place, "{error}");
        }
    }
}
