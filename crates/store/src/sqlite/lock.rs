//! One process owns the file: its state is in memory, so a second owner would overwrite it.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    path::Path,
};

use super::beside;
use crate::OpenError;

/// Held as long as the store; the system lets go of it when the process ends, however it ends.
pub(super) struct FileLock {
    file: File,
}

/// By name, not by closing the file: a program that another thread is just starting has the file open, too, until it runs.
impl Drop for FileLock {
    fn drop(&mut self) {
        // Without it, the end of the process does it.
        let _ = self.file.unlock();
    }
}

impl FileLock {
    /// Makes the folder (for its owner only) if need be, locks `<path>.lock` and writes this process's id into it.
    pub(super) fn take(path: &Path) -> Result<Self, OpenError> {
        let at = |error: io::Error| OpenError::io(path, &error);
        if let Some(folder) = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty() && !folder.exists())
        {
            make_private(folder).map_err(at)?;
        }
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(beside(path, "lock"))
            .map_err(at)?;
        match file.try_lock() {
            Ok(()) => {
                // On a full disk the id is missing; the lock holds all the same.
                if let Err(error) = write_owner(&mut file) {
                    tracing::warn!(%error, "the lock of the embedded store names no owner");
                }
                Ok(Self { file })
            }
            Err(TryLockError::WouldBlock) => Err(OpenError::Locked {
                path: path.to_owned(),
                pid: read_owner(&mut file),
            }),
            Err(TryLockError::Error(error)) => Err(at(error)),
        }
    }
}

fn write_owner(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())
}

fn read_owner(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(unix)]
fn make_private(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
}

#[cfg(not(unix))]
fn make_private(folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)
}
