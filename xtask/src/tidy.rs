//! `cargo xtask tidy`: the rules of the repository that no compiler checks.
//!
//! Layering, the size of files, where errors are made: rules like these decay one reasonable exception at a time unless
//! something says no. Each check is a pure function over a path and a text, so it has tests that prove it does.

mod code;
mod form;
mod layers;
mod links;
mod logs;
mod source;

use crate::{codegen, workspace};
use anyhow::{Context, Result};
use source::Source;
use std::fmt;
use std::path::Path;
use std::process::{Command, ExitCode};

/// One broken rule, and what to do about it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    path: String,
    line: usize,
    rule: &'static str,
    fix: String,
    severity: Severity,
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Severity {
    Error,
    /// Shown, but lets the check pass.
    Warning,
}

impl Violation {
    fn new(path: &str, line: usize, rule: &'static str, fix: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            line,
            rule,
            fix: fix.into(),
            severity: Severity::Error,
        }
    }

    fn warning(self) -> Self {
        Self {
            severity: Severity::Warning,
            ..self
        }
    }

    pub(crate) fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let note = if self.is_error() { "" } else { "warning: " };
        write!(
            f,
            "{}:{}: {note}{}: {}",
            self.path, self.line, self.rule, self.fix
        )
    }
}

pub(crate) fn run() -> Result<ExitCode> {
    let found = check(&workspace::root())?;
    for violation in &found {
        println!("{violation}");
    }
    let errors = found.iter().filter(|violation| violation.is_error()).count();
    println!("tidy: {errors} to fix");
    Ok(if errors == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// All violations in the workspace, sorted by place.
pub(crate) fn check(root: &Path) -> Result<Vec<Violation>> {
    let mut found = layers::check(root)?;
    for path in codegen::stale_files(root)? {
        found.push(Violation::new(
            &path,
            1,
            "stale-codegen",
            "run cargo xtask codegen",
        ));
    }
    for path in tracked_files(root)? {
        // What is not text (descriptors, images) has no lines to judge.
        let Some(text) = read_text(root, &path)? else {
            continue;
        };
        found.extend(check_file(root, &Source::new(&path, &text)));
    }
    found.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
    Ok(found)
}

fn check_file(root: &Path, source: &Source<'_>) -> Vec<Violation> {
    if source.is_generated() {
        return Vec::new();
    }
    let mut found = form::check(source);
    found.extend(code::check(source));
    found.extend(logs::check(source));
    found.extend(links::check(source, &|target| root.join(target).exists()));
    found
}

/// What git knows or would add: a violation should show before the commit, not after it.
fn tracked_files(root: &Path) -> Result<Vec<String>> {
    let mut command = Command::new("git");
    command
        .current_dir(root)
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let listed = workspace::output_of(&mut command).context("list the files of the repository")?;
    Ok(listed.split_terminator('\0').map(str::to_owned).collect())
}

/// `None` for a file that is not text, is gone (deleted, not yet committed) or is a link to a directory.
fn read_text(root: &Path, path: &str) -> Result<Option<String>> {
    let full = root.join(path);
    if !full.is_file() {
        return Ok(None);
    }
    let bytes = std::fs::read(&full).with_context(|| format!("read {path}"))?;
    Ok(String::from_utf8(bytes).ok())
}
