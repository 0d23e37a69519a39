//! What the checks found, for people and for programs.

use serde_json::json;

use crate::{args::Format, output};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Ok,
    /// Works, but not as it should in production.
    Warning,
    Failed,
}

impl Status {
    fn as_str(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Warning => "warning",
            Status::Failed => "failed",
        }
    }
}

/// One check's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// Stays the same over versions.
    pub id: &'static str,
    pub status: Status,
    /// What was found.
    pub found: String,
    /// What to do; empty when it is ok.
    pub hint: &'static str,
}

#[derive(Debug, Default)]
pub(super) struct Report {
    findings: Vec<Finding>,
}

impl Report {
    pub(super) fn add(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    pub(super) fn ok(&mut self, id: &'static str, found: impl Into<String>) {
        self.say(id, Status::Ok, found, "");
    }

    pub(super) fn failed_check(&mut self, id: &'static str, found: impl Into<String>, hint: &'static str) {
        self.say(id, Status::Failed, found, hint);
    }

    fn say(&mut self, id: &'static str, status: Status, found: impl Into<String>, hint: &'static str) {
        self.add(Finding {
            id,
            status,
            found: found.into(),
            hint,
        });
    }

    /// `Ok`: as it should be; `Err`: of this status, and what to do.
    pub(super) fn judge(
        &mut self,
        id: &'static str,
        found: impl Into<String>,
        verdict: Result<(), (Status, &'static str)>,
    ) {
        match verdict {
            Ok(()) => self.ok(id, found),
            Err((status, hint)) => self.say(id, status, found, hint),
        }
    }

    pub(super) fn failed(&self) -> usize {
        self.findings
            .iter()
            .filter(|finding| finding.status == Status::Failed)
            .count()
    }

    #[cfg(test)]
    pub(super) fn status_of(&self, id: &str) -> Option<Status> {
        self.findings
            .iter()
            .find(|finding| finding.id == id)
            .map(|finding| finding.status)
    }

    pub(super) fn print(&self, format: Format) {
        if format == Format::Json {
            let checks: Vec<_> = self
                .findings
                .iter()
                .map(|finding| {
                    json!({ "id": finding.id, "status": finding.status.as_str(), "found": finding.found, "hint": finding.hint })
                })
                .collect();
            output::json_line(&json!({ "ok": self.failed() == 0, "checks": checks }));
            return;
        }
        for finding in &self.findings {
            output::line(format_args!(
                "{:<8} {:<26} {}",
                finding.status.as_str(),
                finding.id,
                finding.found
            ));
            if !finding.hint.is_empty() {
                output::line(format_args!("{:<36}{}", "", finding.hint));
            }
        }
    }
}

/// `Err` of `status` with the hint where `bad`.
pub(super) fn unless(bad: bool, status: Status, hint: &'static str) -> Result<(), (Status, &'static str)> {
    if bad { Err((status, hint)) } else { Ok(()) }
}
