//! One process owns a ledger that is a file.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Write},
    path::{Path, PathBuf},
};

use super::OpenError;

/// Held as long as the ledger; the system lets go of it when the process ends, however it ends.
pub(super) struct FileLock {
    _file: File,
}

impl FileLock {
    /// Makes the folder if need be, locks `<path>.lock` and writes this process's id into it.
    pub fn take(path: &Path) -> Result<Self, OpenError> {
        let at = |error: std::io::Error| OpenError::file(path, &error);
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        if let Some(folder) = folder {
            std::fs::create_dir_all(folder).map_err(at)?;
        }
        let mut name = path.as_os_str().to_owned();
        name.push(".lock");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(PathBuf::from(name))
            .map_err(at)?;
        match file.try_lock() {
            Ok(()) => {
                // Who has it is for people; the lock holds without.
                let _ = file
                    .set_len(0)
                    .and_then(|()| writeln!(file, "{}", std::process::id()));
                Ok(Self { _file: file })
            }
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                let _ = file.read_to_string(&mut owner);
                Err(OpenError::Locked {
                    path: path.to_owned(),
                    owner: match owner.trim() {
                        "" => "another process".to_owned(),
                        pid => format!("process {pid}"),
                    },
                })
            }
            Err(TryLockError::Error(error)) => Err(at(error)),
        }
    }
}
