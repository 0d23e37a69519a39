//! What an app says in a call: how its attempt ended, or that it still works on it.

use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use tidegate_protocol::limits::RESULT_BYTES_MAX;

use crate::{JobError, Verdict};

/// What a call says.
#[derive(Debug, PartialEq)]
pub(super) enum Said {
    Ended(Verdict),
    /// A sign of life, with where it is.
    Working(String),
}

/// `{"outcome": "succeeded", "result": {...}}`, `{"outcome": "retry", "error": "...", "retry_after_ms": 5000}`,
/// `{"progress": "page 3 of 9"}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Call<'a> {
    #[serde(default)]
    outcome: Option<Kind>,
    #[serde(default)]
    progress: Option<String>,
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
pub(super) fn parse(body: &[u8]) -> Result<Said, String> {
    let Call {
        outcome,
        progress,
        result,
        error,
        retry_after_ms,
    } = serde_json::from_slice(body).map_err(|error| {
        format!("expected JSON such as {{\"outcome\":\"succeeded\",\"result\":{{}}}}: {error}")
    })?;
    let outcome = match (outcome, progress) {
        (Some(outcome), None) => outcome,
        (None, Some(progress)) => return Ok(Said::Working(progress)),
        _ => return Err("expected an outcome, or progress".to_owned()),
    };
    let after = Duration::from_millis(retry_after_ms);
    let error = match error.as_str() {
        "" => "the app said so in its completion call".to_owned(),
        _ => error,
    };
    let verdict = match outcome {
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
    };
    Ok(Said::Ended(verdict))
}

#[cfg(test)]
mod tests {
    use tidegate_protocol::domain::Outcome;

    use super::*;

    #[test]
    fn outcomes_are_json() {
        let outcome = |text: &str| match parse(text.as_bytes()) {
            Ok(Said::Ended(verdict)) => Ok(verdict.outcome),
            Ok(Said::Working(progress)) => panic!("{progress}"),
            Err(error) => Err(error),
        };
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
            ("{}", "expected an outcome, or progress"),
            (
                r#"{"outcome":"retry","progress":""}"#,
                "expected an outcome, or progress",
            ),
            (r#"{"outcome":"released"}"#, "unknown variant"),
            (r#"{"outcome":"failed","eror":"x"}"#, "unknown field `eror`"),
            (&large, "at most 65536 bytes"),
        ] {
            let error = outcome(text).expect_err(part);
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_sign_of_life_is_no_outcome() {
        let said = parse(br#"{"progress":"page 3 of 9"}"#);
        assert_eq!(said, Ok(Said::Working("page 3 of 9".to_owned())));
    }
}
