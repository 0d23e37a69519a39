//! Telling a running attempt to stop. The link decides, on its own thread; the attempt obeys on the handlers' threads.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use tidegate_protocol::domain::{FailureClass, Outcome};
use tokio_util::sync::CancellationToken;

use crate::{Verdict, heartbeat::Heartbeat};

/// Why an attempt is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The router says that the lease is not ours any more.
    Lost,
    /// The same, because an operator cancelled or deleted the job.
    Cancelled,
    /// We could not make sure in time that it still is.
    SelfFenced,
    TimedOut {
        after_ms: u64,
    },
    /// No heartbeat for longer than the policy allows.
    Silent {
        after_ms: u64,
    },
    DeadlinePassed,
    Draining,
}

impl Cause {
    /// What is settled for an attempt that was stopped; `own` is what the handler answered all the same, if it ended in
    /// time. A lease that is not ours carries no result: released frees its slot and says nothing else. `progress` is
    /// what the handler said last of where it was.
    pub(crate) fn verdict(self, own: Option<Verdict>, progress: &str) -> Verdict {
        let at = match progress {
            "" => String::new(),
            progress => format!("; last progress: {progress}"),
        };
        let released = |why: &str| Verdict {
            outcome: Outcome::Released {
                error: why.to_owned(),
            },
            class: None,
        };
        let retry = |error, class| Verdict {
            outcome: Outcome::Retry { error, after_ms: 0 },
            class: Some(class),
        };
        match self {
            Self::Lost => released("lease lost"),
            Self::Cancelled => released("cancelled"),
            Self::SelfFenced => released("lease not renewed in time, result discarded"),
            Self::TimedOut { after_ms } => {
                retry(format!("timed out after {after_ms} ms{at}"), FailureClass::Error)
            }
            Self::Silent { after_ms } => {
                retry(format!("no heartbeat for {after_ms} ms{at}"), FailureClass::Error)
            }
            // No attempt follows: the router ends a job past its deadline as expired.
            Self::DeadlinePassed => retry(
                "the job's deadline passed while it ran".to_owned(),
                FailureClass::Job,
            ),
            Self::Draining => match own {
                Some(
                    done @ Verdict {
                        outcome: Outcome::Succeeded { .. },
                        ..
                    },
                ) => done,
                _ => released("worker shut down"),
            },
        }
    }
}

/// One attempt's stop signal, shared by the link and the attempt.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop {
    token: CancellationToken,
    /// How long after the signal the handler is dropped. Set before the signal.
    grace: Arc<OnceLock<Duration>>,
    heartbeat: Arc<Heartbeat>,
}

impl Stop {
    /// The first word counts.
    pub(crate) fn tell(&self, grace: Duration) {
        let _ = self.grace.set(grace);
        self.token.cancel();
    }

    pub(crate) fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    pub(crate) fn heartbeat(&self) -> &Arc<Heartbeat> {
        &self.heartbeat
    }

    pub(crate) fn is_told(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Resolves when the handler is to be dropped.
    pub(crate) async fn grace_over(&self) {
        self.token.cancelled().await;
        tokio::time::sleep(self.grace.get().copied().unwrap_or_default()).await;
    }
}
