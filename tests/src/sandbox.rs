//! One test's world: a scratch directory and the processes that must not outlive it.

use crate::process::Process;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use tempfile::TempDir;

/// Ends every process that was started in it, then removes its directory. Create it first, so that it is dropped last.
pub struct Sandbox {
    dir: TempDir,
    started: Mutex<Vec<Process>>,
}

impl Sandbox {
    #[allow(
        clippy::new_without_default,
        reason = "creates a directory: that should be visible at the call"
    )]
    pub fn new() -> Self {
        // A server that runs as another user must get to its own folder in it.
        let passable = std::fs::Permissions::from_mode(0o711);
        let dir = tempfile::Builder::new()
            .prefix("tidegate-test-")
            .permissions(passable)
            .tempdir();
        Self {
            dir: dir.expect("create a scratch directory"),
            started: Mutex::default(),
        }
    }

    /// Where its processes run, and where a test may keep its files.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file, for example a policy or a config, and gives its path.
    pub fn write(&self, name: &str, content: &str) -> String {
        let path = self.path().join(name);
        std::fs::write(&path, content).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
        path.into_os_string()
            .into_string()
            .expect("scratch paths are UTF-8")
    }

    /// A number that no process of this sandbox has yet: names its log files.
    pub(crate) fn adopt(&self, start: impl FnOnce(usize) -> Process) -> Process {
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        let process = start(started.len());
        started.push(process.clone());
        process
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let started = self.started.get_mut().unwrap_or_else(PoisonError::into_inner);
        // Newest first: a worker should not have to watch its router go.
        for process in started.iter().rev() {
            if std::thread::panicking() {
                eprintln!("{}", process.tail());
            }
            process.end();
        }
    }
}

/// Below the range that the system takes for outgoing connections.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// A port that was free a moment ago. Another process may take it first: prefer port 0 where the program reports what
/// it got, and retry where it does not.
///
/// It is none of those that the system gives to outgoing connections: while a killed server is down, its clients try
/// again and again, and one of their own ports would at last be the one that the server needs to come back.
pub fn free_port() -> u16 {
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let mut tries = std::iter::repeat_with(|| fastrand::u16(PORTS));
    tries.find(free).expect("the iterator has no end")
}

/// An address for a server that has to come back where it was.
pub fn free_address() -> String {
    format!("127.0.0.1:{}", free_port())
}
