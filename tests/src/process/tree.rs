//! A process with everything that it has started, wherever that has gone: servers put their children into groups of
//! their own, where a signal to the group does not reach them.

use rustix::process::{Pid, Signal, kill_process};
use std::time::{Duration, Instant};

/// A killed process is gone in moments, unless it waits for a disk.
const END_TIMEOUT: Duration = Duration::from_secs(5);
const END_PAUSE: Duration = Duration::from_millis(2);

/// Stops the whole tree where it stands, parents first: a parent that stands starts and reaps nothing, so the list is
/// complete and no id in it can come to mean another process.
pub(super) fn freeze(root: Pid) -> Vec<Pid> {
    let mut tree = vec![root];
    let mut seen = 0;
    while let Some(pid) = tree.get(seen).copied() {
        send(pid, Signal::STOP);
        tree.extend(children(pid));
        seen += 1;
    }
    tree
}

/// Children first, so that each finds its own stopped parent when it goes on.
pub(super) fn thaw(root: Pid) {
    for pid in freeze(root).into_iter().rev() {
        send(pid, Signal::CONT);
    }
}

/// Waits for their end, too: what they held (memory, ports) is free afterwards.
pub(super) fn kill(root: Pid) {
    let tree = freeze(root);
    tree.iter().for_each(|pid| send(*pid, Signal::KILL));
    let started = Instant::now();
    let lives = |pid: &Pid| stat(*pid).is_some_and(|(state, _)| state != "Z");
    while tree.iter().any(lives) && started.elapsed() < END_TIMEOUT {
        std::thread::sleep(END_PAUSE);
    }
}

/// One that has just ended needs no signal.
fn send(pid: Pid, signal: Signal) {
    let _ = kill_process(pid, signal);
}

fn children(parent: Pid) -> Vec<Pid> {
    let of_parent = |pid: Pid| (stat(pid)?.1 == parent.as_raw_nonzero().get()).then_some(pid);
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(Pid::from_raw)
        .filter_map(of_parent)
        .collect()
}

/// State and parent; `None`: it is gone.
fn stat(pid: Pid) -> Option<(String, i32)> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // The program's name, in brackets, may itself contain blanks and brackets.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}
