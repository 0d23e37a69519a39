//! A ledger's decisions, made again.

use serde_json::json;
use tidegate_controller::{Mismatch, Replayed, replay};

use crate::{
    args::{Common, Format},
    exit::Failed,
    output,
};

pub(super) async fn run(common: &Common, ledger: &str, from_epoch: u64) -> anyhow::Result<()> {
    let replayed = replay(ledger, from_epoch).await?;
    match common.output {
        Format::Json => output::json_line(&json(&replayed)),
        Format::Table => print(&replayed),
    }
    if replayed.mismatches_in_all > 0 {
        return Err(Failed(format!("{} records differ", replayed.mismatches_in_all)).into());
    }
    if replayed.ticks == 0 {
        return Err(Failed("the ledger has no tick that could be decided again".to_owned()).into());
    }
    Ok(())
}

fn print(replayed: &Replayed) {
    output::line(format_args!(
        "{} ticks decided again, {} states compared, {} ticks without a state to start from, {} gaps",
        replayed.ticks, replayed.snapshots, replayed.skipped, replayed.gaps
    ));
    for Mismatch {
        epoch,
        tick,
        at_ms,
        what,
    } in &replayed.mismatches
    {
        let at = std::time::UNIX_EPOCH + std::time::Duration::from_millis(*at_ms);
        output::line(format_args!(
            "{}  epoch {epoch} tick {tick}: {what}",
            humantime::format_rfc3339_seconds(at)
        ));
    }
}

fn json(replayed: &Replayed) -> serde_json::Value {
    let mismatch = |one: &Mismatch| json!({ "epoch": one.epoch, "tick": one.tick, "at_ms": one.at_ms, "what": one.what });
    json!({
        "ticks": replayed.ticks, "skipped": replayed.skipped, "snapshots": replayed.snapshots,
        "gaps": replayed.gaps, "mismatches_in_all": replayed.mismatches_in_all,
        "mismatches": replayed.mismatches.iter().map(mismatch).collect::<Vec<_>>(),
    })
}
