//! How busy the machine is, and how much of it is ours: a run on a busy machine measures the machine.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

/// The kernel counts in hundredths of a second.
const TICKS_PER_SECOND: f64 = 100.0;

/// Counters at one moment.
pub struct Cpu {
    at: Instant,
    busy: u64,
    all: u64,
    own: u64,
    cores: usize,
}

/// Shares of all cores, in percent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Used {
    pub machine_pct: f64,
    /// Of this process and everything that it has started.
    pub own_pct: f64,
}

impl Cpu {
    pub fn now() -> Self {
        let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let (busy, all, cores) = machine(&stat);
        Self {
            at: Instant::now(),
            busy,
            all,
            own: own(std::process::id(), &processes()),
            cores,
        }
    }

    pub fn since(&self, earlier: &Self) -> Used {
        let share = |part: u64, whole: f64| {
            if whole > 0.0 {
                100.0 * part as f64 / whole
            } else {
                0.0
            }
        };
        let seconds = (self.at - earlier.at).as_secs_f64();
        Used {
            machine_pct: share(self.busy - earlier.busy, (self.all - earlier.all) as f64),
            own_pct: share(
                self.own.saturating_sub(earlier.own),
                seconds * TICKS_PER_SECOND * self.cores as f64,
            ),
        }
    }
}

/// Busy and all ticks of all cores, and how many there are.
fn machine(stat: &str) -> (u64, u64, usize) {
    let cores = stat.lines().filter(|line| line.starts_with("cpu")).count();
    let first = stat.lines().next().unwrap_or_default();
    // user nice system idle iowait irq softirq steal; guests are counted in user.
    let ticks = first
        .split_whitespace()
        .skip(1)
        .take(8)
        .map(|n| n.parse().unwrap_or(0));
    let ticks: Vec<u64> = ticks.collect();
    let all: u64 = ticks.iter().sum();
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    (all - idle, all, cores.saturating_sub(1).max(1))
}

/// Parent and ticks of each process, those of children that it has waited for included.
fn processes() -> BTreeMap<u32, (u32, u64)> {
    let folders = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = folders.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some((pid, parent_and_ticks(&stat)?))
    })
    .collect()
}

fn parent_and_ticks(stat: &str) -> Option<(u32, u64)> {
    // The program's name, in brackets, may itself contain blanks and brackets.
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let ticks = number(11)? + number(12)? + number(13)? + number(14)?;
    Some((u32::try_from(number(1)?).ok()?, ticks))
}

fn own(root: u32, processes: &BTreeMap<u32, (u32, u64)>) -> u64 {
    let mut ours = BTreeSet::from([root]);
    // A child is found after its parent; ids wrap around, so once through is not enough.
    loop {
        let found: Vec<u32> = processes
            .iter()
            .filter(|(pid, (parent, _))| ours.contains(parent) && !ours.contains(pid))
            .map(|(pid, _)| *pid)
            .collect();
        if found.is_empty() {
            break;
        }
        ours.extend(found);
    }
    ours.iter()
        .filter_map(|pid| processes.get(pid))
        .map(|(_, ticks)| ticks)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_texts_are_read() {
        let stat =
            "cpu  10 0 5 80 5 0 0 0 3 0\ncpu0 5 0 2 40 3 0 0 0 0 0\ncpu1 5 0 3 40 2 0 0 0 0 0\nintr 1\n";
        assert_eq!(machine(stat), (15, 100, 2));
        let line = "42 (a (b) c) S 7 42 42 0 -1 0 1 2 3 4 100 20 3 4 20 0 1 0";
        assert_eq!(parent_and_ticks(line), Some((7, 127)));
        let tree = BTreeMap::from([(7, (1, 1)), (42, (7, 10)), (3, (42, 100)), (5, (1, 1_000))]);
        assert_eq!(own(7, &tree), 111);
    }

    #[test]
    fn own_work_is_seen() {
        let before = Cpu::now();
        let begun = Instant::now();
        while begun.elapsed().as_millis() < 200 {
            std::hint::spin_loop();
        }
        let used = Cpu::now().since(&before);
        assert!(used.own_pct > 1.0 && used.machine_pct > 0.0, "{used:?}");
    }
}
