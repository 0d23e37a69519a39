//! What an app says in a completion call.

use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use tidegate_protocol::limits::RESULT_BYTES_MAX;

use crate::{JobError, Verdict};

/// `{"outcome": "succeeded", "result": {...}}`, `{"outcome": "retry", "error": "...", "retry_after_ms": 5000}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Completion<'a> {
    outcome: Kind,
    /// Any JSON; kept as it is written.
    #[serde(borrow, default)]
    result: Option<&'a RawValue>,
    #[serde(default)]
    error: String,
    #[serde(default)]
    retry_after_ms: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Succeeded,
    Retry,
    Failed,
    Invalid,
    Throttled,
}

/// # Errors
/// What is wrong with it, for the app's author.
pub(super) fn parse(body: &[u8]) -> Result<Verdict, String> {
    let Completion {
        outcome,
        result,
        error,
        retry_after_ms,
    } = serde_json::from_slice(body).map_err(|error| {
        format!("expected JSON such as {{\"outcome\":\"succeeded\",\"result\":{{}}}}: {error}")
    })?;
    let after = Duration::from_millis(retry_after_ms);
    let error = match error.as_str() {
        "" => "the app said so in its completion call".to_owned(),
        _ => error,
    };
    Ok(match outcome {
        Kind::Succeeded => {
            let result = result.map_or("", RawValue::get);
            if result.len() > RESULT_BYTES_MAX {
                return Err(format!("a result has at most {RESULT_BYTES_MAX} bytes"));
            }
            // `null` says nothing.
            let result = if result == "null" { "" } else { result };
            Verdict::succeeded(result.to_owned())
        }
        Kind::Retry => JobError::retry_after(error, after).into(),
        Kind::Failed => JobError::failed(error).into(),
        Kind::Invalid => JobError::invalid(error).into(),
        Kind::Throttled => JobError::throttled(error, after).into(),
    })
}

#[cfg(test)]
mod tests {
    use tidegate_protocol::domain::Outcome;

    use super::*;

    #[test]
    fn outcomes_are_json() {
        let outcome = |text: &str| parse(text.as_bytes()).map(|verdict| verdict.outcome);
        let succeeded = |result: &'static str| {
            Ok(Outcome::Succeeded {
                result: result.into(),
            })
        };
        assert_eq!(
            outcome(r#"{"outcome":"succeeded","result":{"n": 1}}"#),
            succeeded(r#"{"n": 1}"#)
        );
        assert_eq!(outcome(r#"{"outcome":"succeeded"}"#), succeeded(""));
        assert_eq!(outcome(r#"{"outcome":"succeeded","result":null}"#), succeeded(""));
        assert_eq!(
            outcome(r#"{"outcome":"throttled","error":"full","retry_after_ms":7}"#),
            Ok(Outcome::Throttled {
                error: "full".into(),
                after_ms: 7
            })
        );
        assert_eq!(
            outcome(r#"{"outcome":"retry","error":"x","retry_after_ms":5}"#),
            Ok(Outcome::Retry {
                error: "x".into(),
                after_ms: 5
            })
        );
        assert!(
            matches!(outcome(r#"{"outcome":"failed"}"#), Ok(Outcome::Failed { error }) if !error.is_empty())
        );
        assert!(matches!(
            outcome(r#"{"outcome":"invalid"}"#),
            Ok(Outcome::Invalid { .. })
        ));
        let large = format!(
            "{{\"outcome\":\"succeeded\",\"result\":\"{}\"}}",
            "x".repeat(RESULT_BYTES_MAX)
        );
        for (text, part) in [
            ("", "expected JSON"),
            ("{}", "missing field `outcome`"),
            (r#"{"outcome":"released"}"#, "unknown variant"),
            (r#"{"outcome":"failed","eror":"x"}"#, "unknown field `eror`"),
            (&large, "at most 65536 bytes"),
        ] {
            let error = outcome(text).expect_err(part);
            assert!(error.contains(part), "{error}");
        }
    }
}
