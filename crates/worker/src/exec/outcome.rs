//! What a command's end means for the job.
//!
//! | exit code | outcome |
//! |---|---|
//! | 0 | succeeded; standard output is the result |
//! | 65 (`EX_DATAERR`) | invalid: dead at once |
//! | 75 (`EX_TEMPFAIL`) and every other | retry |
//!
//! The codes are those of `sysexits.h`. The class is always *error*: an exit code does not say who is to blame, so it
//! speaks to the controller as a 500 of an app does. [`super::guard`] answers 128 + n for a signal, as shells do.

use bytes::Bytes;

use super::guard::SIGNALLED;
use crate::{JobError, Verdict};

const DATA_ERROR: i32 = 65;
const TEMPORARY_FAILURE: i32 = 75;
/// Linux has 64.
const SIGNALS: std::ops::RangeInclusive<i32> = SIGNALLED + 1..=SIGNALLED + 64;

/// How a command ended.
#[derive(Debug)]
pub(super) struct End {
    /// The guard's exit code; `None`: it did not get to exit.
    pub(super) code: Option<i32>,
    /// Set if it was told to stop: why.
    pub(super) told: Option<&'static str>,
    pub(super) stdout: Bytes,
    /// The end of standard error.
    pub(super) stderr: String,
}

/// The verdict, and the word under which it is counted.
pub(super) fn of(end: End) -> (Verdict, &'static str) {
    let Some(code) = end.code else {
        return (
            JobError::retry("the process that guards the command was killed").into(),
            "guard_killed",
        );
    };
    if code == 0 {
        return (Verdict::succeeded(end.stdout), "succeeded");
    }
    let mut error = match code {
        _ if SIGNALS.contains(&code) => format!("ended by signal {} (exit code {code})", code - SIGNALLED),
        code => format!("exit code {code}"),
    };
    if let Some(why) = end.told {
        error = format!("{why}: {error}");
    }
    if !end.stderr.is_empty() {
        error = format!("{error}: {}", end.stderr);
    }
    match code {
        DATA_ERROR => (JobError::invalid(error).into(), "invalid"),
        _ if end.told.is_some() => (JobError::retry(error).into(), "stopped"),
        TEMPORARY_FAILURE => (JobError::retry(error).into(), "retry"),
        _ if SIGNALS.contains(&code) => (JobError::retry(error).into(), "signalled"),
        _ => (JobError::retry(error).into(), "failed"),
    }
}

#[cfg(test)]
mod tests {
    use tidegate_protocol::domain::Outcome;

    use super::*;

    fn outcome(code: Option<i32>, told: Option<&'static str>) -> (Outcome, &'static str) {
        let end = End {
            code,
            told,
            stdout: "out".into(),
            stderr: "the end".to_owned(),
        };
        let (verdict, word) = of(end);
        (verdict.outcome, word)
    }

    #[test]
    fn exit_codes_have_outcomes() {
        let retry = |error: &str| Outcome::Retry {
            error: error.to_owned(),
            after_ms: 0,
        };
        let invalid = Outcome::Invalid {
            error: "exit code 65: the end".to_owned(),
        };
        let succeeded = Outcome::Succeeded { result: "out".into() };
        let killed = "the process that guards the command was killed";
        let deadline = "stopped before its time was up";
        for (code, told, expected, word) in [
            (Some(0), None, succeeded.clone(), "succeeded"),
            (Some(0), Some(deadline), succeeded, "succeeded"), // it finished in its grace
            (Some(65), None, invalid, "invalid"),
            (Some(75), None, retry("exit code 75: the end"), "retry"),
            (Some(1), None, retry("exit code 1: the end"), "failed"),
            (Some(255), None, retry("exit code 255: the end"), "failed"),
            (
                Some(137),
                None,
                retry("ended by signal 9 (exit code 137): the end"),
                "signalled",
            ),
            (
                Some(143),
                Some(deadline),
                retry("stopped before its time was up: ended by signal 15 (exit code 143): the end"),
                "stopped",
            ),
            (None, None, retry(killed), "guard_killed"),
        ] {
            assert_eq!(outcome(code, told), (expected, word), "{code:?}");
        }
    }
}
