//! The guard of one command: the process between the worker and the command.
//!
//! Its standard input is its line to the worker: first the payload, then a [`TERM`] byte when the command is to be told
//! to stop. The line's end means kill: the worker closes it to that end, and the system closes it when the worker is
//! gone. Standard output and error are the command's.
//!
//! It has one thread and keeps no secret: limits, program and arguments are its arguments.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read, Seek, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::{CommandExt, ExitStatusExt},
    },
    process::{Child, Command},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{MemfdFlags, memfd_create},
    process::{
        Pid, PidfdFlags, Resource, Rlimit, Signal, WaitOptions, getrlimit, kill_process, kill_process_group,
        pidfd_open, set_child_subreaper, setrlimit, waitpid,
    },
};
use tidegate_protocol::limits::PAYLOAD_BYTES_MAX;

/// On the line after the payload: SIGTERM to the command's process group.
pub(super) const TERM: u8 = b'T';
/// The command could not be started: what shells answer then.
const CANNOT_START: i32 = 126;
/// A command that was ended by a signal: this plus the signal's number, as shells have it.
pub(super) const SIGNALLED: i32 = 128;
/// A process over its processor time gets SIGXCPU, and SIGKILL this many seconds later.
const CPU_EXTRA_S: u64 = 2;
/// How often zombies that the command's processes left behind are collected while it runs.
const REAP_EVERY: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};
/// Each round kills every child; a child's children are ours in the next. More generations than this are a fork bomb,
/// which is left to whatever limits the machine's processes.
const ROUNDS_MAX: u32 = 10_000;

/// What each process of a command may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) memory_bytes: Option<u64>,
    pub(super) cpu_s: Option<u64>,
    pub(super) open_files: Option<u64>,
}

impl Limits {
    pub(super) fn to_args(self) -> [OsString; 3] {
        let text = |limit: Option<u64>| limit.unwrap_or(0).to_string().into();
        [text(self.memory_bytes), text(self.cpu_s), text(self.open_files)]
    }

    fn from_args(args: &mut impl Iterator<Item = OsString>) -> Option<Self> {
        let mut limit = || {
            let number: u64 = args.next()?.to_str()?.parse().ok()?;
            Some(Some(number).filter(|number| *number > 0))
        };
        Some(Self {
            memory_bytes: limit()?,
            cpu_s: limit()?,
            open_files: limit()?,
        })
    }

    /// Sets them for this process: the command inherits them, and the guard itself needs next to nothing.
    ///
    /// Memory is limited as data, not as address space: Node, Java and Go reserve many times what they use.
    fn set(self) -> io::Result<()> {
        for (resource, limit, extra) in [
            (Resource::Data, self.memory_bytes, 0),
            (Resource::Cpu, self.cpu_s, CPU_EXTRA_S),
            (Resource::Nofile, self.open_files, 0),
        ] {
            let Some(limit) = limit else { continue };
            // What the worker itself was limited to cannot be raised.
            let most = getrlimit(resource).maximum.unwrap_or(u64::MAX);
            let new = Rlimit {
                current: Some(limit.min(most)),
                maximum: Some(limit.saturating_add(extra).min(most)),
            };
            setrlimit(resource, new)?;
        }
        Ok(())
    }
}

/// The whole process. Gives its exit code: the command's, or [`SIGNALLED`] plus what ended it.
pub(super) fn main(mut args: impl Iterator<Item = OsString>) -> i32 {
    let limits = Limits::from_args(&mut args);
    let program = args.next();
    let (Some(limits), Some(program)) = (limits, program) else {
        eprintln!("tidegate: the guard of a command is started by a worker, not by hand");
        return CANNOT_START;
    };
    match guard(limits, &program, args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tidegate: cannot run {}: {error}", program.display());
            CANNOT_START
        }
    }
}

fn guard(limits: Limits, program: &OsStr, args: impl Iterator<Item = OsString>) -> io::Result<i32> {
    let mut line = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let payload = payload(&mut line)?;
    set_child_subreaper(Some(rustix::process::getpid()))?;
    limits.set()?;
    let mut command = Command::new(program);
    command.args(args).stdin(payload).process_group(0);
    let mut leader = command.spawn()?;
    drop(command); // with it our end of the payload
    let ended = watch(&leader, line);
    // It has ended and is not yet waited for, so its number is still its own.
    let _ = kill_process_group(Pid::from_child(&leader), Signal::KILL);
    let status = leader.wait()?;
    kill_children();
    ended?;
    Ok(status
        .code()
        .or(status.signal().map(|signal| SIGNALLED + signal))
        .unwrap_or(CANNOT_START))
}

/// The payload as a file: the command may read it, or not, without anyone waiting for it.
fn payload(line: &mut File) -> io::Result<File> {
    let mut length = [0; 4];
    line.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > PAYLOAD_BYTES_MAX {
        return Err(io::Error::other("the payload is too large"));
    }
    let mut payload = vec![0; length];
    line.read_exact(&mut payload)?;
    let file: OwnedFd = memfd_create("payload", MemfdFlags::CLOEXEC)?;
    let mut file = File::from(file);
    file.write_all(&payload)?;
    file.rewind()?;
    Ok(file)
}

/// Until the command has ended: does what the line says.
fn watch(leader: &Child, line: File) -> io::Result<()> {
    let pid = Pid::from_child(leader);
    let ended = pidfd_open(pid, PidfdFlags::empty())?;
    let mut line = Some(line);
    loop {
        let mut watched = vec![PollFd::new(&ended, PollFlags::IN)];
        watched.extend(line.as_ref().map(|line| PollFd::new(line, PollFlags::IN)));
        match poll(&mut watched, Some(&REAP_EVERY)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                let _ = kill_process_group(pid, Signal::KILL);
                return Err(error.into());
            }
        }
        if !watched[0].revents().is_empty() {
            return Ok(());
        }
        let spoken = watched.get(1).is_some_and(|line| !line.revents().is_empty());
        drop(watched);
        if spoken {
            let mut byte = [0];
            let heard = line.as_mut().map(|line| line.read(&mut byte));
            let signal = match heard {
                Some(Ok(1)) if byte[0] == TERM => Signal::TERM,
                _ => {
                    line = None;
                    Signal::KILL
                }
            };
            // Fails only when the group is empty, and the unreaped leader keeps it from being empty.
            let _ = kill_process_group(pid, signal);
        }
        for child in children().into_iter().filter(|child| *child != pid) {
            let _ = waitpid(Some(child), WaitOptions::NOHANG);
        }
    }
}

/// Ends what has left the command's process group: with the command gone, it is our child.
fn kill_children() {
    for _ in 0..ROUNDS_MAX {
        let children = children();
        if children.is_empty() {
            return;
        }
        for child in children {
            let _ = kill_process(child, Signal::KILL);
            let _ = waitpid(Some(child), WaitOptions::empty());
        }
    }
}

fn children() -> Vec<Pid> {
    // A kernel without this list leaves us with the process group.
    let list = std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    let pids = list.split_whitespace().filter_map(|pid| pid.parse().ok());
    pids.filter_map(Pid::from_raw).collect()
}
