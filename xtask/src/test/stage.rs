//! One stage: a cargo command (or tidy), its output kept back, its tests counted.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::{tidy, workspace};

pub(crate) struct Stage {
    pub name: &'static str,
    cargo: &'static [&'static str],
    has_tests: bool,
}

#[derive(Default, Debug, PartialEq)]
pub(crate) struct Counts {
    pub passed: u64,
    pub failed: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Counts) {
        self.passed += other.passed;
        self.failed += other.failed;
    }

    /// Sums cargo's `test result:` lines.
    fn of(output: &str) -> Self {
        let mut counts = Self::default();
        for line in output.lines().filter(|line| line.starts_with("test result:")) {
            counts.passed += number_before(line, " passed");
            counts.failed += number_before(line, " failed");
        }
        counts
    }
}

fn number_before(line: &str, word: &str) -> u64 {
    let before = line.split(word).next().unwrap_or_default();
    before
        .rsplit(' ')
        .next()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

pub(crate) struct Outcome {
    pub ok: bool,
    pub counts: Counts,
}

impl Stage {
    pub(crate) const fn new(name: &'static str, cargo: &'static [&'static str]) -> Self {
        Self {
            name,
            cargo,
            has_tests: false,
        }
    }

    pub(crate) const fn tests(name: &'static str, cargo: &'static [&'static str]) -> Self {
        Self {
            name,
            cargo,
            has_tests: true,
        }
    }

    /// Never an error: whatever keeps a stage from running is a failure of that stage, so that the sum is always last.
    pub(crate) fn run(&self, verbose: bool) -> Outcome {
        let start = Instant::now();
        let done = if self.cargo.is_empty() {
            tidy_stage()
        } else {
            self.cargo_stage()
        };
        let (mut ok, output) = done.unwrap_or_else(|error| (false, format!("error: {error:#}")));
        let counts = Counts::of(&output);
        if self.has_tests && self.name == "test" && counts.passed + counts.failed == 0 {
            ok = false;
        }
        if verbose || !ok {
            println!("{output}");
        }
        let mark = if ok { "ok" } else { "FAILED" };
        println!("{:<7} {mark} ({} s)", self.name, start.elapsed().as_secs());
        Outcome { ok, counts }
    }

    fn cargo_stage(&self) -> Result<(bool, String)> {
        let mut command = Command::new(workspace::cargo());
        command
            .current_dir(workspace::root())
            .args(self.cargo)
            .env("CARGO_TERM_COLOR", "never");
        if std::env::var("CI").is_ok_and(|ci| ci == "true") {
            // Incremental files are of no use to a checkout that is built once.
            command.env("CARGO_INCREMENTAL", "0");
        }
        let output = command
            .output()
            .with_context(|| format!("start cargo {}", self.cargo.join(" ")))?;
        let text = [output.stderr, output.stdout].concat();
        Ok((
            output.status.success(),
            String::from_utf8_lossy(&text).into_owned(),
        ))
    }
}

fn tidy_stage() -> Result<(bool, String)> {
    let found = tidy::check(&workspace::root())?;
    let text: Vec<String> = found.iter().map(ToString::to_string).collect();
    Ok((!found.iter().any(tidy::Violation::is_error), text.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_summed_over_binaries() {
        let output = "running 2 tests\ntest result: ok. 12 passed; 0 failed; 0 ignored; finished in 0.1s\n\
            test result: FAILED. 3 passed; 2 failed; 1 ignored;\n";
        assert_eq!(
            Counts::of(output),
            Counts {
                passed: 15,
                failed: 2
            }
        );
        assert_eq!(Counts::of("error: could not compile"), Counts::default());
    }
}
