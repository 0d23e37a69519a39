//! Completion calls: an app that answered 202 says later how the attempt ended, and until then that it still works on it.
//!
//! The header `tidegate-callback` of a delivery is a URL of this worker with the job, the fence and a signature in it,
//! under a key that this process made and nobody else has. Whatever a call says, it counts only while that very attempt
//! runs here: the attempt that waits is the only state, so a call that is late, repeated or of an older attempt finds
//! nothing. The worker keeps the lease and the permit meanwhile; the attempt's timeout bounds the wait.

mod completion;
mod server;

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use http::Uri;
use ring::{hmac, rand};
use tidegate_chassis::telemetry::{self, Counter, KeyValue, Meter};
use tidegate_protocol::domain::LeaseRef;
use tokio::sync::oneshot;

use super::HttpError;
use crate::{JobContext, Verdict, telemetry::CALLBACKS};

/// Attempts that were completed lately, so that a repeated call can be told from a late one. An app's retries come
/// within seconds.
const COMPLETED_MAX: usize = 1_024;

/// Why a call does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The signature is not ours.
    Forged,
    /// This attempt has been completed by an earlier call.
    Replayed,
    /// A newer attempt of the job runs here.
    Stale,
    /// Nobody waits: the attempt timed out, was cancelled or lost, or had another answer.
    Late,
    /// The body says no outcome.
    Invalid,
}

/// A worker's callback endpoint. Cheap to clone.
#[derive(Clone)]
pub struct Callbacks {
    shared: Arc<Shared>,
}

struct Shared {
    /// Without a slash at the end.
    base: String,
    key: hmac::Key,
    state: Mutex<State>,
    calls: Counter<u64>,
}

#[derive(Default)]
struct State {
    waiting: HashMap<LeaseRef, Waiter>,
    completed: VecDeque<LeaseRef>,
}

struct Waiter {
    verdict: oneshot::Sender<Verdict>,
    context: JobContext,
}

impl State {
    /// Why nobody waits for a call about this lease.
    fn refusal(&self, lease: &LeaseRef) -> Refusal {
        let newer = |other: &LeaseRef| other.id == lease.id && other.fence > lease.fence;
        match () {
            () if self.completed.contains(lease) => Refusal::Replayed,
            () if self.waiting.keys().any(newer) => Refusal::Stale,
            () => Refusal::Late,
        }
    }
}

impl Refusal {
    /// What it is counted as.
    fn word(self) -> &'static str {
        match self {
            Self::Forged => "forged",
            Self::Replayed => "replayed",
            Self::Stale => "stale",
            Self::Late => "late",
            Self::Invalid => "invalid",
        }
    }
}

impl std::fmt::Debug for Callbacks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Callbacks({})", self.shared.base)
    }
}

impl Callbacks {
    /// `base`: how apps reach what [`Self::serve`] serves, e.g. `http://worker-3.internal:9467`. Without a meter: the
    /// process's.
    pub fn new(base: &str, meter: Option<Meter>) -> Result<Self, HttpError> {
        let invalid = || HttpError::InvalidCallbackUrl { url: base.to_owned() };
        let uri: Uri = base.parse().map_err(|_| invalid())?;
        let scheme = uri.scheme_str().unwrap_or_default();
        if !["http", "https"].contains(&scheme)
            || uri.host().is_none_or(str::is_empty)
            || uri.query().is_some()
        {
            return Err(invalid());
        }
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &rand::SystemRandom::new());
        let meter = meter.unwrap_or_else(telemetry::meter);
        let shared = Shared {
            base: base.trim_end_matches('/').to_owned(),
            key: key.map_err(|_| HttpError::NoRandomness)?,
            state: Mutex::default(),
            calls: CALLBACKS.u64_counter(&meter),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// From now on a call for this attempt counts, until the answer is dropped.
    pub(super) fn expect(&self, context: &JobContext) -> Expected {
        let lease = LeaseRef {
            id: context.job_id().clone(),
            fence: context.fence(),
        };
        let (verdict, called) = oneshot::channel();
        let waiter = Waiter {
            verdict,
            context: context.clone(),
        };
        self.state().waiting.insert(lease.clone(), waiter);
        Expected {
            callbacks: self.clone(),
            lease,
            called,
        }
    }

    fn verify(&self, lease: &LeaseRef, signature: &str) -> Result<(), Refusal> {
        let signature = BASE64_URL_SAFE_NO_PAD
            .decode(signature)
            .map_err(|_| Refusal::Forged)?;
        // Takes the same time whatever is wrong.
        hmac::verify(&self.shared.key, signed_text(lease).as_bytes(), &signature).map_err(|_| Refusal::Forged)
    }

    /// A verified call with a verdict: counts, or does not.
    fn complete(&self, lease: &LeaseRef, verdict: Verdict) -> Result<(), Refusal> {
        let mut state = self.state();
        let Some(waiter) = state.waiting.remove(lease) else {
            return Err(state.refusal(lease));
        };
        // An attempt that was told to stop has lost its say.
        if waiter.context.is_cancelled() || waiter.verdict.send(verdict).is_err() {
            return Err(Refusal::Late);
        }
        if state.completed.len() == COMPLETED_MAX {
            state.completed.pop_front();
        }
        state.completed.push_back(lease.clone());
        Ok(())
    }

    /// A sign of life counts while the attempt waits.
    fn beat(&self, lease: &LeaseRef, progress: String) -> Result<(), Refusal> {
        let state = self.state();
        let waiter = state.waiting.get(lease).ok_or_else(|| state.refusal(lease))?;
        if waiter.context.is_cancelled() {
            return Err(Refusal::Late);
        }
        waiter.context.heartbeat(progress);
        Ok(())
    }

    fn count(&self, word: &'static str) {
        self.shared.calls.add(1, &[KeyValue::new("result", word)]);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is signed; the first line keeps the signature from meaning anything elsewhere.
fn signed_text(lease: &LeaseRef) -> String {
    format!("tidegate-callback\n{}\n{}", lease.id, lease.fence)
}

/// An attempt for which a call would count.
pub(super) struct Expected {
    callbacks: Callbacks,
    lease: LeaseRef,
    called: oneshot::Receiver<Verdict>,
}

impl Expected {
    /// The value of `tidegate-callback`.
    pub(super) fn url(&self) -> String {
        let Self { callbacks, lease, .. } = self;
        let signature = hmac::sign(&callbacks.shared.key, signed_text(lease).as_bytes());
        let signature = BASE64_URL_SAFE_NO_PAD.encode(signature);
        let (base, id, fence) = (&callbacks.shared.base, &lease.id, lease.fence);
        format!("{base}{}/{id}/{fence}/{signature}", server::PATH)
    }

    /// Until the call comes; whoever waits bounds it.
    pub(super) async fn call(mut self) -> Verdict {
        match (&mut self.called).await {
            Ok(verdict) => verdict,
            // Its sender goes only with a verdict, or when the attempt was told to stop.
            Err(_) => std::future::pending().await,
        }
    }

    /// What a call said before the app's answer was there. After this none counts.
    pub(super) fn called_already(mut self) -> Option<Verdict> {
        self.callbacks.state().waiting.remove(&self.lease);
        self.called.try_recv().ok()
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.callbacks.state().waiting.remove(&self.lease);
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
