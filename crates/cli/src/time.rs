//! Times as people type them: `+5m` from now, or `2026-01-31T12:00:00Z`.

use std::time::{Duration, SystemTime};

/// A point in time; a duration after a plus sign counts from `now`.
pub fn parse(text: &str, now: SystemTime) -> Result<SystemTime, String> {
    if let Some(wait) = text.strip_prefix('+') {
        return duration(wait).map(|wait| now + wait);
    }
    humantime::parse_rfc3339_weak(text)
        .map_err(|_| format!("{text:?} is no time: use +5m or 2026-01-31T12:00:00Z"))
}

/// A point in the past: `10m` ago, or a time.
pub fn parse_past(text: &str, now: SystemTime) -> Result<SystemTime, String> {
    match humantime::parse_duration(text) {
        // A clock of Linux goes below zero; times of jobs do not.
        Ok(ago) => Ok(now
            .checked_sub(ago)
            .map_or(SystemTime::UNIX_EPOCH, |then| then.max(SystemTime::UNIX_EPOCH))),
        Err(_) => humantime::parse_rfc3339_weak(text)
            .map_err(|_| format!("{text:?} is no time: use 10m (ago) or 2026-01-31T12:00:00Z")),
    }
}

pub fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| format!("{text:?} is no duration: use 500ms, 5s, 2m or 1h"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_what_is_none() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        assert_eq!(parse("+5m", now), Ok(now + Duration::from_secs(300)));
        assert_eq!(
            parse("1970-01-01T00:00:07Z", now),
            Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(7))
        );
        assert_eq!(parse_past("10m", now), Ok(now - Duration::from_secs(600)));
        assert_eq!(parse_past("1000y", now), Ok(SystemTime::UNIX_EPOCH));
        assert!(parse_past("yesterday", now).unwrap_err().contains("10m"));
        assert!(parse("tomorrow", now).unwrap_err().contains("+5m"));
        assert!(duration("5 parsecs").unwrap_err().contains("5s"));
    }
}
