//! Delivers jobs to a command: one process an attempt, the payload on its standard input, its exit code is the outcome.
//!
//! Between the worker and the command stands a small process of its own, the [`guard`]: it sets the limits, and it kills
//! all that the command has started when the command ends, when the worker says so, and when the worker itself is gone.
//! So nothing is left behind, not even by `kill -9` of the worker, and not even what has left the process group.
//!
//! The guard is the program itself, started again: `main` begins with [`init`].

mod guard;
mod outcome;
mod output;
mod run;

use std::{
    ffi::OsString,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tidegate_chassis::telemetry::Meter;
use tokio::sync::oneshot;
use tracing::Instrument;

use crate::{Delivery, Job, JobError, Verdict, telemetry::DeliveryCounters};

/// First argument of a program that is to be the guard of a command.
const GUARD: &str = "exec-guard";

/// Below this the guard itself could not start the command.
pub const MEMORY_BYTES_MIN: u64 = 16 * 1024 * 1024;
/// Below this common programs cannot even load their libraries.
pub const OPEN_FILES_MIN: u64 = 16;
/// How long a command may clean up after SIGTERM, where nothing else is said.
pub const GRACE_DEFAULT: Duration = Duration::from_secs(5);

static INITIALISED: AtomicBool = AtomicBool::new(false);

/// The first line of the `main` of a program that runs commands. If this process was started as a command's guard, it
/// is one, and ends here; it must not have started threads before.
pub fn init() {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|arg| arg == GUARD) {
        std::process::exit(guard::main(args));
    }
    INITIALISED.store(true, Ordering::Relaxed);
}

/// Which command, and what it may use.
#[derive(Debug, Clone)]
pub struct ExecSettings {
    /// The program and its arguments. No shell is involved.
    pub command: Vec<String>,
    /// Bytes of data a process of it may have (`RLIMIT_DATA`); `None`: no limit.
    pub memory_bytes: Option<u64>,
    /// Processor time a process of it may use (`RLIMIT_CPU`), in whole seconds; `None`: no limit.
    pub cpu: Option<Duration>,
    /// Files a process of it may have open (`RLIMIT_NOFILE`); `None`: no limit.
    pub open_files: Option<u64>,
    /// SIGTERM comes this long before the attempt's time is up, at most a quarter of that time; SIGKILL when it is.
    pub grace: Duration,
    /// The program that is the guard: one whose `main` begins with [`init`]. `None`: this one.
    pub guard: Option<PathBuf>,
    /// Where to count; `None`: the process's meter.
    pub meter: Option<Meter>,
}

impl ExecSettings {
    /// The command without limits.
    pub fn new(command: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            command: command.into_iter().map(Into::into).collect(),
            memory_bytes: None,
            cpu: None,
            open_files: None,
            grace: GRACE_DEFAULT,
            guard: None,
            meter: None,
        }
    }
}

/// Why a command cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    #[error("no command: say what to run with --exec CMD ARGS (worker.exec.command)")]
    NoCommand,
    #[error("cannot run {program:?}: {why}")]
    NoProgram { program: String, why: &'static str },
    #[error("a memory limit of {bytes} bytes is too small: give at least 16MiB (--exec-memory)")]
    MemoryTooSmall { bytes: u64 },
    #[error("{files} open files are too few: give at least {OPEN_FILES_MIN} (--exec-files)")]
    TooFewFiles { files: u64 },
    #[error("a processor limit of less than a second cannot be kept: give at least 1s (--exec-cpu)")]
    CpuTooShort,
    #[error("this program cannot run commands: its main must begin with tidegate_worker::exec::init()")]
    NotInitialised,
    #[error("the path of this program, which guards the commands, is not known")]
    NoGuard(#[source] std::io::Error),
}

/// Runs a command for each job.
#[derive(Debug, Clone)]
pub struct ExecDelivery {
    plan: Arc<Plan>,
}

/// What does not change from job to job.
#[derive(Debug)]
struct Plan {
    guard: PathBuf,
    /// The guard's: limits, program, arguments.
    args: Vec<OsString>,
    grace: Duration,
    counters: DeliveryCounters,
}

impl ExecDelivery {
    /// # Errors
    /// The command cannot be run, or a limit makes no sense. That the program exists is checked here, so that a slip of
    /// the pen ends the worker and not its jobs.
    pub fn new(settings: ExecSettings) -> Result<Self, ExecError> {
        let program = settings.command.first().ok_or(ExecError::NoCommand)?;
        find(program)?;
        if let Some(bytes) = settings.memory_bytes.filter(|bytes| *bytes < MEMORY_BYTES_MIN) {
            return Err(ExecError::MemoryTooSmall { bytes });
        }
        if let Some(files) = settings.open_files.filter(|files| *files < OPEN_FILES_MIN) {
            return Err(ExecError::TooFewFiles { files });
        }
        if settings.cpu.is_some_and(|cpu| cpu < Duration::from_secs(1)) {
            return Err(ExecError::CpuTooShort);
        }
        let guard = match settings.guard {
            Some(guard) => guard,
            // Any other program, started again, would not be a guard but whatever it is.
            None if !INITIALISED.load(Ordering::Relaxed) => return Err(ExecError::NotInitialised),
            None => std::env::current_exe().map_err(ExecError::NoGuard)?,
        };
        let limits = guard::Limits {
            memory_bytes: settings.memory_bytes,
            cpu_s: settings.cpu.map(|cpu| cpu.as_secs()),
            open_files: settings.open_files,
        };
        let args = [GUARD.into()]
            .into_iter()
            .chain(limits.to_args())
            .chain(settings.command.iter().map(OsString::from))
            .collect();
        Ok(Self {
            plan: Arc::new(Plan {
                guard,
                args,
                grace: settings.grace,
                counters: DeliveryCounters::new(settings.meter, "exec"),
            }),
        })
    }
}

#[async_trait]
impl Delivery for ExecDelivery {
    async fn deliver(&self, job: Job) -> Verdict {
        let (done, verdict) = oneshot::channel();
        // In a task that the attempt waits for: dropping this future kills the command, and the attempt lasts until
        // everything of it is gone.
        let run = run::run(Arc::clone(&self.plan), job.clone(), done).in_current_span();
        job.context.blocking.spawn(run);
        let lost = |_| JobError::retry("the task that ran the command was lost").into();
        verdict.await.unwrap_or_else(lost)
    }
}

/// Looks for the program as the system will.
fn find(program: &str) -> Result<(), ExecError> {
    let failed = |why| ExecError::NoProgram {
        program: program.to_owned(),
        why,
    };
    let is_program = |path: &Path| {
        let file = path.metadata().ok().filter(std::fs::Metadata::is_file)?;
        Some(file.permissions().mode() & 0o111 != 0)
    };
    if program.contains('/') {
        return match is_program(Path::new(program)) {
            Some(true) => Ok(()),
            Some(false) => Err(failed("it is not executable (chmod +x)")),
            None => Err(failed("no such file")),
        };
    }
    #[allow(
        clippy::disallowed_methods,
        reason = "where programs are is the system's word, no setting of ours"
    )]
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| is_program(&folder.join(program)) == Some(true));
    found.then_some(()).ok_or_else(|| failed("it is not on PATH"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_refused_at_the_start() {
        let with = |change: fn(&mut ExecSettings)| {
            let mut settings = ExecSettings::new(["sh", "-c", "true"]);
            settings.guard = Some("guard".into());
            change(&mut settings);
            ExecDelivery::new(settings).map(drop)
        };
        with(|_| {}).expect("it can work");
        for (settings, text) in [
            (with(|s| s.command.clear()), "--exec CMD ARGS"),
            (
                with(|s| s.command[0] = "no-such-program".into()),
                "it is not on PATH",
            ),
            (
                with(|s| s.command[0] = "./no-such-program".into()),
                "no such file",
            ),
            (with(|s| s.command[0] = "/etc/passwd".into()), "chmod +x"),
            (with(|s| s.memory_bytes = Some(1_000_000)), "at least 16MiB"),
            (with(|s| s.open_files = Some(3)), "at least 16 (--exec-files)"),
            (with(|s| s.cpu = Some(Duration::from_millis(5))), "at least 1s"),
            (with(|s| s.guard = None), "exec::init()"),
        ] {
            let error = settings.expect_err(text);
            assert!(error.to_string().contains(text), "{error}");
        }
    }
}
