//! A scenario for real servers: what happens, in the words of the simulation, and beside it what only real servers need.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use tidegate_sim::scenario::{Expect, Scenario};

use super::Arm;

/// One file of `tests/scenarios`.
#[derive(Clone, Debug)]
pub struct Script {
    /// Its number in the list of scenarios, as text.
    pub number: String,
    pub model: Scenario,
    pub live: Live,
}

/// The table `[live]`. Times in seconds since the start.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Live {
    /// What is compared unless something else is asked for.
    pub arms: Vec<Arm>,
    /// More than one share a ledger: one leads, the others stand by. Default 1.
    pub controllers: Option<usize>,
    /// Slots of each worker, in place of `fleet`.
    pub slots: Option<Vec<u32>>,
    /// The leading controller is killed.
    pub kill_leader_s: Option<f64>,
    /// The first worker is cut off from routers and controllers, but not from the resource.
    pub partition_s: Option<(f64, f64)>,
    /// The stretch that measures of a window are about.
    pub window_s: Option<(f64, f64)>,
    pub expect: Vec<Expect>,
}

impl Script {
    /// Those of the repository, in order.
    ///
    /// # Errors
    /// A file that is no scenario.
    pub fn all() -> Result<Vec<Self>> {
        files()?.iter().map(|path| Self::load(path)).collect()
    }

    /// By number (`2`) or by the name of its file (`seed-step`).
    ///
    /// # Errors
    /// There is none.
    pub fn named(name: &str) -> Result<Self> {
        let files = files()?;
        let wanted = |path: &&PathBuf| {
            let (number, stem) = parts(path);
            name == number || name == stem || name == format!("{number:0>2}-{stem}")
        };
        match files.iter().find(wanted) {
            Some(path) => Self::load(path),
            None => {
                let known: Vec<String> = files.iter().map(|path| parts(path).0).collect();
                bail!(
                    "there is no scenario {name:?}: there are {} and all",
                    known.join(", ")
                )
            }
        }
    }

    fn load(path: &Path) -> Result<Self> {
        let model = Scenario::load(path)?;
        let live = model.live.clone().context("there is no [live]");
        let live = live.and_then(|table| Ok(table.try_into::<Live>()?));
        let script = Self {
            number: parts(path).0,
            model,
            live: live.with_context(|| format!("{} is no scenario for real servers", path.display()))?,
        };
        script
            .check()
            .with_context(|| format!("{} asks for what real servers cannot do", path.display()))?;
        Ok(script)
    }

    fn check(&self) -> Result<()> {
        let model = &self.model;
        if model.resources.len() > 1 || model.queues.values().any(|queue| queue.work.len() > 1) {
            bail!("one resource at most, and one stage of work");
        }
        let has_only_latency = model.store.down_s.is_empty();
        if !has_only_latency || !model.misreports.is_empty() || !model.fleet.changes.is_empty() {
            bail!("no store.down_s, misreports or fleet.changes");
        }
        if !model.expect.is_empty() {
            bail!("expectations stand in [[live.expect]]");
        }
        if self.live.arms.is_empty() {
            bail!("live.arms says what is compared");
        }
        Ok(())
    }

    /// The same in so many seconds: what happens, happens sooner; jobs, rates and ticks are what they are.
    #[must_use]
    pub fn in_seconds(&self, seconds: f64) -> Self {
        let factor = seconds / self.model.length_s;
        let mut script = self.clone();
        script.model = self.model.stretched(factor);
        let live = &mut script.live;
        let stretch = |(from, until): (f64, f64)| (from * factor, until * factor);
        live.kill_leader_s = live.kill_leader_s.map(|at| at * factor);
        live.partition_s = live.partition_s.map(stretch);
        live.window_s = live.window_s.map(stretch);
        script
    }

    /// Slots of each worker.
    pub fn slots(&self) -> Vec<u32> {
        let fleet = &self.model.fleet;
        let alike = || vec![fleet.slots; fleet.workers as usize];
        self.live.slots.clone().unwrap_or_else(alike)
    }

    /// Units of the resource that jobs may hold, and that there are.
    pub fn hard_cap(&self) -> Option<(u32, u32)> {
        let resource = self.model.resources.values().next()?;
        Some((resource.hard_cap(), resource.capacity))
    }
}

fn files() -> Result<Vec<PathBuf>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let entries = std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    Ok(files)
}

/// `02-seed-step.toml`: 2, seed-step.
fn parts(path: &Path) -> (String, String) {
    let stem = path
        .file_stem()
        .and_then(|stem| stem.to_str())
        .unwrap_or_default();
    let (number, name) = stem.split_once('-').unwrap_or((stem, stem));
    (number.trim_start_matches('0').to_owned(), name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenarios_have_numbers_and_names_and_can_be_shortened() {
        let all = Script::all().expect("valid");
        let numbers: Vec<&str> = all.iter().map(|script| script.number.as_str()).collect();
        assert_eq!(numbers, ["2", "3", "4", "5", "6", "7", "10", "11", "12", "13"]);
        for script in &all {
            assert_eq!(script.model.length_s, 300.0, "{}", script.number);
            assert!(
                script.live.arms.iter().any(|arm| arm.is_judged()),
                "{}",
                script.number
            );
            assert!(script.slots().iter().sum::<u32>() >= 100, "{}", script.number);
        }
        let short = Script::named("worker-partitioned")
            .expect("it is there")
            .in_seconds(60.0);
        assert_eq!(short.model.length_s, 60.0);
        assert_eq!(short.live.partition_s, Some((24.0, 36.0)));
        assert_eq!(short.hard_cap(), Some((35, 50)));
        let why = Script::named("1").expect_err("only the model has it").to_string();
        assert!(why.contains("2, 3, 4"), "{why}");
    }
}
