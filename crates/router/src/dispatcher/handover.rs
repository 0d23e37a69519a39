//! Leases that a submit makes in the same store call, for workers that wait in vain.

use tidegate_store::{Grants, LeaseRequest, StoreResult};
use tokio::sync::mpsc;

use super::{Asked, Command};

/// A lease that somebody else makes together with a submit. What it reserves is given back when it ends, however that is: the
/// place for that word in the dispatcher's queue is taken beforehand, and the dispatcher does not end before it has come.
pub struct Handover {
    asked: Option<Asked>,
    back: Option<mpsc::OwnedPermit<Command>>,
}

impl Handover {
    pub(super) fn new(asked: Asked, back: mpsc::OwnedPermit<Command>) -> Self {
        let (asked, back) = (Some(asked), Some(back));
        Self { asked, back }
    }

    pub fn requests(&self) -> Vec<LeaseRequest> {
        let requests = self.asked.as_ref().map(|asked| asked.requests.clone());
        requests.unwrap_or_default()
    }

    pub fn done(mut self, answers: Vec<StoreResult<Grants>>) {
        self.tell(|asked| Command::HandedOver(asked, answers));
    }

    fn tell(&mut self, word: impl FnOnce(Asked) -> Command) {
        if let (Some(asked), Some(back)) = (self.asked.take(), self.back.take()) {
            back.send(word(asked));
        }
    }
}

impl Drop for Handover {
    fn drop(&mut self) {
        self.tell(Command::Abandoned);
    }
}
