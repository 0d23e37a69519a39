//! One command from its start to the end of everything that it started.

use std::{process::Stdio, sync::Arc, time::Duration};

use bytes::Bytes;
use tidegate_protocol::{domain::FailureClass, limits::RESULT_BYTES_MAX};
use tokio::{
    io::AsyncWriteExt,
    process::{Child, ChildStdin, Command},
    sync::oneshot,
};

use super::{Plan, guard::TERM, outcome, output};
use crate::{Job, JobContext, JobError, Verdict, delivery::rfc3339, telemetry::handed_on};

/// Kept of standard error for the error text: it must leave room for ours.
const STDERR_BYTES_MAX: usize = 1_500;
/// SIGTERM does not come before three quarters of the attempt's time have passed, however long the grace.
const GRACE_SHARE: u32 = 4;

/// Runs the command and sends the verdict. When nobody waits for it any more, kills the command. Ends when all is gone.
pub(super) async fn run(plan: Arc<Plan>, job: Job, done: oneshot::Sender<Verdict>) {
    let mut done = done;
    let (verdict, word) = match start(&plan, &job.context) {
        Ok(guard) => {
            let end = attend(guard, &plan, &job, &mut done).await;
            if end.code != Some(0) {
                let job_id = job.context.job_id();
                // What it wrote is the app's, and may hold the payload: it is in the job's error.
                tracing::info!(%job_id, code = end.code, "command failed");
            }
            outcome::of(end)
        }
        Err(error) => {
            let error = JobError::retry(format!("cannot start the command: {error}"));
            // No processes or no memory left on this machine: as an app that is not there.
            (error.with_class(FailureClass::Down).into(), "not_started")
        }
    };
    plan.counters.ended(word);
    let _ = done.send(verdict); // the attempt was stopped
}

fn start(plan: &Plan, context: &JobContext) -> std::io::Result<Child> {
    let mut command = Command::new(&plan.guard);
    command
        .args(&plan.args)
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // The worker's own settings, secrets among them, are none of the command's business.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TIDEGATE_") {
            command.env_remove(name);
        }
    }
    command
        .env("TIDEGATE_JOB_ID", context.job_id().to_string())
        .env("TIDEGATE_QUEUE", context.queue().as_str())
        .env("TIDEGATE_ATTEMPT", context.attempt().to_string())
        .env("TIDEGATE_FENCE", context.fence().to_string());
    if let Some(deadline_ms) = context.deadline_ms() {
        command.env("TIDEGATE_DEADLINE", rfc3339(deadline_ms));
    }
    if let Some((traceparent, _)) = handed_on(context) {
        command.env("TIDEGATE_TRACEPARENT", traceparent);
    }
    command.spawn()
}

async fn attend(
    mut guard: Child,
    plan: &Plan,
    job: &Job,
    done: &mut oneshot::Sender<Verdict>,
) -> outcome::End {
    let line = guard.stdin.take();
    let (stdout, stderr) = (guard.stdout.take(), guard.stderr.take());
    // A command that says something is alive.
    let alive = |line: &str| job.context.heartbeat(line);
    let reading = async {
        let stdout = stdout.expect("it is piped");
        let stderr = stderr.expect("it is piped");
        tokio::join!(
            output::head(stdout, RESULT_BYTES_MAX),
            output::tail(stderr, STDERR_BYTES_MAX, alive)
        )
    };
    let watching = watch(&mut guard, Line(line), plan.grace, job, done);
    // Both outputs end when the guard has killed all that could still write.
    let ((code, told), ((stdout, cut), stderr)) = tokio::join!(watching, reading);
    if cut {
        tracing::warn!(max = RESULT_BYTES_MAX, "the command's output is too large, cut");
        plan.counters.cut();
    }
    outcome::End {
        code,
        told,
        stdout,
        stderr,
    }
}

async fn watch(
    guard: &mut Child,
    mut line: Line,
    grace: Duration,
    job: &Job,
    done: &mut oneshot::Sender<Verdict>,
) -> (Option<i32>, Option<&'static str>) {
    line.payload(&job.payload).await;
    let left = job.context.time_left();
    let term = tokio::time::sleep(left - grace.min(left / GRACE_SHARE));
    let mut term = std::pin::pin!(term);
    let mut told = None;
    loop {
        tokio::select! {
            ended = guard.wait() => {
                let code = ended.inspect_err(|error| tracing::error!(%error, "a command's end was not learnt"));
                return (code.ok().and_then(|status| status.code()), told);
            }
            () = done.closed(), if line.is_open() => line.close(),
            () = job.context.cancelled(), if told.is_none() => {
                told = Some("stopped");
                line.term().await;
            }
            () = &mut term, if told.is_none() => {
                told = Some("stopped before its time was up");
                line.term().await;
            }
        }
    }
}

/// The line to the guard. What cannot be written does not matter: the guard has ended then, and its end says why.
struct Line(Option<ChildStdin>);

impl Line {
    async fn payload(&mut self, payload: &Bytes) {
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        self.write(&length.to_be_bytes()).await;
        self.write(payload).await;
    }

    /// Tell the command to stop.
    async fn term(&mut self) {
        self.write(&[TERM]).await;
    }

    async fn write(&mut self, bytes: &[u8]) {
        if let Some(line) = &mut self.0 {
            let _ = line.write_all(bytes).await;
        }
    }

    fn is_open(&self) -> bool {
        self.0.is_some()
    }

    /// Kill the command.
    fn close(&mut self) {
        self.0 = None;
    }
}
