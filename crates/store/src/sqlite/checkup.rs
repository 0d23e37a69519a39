//! After an owner that died: is the file whole? Looked at in the background, because the store can go on meanwhile (the
//! write-ahead log recovers by itself; what this finds is a disk or a file system that lied).

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use sqlx::{Connection as _, SqliteConnection};
use tokio::sync::watch;

use super::{
    fault::Fault,
    plain,
    writer::{Progress, Shared},
};
use crate::StoreError;

/// Steps of SQLite's machine between two looks at whether the check is to stop: a millisecond or less.
const STEPS_BETWEEN_LOOKS: i32 = 10_000;

/// A check on a connection of its own, ready to run.
pub(super) struct Checkup {
    connection: SqliteConnection,
    file: String,
    shared: Arc<Shared>,
    report: Arc<watch::Sender<Progress>>,
}

impl Checkup {
    /// `stop` ends it early.
    pub async fn new(
        path: &Path,
        stop: Arc<AtomicBool>,
        shared: Arc<Shared>,
        report: Arc<watch::Sender<Progress>>,
    ) -> sqlx::Result<Self> {
        let mut connection = SqliteConnection::connect_with(&plain(path).read_only(true)).await?;
        let goes_on = move || !stop.load(Ordering::Relaxed);
        connection
            .lock_handle()
            .await?
            .set_progress_handler(STEPS_BETWEEN_LOOKS, goes_on);
        Ok(Self {
            connection,
            file: path.display().to_string(),
            shared,
            report,
        })
    }

    pub async fn run(mut self) {
        let file = &self.file;
        match quick_check(&mut self.connection).await {
            Ok(None) => {
                tracing::info!(
                    file,
                    "the last owner of the embedded store died; its file is whole"
                );
                self.shared.checked();
            }
            Ok(Some(damage)) => self.condemn(&damage),
            Err(error) => match Fault::of(&error) {
                Fault::Interrupted => {}
                Fault::Damaged | Fault::NotADatabase => self.condemn(&error.to_string()),
                _ => {
                    tracing::warn!(%error, file, "the embedded store could not be checked; tried again at the next start");
                }
            },
        }
        self.connection.close().await.ok();
    }

    fn condemn(&self, damage: &str) {
        let file = &self.file;
        let todo = format!(
            "{file} is damaged: stop this process, then restore a copy, or save what can be read with \
             `sqlite3 {file} .recover | sqlite3 NEW_FILE`"
        );
        tracing::error!(
            damage,
            todo,
            "the embedded store is damaged: every write is refused until somebody acts"
        );
        let corrupt = StoreError::Corrupt(format!("{todo} ({damage})"));
        self.report
            .send_modify(|progress| progress.corrupt = Some(corrupt));
    }
}

/// The first damage, if there is any.
async fn quick_check(connection: &mut SqliteConnection) -> sqlx::Result<Option<String>> {
    let check = sqlx::query_scalar("PRAGMA quick_check(1)");
    let first: String = check.fetch_one(connection).await?;
    Ok((first != "ok").then_some(first))
}
