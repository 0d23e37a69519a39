//! What is no store's file is left alone, and each refusal says what to do.

use std::{fs, path::Path};

use tidegate_store::{JobStore, OpenError};

use crate::fixture::{execute_on, job, open, stats, submit};

async fn refused(path: &Path) -> OpenError {
    open(path).await.err().expect("this cannot be opened")
}

#[tokio::test]
async fn a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let error = refused(dir.path()).await;
    assert!(matches!(error, OpenError::NotAStore { .. }), "{error}");
    assert!(
        error.to_string().ends_with("it is a folder; choose another file"),
        "{error}"
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_place_that_cannot_be() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let error = refused(&dir.path().join("file/jobs.db")).await;
    assert!(matches!(error, OpenError::Io { .. }), "{error}");
    assert!(error.to_string().contains("file/jobs.db"), "{error}");
}

#[tokio::test]
async fn text() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notes.txt");
    fs::write(&path, "buy milk\n").unwrap();
    let error = refused(&path).await;
    assert!(matches!(error, OpenError::NotAStore { .. }), "{error}");
    assert!(error.to_string().contains("no SQLite database"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "buy milk\n");
}

#[tokio::test]
async fn a_database_of_another_application() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("photos.db");
    execute_on(&path, "CREATE TABLE photos (name TEXT)").await;
    let before = fs::read(&path).unwrap();
    let error = refused(&path).await;
    assert!(matches!(error, OpenError::NotAStore { .. }), "{error}");
    assert!(error.to_string().contains("another application"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), before, "it is left as it was");
}

#[tokio::test]
async fn a_file_of_a_newer_version() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.db");
    open(&path).await.unwrap().close().await;
    execute_on(&path, "PRAGMA user_version = 99").await;
    let error = refused(&path).await;
    assert!(
        matches!(
            error,
            OpenError::Newer {
                version: 99,
                known: 1,
                ..
            }
        ),
        "{error}"
    );
    assert!(
        error.to_string().contains("written by a newer version"),
        "{error}"
    );
}

#[tokio::test]
async fn a_file_with_torn_pages() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.db");
    let store = open(&path).await.unwrap();
    for n in 0..100 {
        submit(&store, job(format!("payload {n}"))).await.unwrap();
    }
    store.close().await;
    // Everything behind the first page, which holds the header and the names of the tables.
    let mut bytes = fs::read(&path).unwrap();
    bytes[4096..].fill(0xa5);
    fs::write(&path, bytes).unwrap();
    let error = refused(&path).await;
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains(".recover"), "{error}");
}

#[tokio::test]
async fn an_empty_file_and_a_folder_that_is_not_there_are_fine() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("jobs.db"), "").unwrap();
    for path in [dir.path().join("jobs.db"), dir.path().join("new/jobs.db")] {
        let store = open(&path).await.unwrap();
        submit(&store, job("a")).await.unwrap();
        assert_eq!(stats(&store).await.ready, 1);
        store.close().await;
    }
}
