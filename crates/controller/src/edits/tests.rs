//! Edits on a real ledger, with the owner's task behind them.
#![allow(
    clippy::disallowed_methods,
    reason = "a task that lives as long as its test, which waits for it"
)]

use tidegate_chassis::{CancellationToken, admin::Readiness, clock::Monotonic, telemetry};
use tidegate_protocol::domain::{Probe, Resource};
use tokio::{sync::oneshot, sync::watch, task::JoinHandle};

use super::*;
use crate::{
    core::{Lead, Settings},
    ledger::{Claim, Leader, Scribe},
    metrics::Metrics,
    owner::{Around, Owner},
};

const RAISES: u64 = 50;

fn resource(revision: u64) -> Row {
    let resource = Resource {
        name: "pg-main".to_owned(),
        capacity: 50,
        headroom: 0.7,
        probe: Probe::Static,
    };
    Row::Resource { resource, revision }
}

/// Leads by a ledger in memory.
async fn leading(stop: &CancellationToken) -> (Arc<Editor>, Handle, u64, JoinHandle<()>) {
    let ledger = Arc::new(Ledger::open("memory:", Leader::default()).await.unwrap());
    let clock = Monotonic::start();
    let around = Around {
        clock,
        metrics: Metrics::new(&telemetry::meter()),
        readiness: Readiness::default(),
        scribe: Scribe::new(ledger.clone()).0,
        raises: watch::channel(0).0,
    };
    let settings = Settings {
        tick_ms: 5_000,
        name: "a".to_owned(),
        alone: true,
    };
    let core = Core::new(settings, Now::default());
    let (owner, handle) = Owner::new(core, around);
    let running = tokio::spawn(owner.run(CancellationToken::new(), stop.clone()));
    let editor = Arc::new(Editor::new(handle.clone(), ledger.clone()));
    let Claim::Won { ledger_id, epoch, .. } = ledger.claim().await.unwrap() else {
        panic!("nobody else could lead");
    };
    let stored = editor.begin(epoch, None).await.unwrap();
    let lead = Lead {
        ledger_id,
        epoch,
        stored,
        ..Lead::default()
    };
    handle.ask(move |core, now| core.lead(lead, now)).await.unwrap();
    (editor, handle, epoch, running)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_while_the_epoch_rises_is_made() {
    let stop = CancellationToken::new();
    let (editor, owner, first, running) = leading(&stop).await;
    for epoch in first..first + RAISES {
        let (planned, rise) = oneshot::channel();
        let (raiser, asker) = (editor.clone(), owner.clone());
        let raising = tokio::spawn(async move {
            rise.await.unwrap();
            asker.ask(move |core, _| core.outrank(epoch)).await.unwrap();
            raiser.raise(epoch, epoch + 1).await.unwrap();
        });
        let edited = editor.edit(Note::default(), move |core, _| {
            assert_eq!(core.epoch(), epoch);
            planned.send(()).unwrap();
            Ok(Some(resource(epoch)))
        });
        edited.await.unwrap();
        raising.await.unwrap();
    }
    assert_eq!(owner.ask(|core, _| core.epoch()).await.unwrap(), first + RAISES);
    stop.cancel();
    running.await.unwrap();
}
