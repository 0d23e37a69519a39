//! A process under test: started in its own group, output in files, ended by its own id.

mod spawn;
mod tree;

use crate::sandbox::Sandbox;
use crate::wait::eventually;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub(crate) use spawn::{User, installed};

/// Shown of each output file when something fails.
const TAIL_LINES: usize = 60;

/// Settings that a developer's shell may carry and that would change what a test sees.
const REMOVED_ENV: [&str; 4] = ["RUST_LOG", "REDIS_URL", "DATABASE_URL", "NO_COLOR"];
const REMOVED_ENV_PREFIXES: [&str; 2] = ["TIDEGATE_", "OTEL_"];

/// A handle to a process of a [`Sandbox`]; clones mean the same process.
#[derive(Clone)]
pub struct Process {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    /// The id of the process and of its group. It cannot come to mean another process: the child is reaped only by
    /// [`Process::end`], so a signal never hits a stranger.
    pid: Pid,
    child: Mutex<Option<Child>>,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Process {
    /// Starts the built `tidegate` in the sandbox's directory with nothing of the caller's settings.
    pub fn tidegate<A: AsRef<OsStr>>(
        sandbox: &Sandbox,
        args: impl IntoIterator<Item = A>,
        env: &[(&str, &str)],
    ) -> Self {
        Self::built(sandbox, "tidegate", args, env)
    }

    /// The same of another of the workspace's binaries.
    pub fn built<A: AsRef<OsStr>>(
        sandbox: &Sandbox,
        name: &str,
        args: impl IntoIterator<Item = A>,
        env: &[(&str, &str)],
    ) -> Self {
        let mut command = Command::new(built(name));
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if REMOVED_ENV.contains(&&*text) || REMOVED_ENV_PREFIXES.iter().any(|p| text.starts_with(p)) {
                command.env_remove(&name);
            }
        }
        command.args(args).envs(env.iter().copied());
        Self::start(sandbox, command)
    }

    /// Starts any program; its output goes to files of the sandbox.
    pub fn start(sandbox: &Sandbox, command: Command) -> Self {
        Self::start_as(sandbox, command, None)
    }

    /// As [`Process::start`], as another user.
    pub(crate) fn start_as(sandbox: &Sandbox, command: Command, user: Option<User>) -> Self {
        let program = spawn::stem(command.get_program());
        if Path::new(command.get_program()).is_relative() {
            installed(&program); // says how to get it, where it is missing
        }
        sandbox.adopt(|number| {
            let name = format!("{number}-{program}");
            let stdout = sandbox.path().join(format!("{name}.stdout"));
            let stderr = sandbox.path().join(format!("{name}.stderr"));
            let child = spawn::spawn(
                command,
                user,
                spawn::Surroundings {
                    folder: sandbox.path(),
                    stdout: File::create(&stdout).expect("create the stdout file"),
                    stderr: File::create(&stderr).expect("create the stderr file"),
                },
            );
            let child = child.unwrap_or_else(|error| panic!("start {program}: {error}"));
            Self {
                inner: Arc::new(Inner {
                    name,
                    pid: Pid::from_child(&child),
                    child: Mutex::new(Some(child)),
                    stdout,
                    stderr,
                }),
            }
        })
    }

    pub fn pid(&self) -> i32 {
        self.inner.pid.as_raw_nonzero().get()
    }

    pub fn stdout(&self) -> String {
        read_lossy(&self.inner.stdout)
    }

    pub fn stderr(&self) -> String {
        read_lossy(&self.inner.stderr)
    }

    /// Waits for a whole line with `part` in it on stdout or stderr. Panics when the process exits without it.
    pub async fn wait_for_line(&self, part: &str, timeout: Duration) -> String {
        let found = eventually(timeout, format!("a line with {part:?}\n{self}"), async || {
            // Read the exit before the output: what was written before the exit is then surely seen.
            let exited = self.exit_code();
            let line = whole_line(&self.stdout(), part).or_else(|| whole_line(&self.stderr(), part));
            match (line, exited) {
                (Some(line), _) => Some(Ok(line)),
                (None, Some(code)) => Some(Err(code)),
                (None, None) => None,
            }
        });
        match found.await {
            Ok(line) => line,
            Err(code) => panic!("exited with {code} before a line with {part:?}\n{}", self.tail()),
        }
    }

    /// SIGKILL to the process and all its children, as a crash of the machine would.
    pub fn kill9(&self) {
        self.signal(Signal::KILL);
    }

    /// SIGTERM to the process only: a polite stop.
    pub fn sigterm(&self) {
        self.send(Signal::TERM);
    }

    /// SIGINT to the process only: Ctrl-C, and Postgres' fast stop.
    pub fn sigint(&self) {
        self.send(Signal::INT);
    }

    /// Stops the process where it stands: a stall, as a paused machine has it. Undone by [`Process::thaw`].
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// SIGKILL to it and to everything that it has started, in whatever group. What [`Process::kill9`] is to a program that
    /// stays in its group, this is to a server like Postgres.
    pub fn kill9_tree(&self) {
        self.unreaped(tree::kill);
    }

    /// As [`Process::freeze`], with everything that it has started.
    pub fn freeze_tree(&self) {
        self.unreaped(tree::freeze);
    }

    pub fn thaw_tree(&self) {
        self.unreaped(tree::thaw);
    }

    /// The exit code, 128 + n for signal n, or `None` while it runs.
    pub fn exit_code(&self) -> Option<i32> {
        // NOWAIT leaves the zombie: see `Inner::pid`.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let status = self.unreaped(|pid| rustix::process::waitid(WaitId::Pid(pid), options));
        let status = status.expect("ask for the state of a child")?;
        let signalled = status.terminating_signal().map(|signal| 128 + signal);
        status.exit_status().or(signalled)
    }

    pub async fn wait_exit(&self, timeout: Duration) -> i32 {
        let exit = eventually(timeout, format!("the exit of\n{self}"), async || self.exit_code());
        exit.await
    }

    /// Resident memory in KiB.
    pub fn rss_kb(&self) -> u64 {
        let status = self.proc_file("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        number
            .and_then(|number| number.parse().ok())
            .unwrap_or_else(|| panic!("no VmRSS of {self}"))
    }

    /// User and system time so far, in clock ticks (100 a second).
    pub fn cpu_ticks(&self) -> u64 {
        ticks_of(&self.proc_file("stat"))
    }

    /// The end of both outputs, for a failure message.
    pub fn tail(&self) -> String {
        let exit = self
            .exit_code()
            .map_or("running".to_owned(), |code| format!("exited with {code}"));
        let (out, err) = (last_lines(&self.stdout()), last_lines(&self.stderr()));
        format!("--- {self}, {exit}; stdout ends:\n{out}--- stderr ends:\n{err}---")
    }

    /// Kills whatever is left of its group and reaps it. Only the sandbox does this.
    pub(crate) fn end(&self) {
        let mut child = self.inner.child.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mut child) = child.take() {
            tree::kill(self.inner.pid);
            // What outlived its parent is still in the group. Fails only when the group is empty, and an unreaped child
            // keeps it from being empty.
            let _ = rustix::process::kill_process_group(self.inner.pid, Signal::KILL);
            let _ = child.wait();
        }
    }

    fn send(&self, signal: Signal) {
        self.unreaped(|pid| rustix::process::kill_process(pid, signal))
            .expect("signal a child");
    }

    fn signal(&self, signal: Signal) {
        self.unreaped(|pid| rustix::process::kill_process_group(pid, signal))
            .expect("signal a child's group");
    }

    /// Uses the id while it is certain to mean this process.
    fn unreaped<T>(&self, act: impl FnOnce(Pid) -> T) -> T {
        let child = self.inner.child.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(child.is_some(), "{self} is used after its sandbox ended");
        act(self.inner.pid)
    }

    fn proc_file(&self, name: &str) -> String {
        let path = format!("/proc/{}/{name}", self.pid());
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {path}: {error}\n{}", self.tail()))
    }
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} (pid {})", self.inner.name, self.pid())
    }
}

/// What [`Process::cpu_ticks`] is of this process.
pub fn own_cpu_ticks() -> u64 {
    ticks_of(&fs::read_to_string("/proc/self/stat").expect("a process can read about itself"))
}

fn ticks_of(stat: &str) -> u64 {
    // The program's name, in brackets, may itself contain blanks and brackets.
    let (_, fields) = stat
        .rsplit_once(')')
        .expect("stat has the program's name in brackets");
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |index: usize| fields[index].parse::<u64>().expect("stat has numbers");
    ticks(11) + ticks(12)
}

/// One of the workspace's binaries.
pub fn built(name: &str) -> PathBuf {
    let binary = build_folder().join(name);
    assert!(
        binary.is_file(),
        "{} does not exist: run cargo build --workspace --bins first",
        binary.display()
    );
    binary
}

/// `target/<profile>`. Cargo puts test executables into its folder `deps`.
pub(crate) fn build_folder() -> PathBuf {
    let this = std::env::current_exe().expect("a process knows its executable");
    let dir = this.parent().expect("an executable is in a directory");
    match dir.ends_with("deps") {
        true => dir.parent().unwrap_or(dir).to_owned(),
        false => dir.to_owned(),
    }
}

/// A process may be killed in the middle of a character, so no output is worth a panic.
fn read_lossy(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// The last line may be half written: only lines with their end count.
fn whole_line(output: &str, part: &str) -> Option<String> {
    let complete = &output[..output.rfind('\n')? + 1];
    complete
        .lines()
        .find(|line| line.contains(part))
        .map(str::to_owned)
}

fn last_lines(output: &str) -> String {
    let lines: Vec<&str> = output.lines().collect();
    let from = lines.len().saturating_sub(TAIL_LINES);
    lines[from..].iter().map(|line| format!("    {line}\n")).collect()
}
