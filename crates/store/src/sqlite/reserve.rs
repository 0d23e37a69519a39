//! Room on the disk that is kept for the day when there is none.
//!
//! Work that has been accepted needs a little room to be finished: a lease, a settle, the log they are written to. So a
//! file of zeros stands beside the store. When the disk is full it is removed, submits are refused, and what is there can
//! still be worked off; submits are taken again once the file has its room back.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::beside;

/// Enough for the write-ahead log between two checkpoints and for what settles add; deletes give pages back.
const RESERVE_BYTES: u64 = 8 << 20;
/// Free room from which on the reserve is made (again): as much as it takes, and as much left to go on with.
const FREE_BYTES_MIN: u64 = 2 * RESERVE_BYTES;

pub(super) struct Reserve {
    path: PathBuf,
    there: bool,
}

impl Reserve {
    pub(super) fn of(store: &Path) -> Self {
        let path = beside(store, "reserve");
        let there = fs::metadata(&path).is_ok_and(|meta| meta.len() == RESERVE_BYTES);
        Self { path, there }
    }

    /// Whether the disk has room for more than finishing what is there.
    pub(super) fn is_there(&self) -> bool {
        self.there
    }

    /// Gives the room away; false if that has been done before.
    pub(super) fn release(&mut self) -> bool {
        let had = std::mem::take(&mut self.there);
        if let Err(error) = fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::error!(%error, "the embedded store's reserve cannot be removed");
            return false;
        }
        had
    }

    /// Makes the file where there is room for it; whether it is there now.
    pub(super) fn restore(&mut self) -> bool {
        if !self.there && self.free_bytes().is_some_and(|free| free >= FREE_BYTES_MIN) {
            match self.fill() {
                Ok(()) => self.there = true,
                Err(error) => {
                    tracing::warn!(%error, "the embedded store's reserve cannot be made");
                    self.release();
                }
            }
        }
        self.there
    }

    fn fill(&self) -> io::Result<()> {
        let zeros = vec![0; 1 << 20];
        let mut file = File::create(&self.path)?;
        for _ in 0..RESERVE_BYTES / zeros.len() as u64 {
            file.write_all(&zeros)?;
        }
        Ok(())
    }

    #[cfg(unix)]
    fn free_bytes(&self) -> Option<u64> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let numbers = rustix::fs::statvfs(folder.unwrap_or(Path::new("."))).ok()?;
        Some(numbers.f_bavail * numbers.f_frsize)
    }

    /// Not to be asked: trying to write it tells.
    #[cfg(not(unix))]
    fn free_bytes(&self) -> Option<u64> {
        Some(FREE_BYTES_MIN)
    }
}
