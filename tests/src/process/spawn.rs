//! Starting children so that none outlives its test, however that ends: the sandbox ends them, also after a panic; and
//! when the test's process itself is killed, the kernel does (`PR_SET_PDEATHSIG`, through `setpriv`).

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, SyncSender, channel, sync_channel};

/// Where servers are that no user starts by hand.
const SERVER_DIRS: [&str; 2] = ["/usr/sbin", "/usr/local/sbin"];
/// Debian keeps one of these for each version of Postgres, and puts only its clients on the path.
const POSTGRES_DIRS: &str = "/usr/lib/postgresql";

/// Who a server runs as that refuses to run as root.
#[derive(Clone, Copy, Debug)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl User {
    /// `None`: we are no root ourselves, and a child is what we are.
    pub(crate) fn unprivileged() -> Option<Self> {
        if !rustix::process::getuid().is_root() {
            return None;
        }
        let users = std::fs::read_to_string("/etc/passwd").expect("a system has users");
        let user = |name: &str| {
            let fields = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
            let mut fields = fields.filter(|fields| fields.first() == Some(&name) && fields.len() > 3);
            let fields = fields.next()?;
            Some(Self {
                uid: fields[2].parse().ok()?,
                gid: fields[3].parse().ok()?,
            })
        };
        let user = user("postgres").or_else(|| user("nobody"));
        Some(user.expect("a system with root has the user nobody"))
    }

    /// Sheds the groups of root, too.
    pub(crate) fn run_as(self, command: &mut Command) {
        command.uid(self.uid).gid(self.gid);
    }

    /// Gives a file or folder to this user.
    pub(crate) fn own(self, path: &Path) {
        std::os::unix::fs::chown(path, Some(self.uid), Some(self.gid))
            .unwrap_or_else(|error| panic!("give {} away: {error}", path.display()));
    }
}

/// The file of a program, on the path or where its package keeps it; the newest where there are several.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.extend(SERVER_DIRS.map(PathBuf::from));
    let mut versions: Vec<_> = std::fs::read_dir(POSTGRES_DIRS)
        .into_iter()
        .flatten()
        .flatten()
        .collect();
    versions.sort_by_key(|version| std::cmp::Reverse(version.file_name()));
    folders.extend(versions.iter().map(|version| version.path().join("bin")));
    folders
        .iter()
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// The program's file, or how to get it.
pub(crate) fn installed(name: &str) -> PathBuf {
    program(name).unwrap_or_else(|| {
        panic!("{name} is not installed; `cargo xtask test` finds or installs what the tests need")
    })
}

/// Where a child runs and where its output goes.
pub(super) struct Surroundings<'a> {
    pub(super) folder: &'a Path,
    pub(super) stdout: File,
    pub(super) stderr: File,
}

/// Starts the command with the last net under it, in a group of its own.
pub(super) fn spawn(command: Command, user: Option<User>, around: Surroundings<'_>) -> io::Result<Child> {
    let mut command = with_net(command);
    command
        .process_group(0)
        .current_dir(around.folder)
        .stdin(Stdio::null())
        .stdout(around.stdout)
        .stderr(around.stderr);
    if let Some(user) = user {
        user.run_as(&mut command);
    }
    let (answer, spawned) = sync_channel(1);
    spawner()
        .send(Order { command, answer })
        .expect("the spawner does not end");
    spawned.recv().expect("the spawner answers each order")
}

/// The same process and id as the command alone would have: `setpriv` replaces itself.
fn with_net(command: Command) -> Command {
    let Some(setpriv) = program("setpriv") else {
        return command; // not on this system: two nets are left
    };
    let mut wrapped = Command::new(setpriv);
    wrapped
        .args(["--pdeathsig", "KILL", "--"])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    wrapped
}

struct Order {
    command: Command,
    answer: SyncSender<io::Result<Child>>,
}

/// The kernel counts the death of the *thread* that started a child, and the threads of a test's runtime come and go. So
/// one thread starts them all and lasts as long as the process.
fn spawner() -> &'static Sender<Order> {
    static SPAWNER: OnceLock<Sender<Order>> = OnceLock::new();
    SPAWNER.get_or_init(|| {
        let (orders, queue) = channel::<Order>();
        let work = move || {
            for mut order in queue {
                let _ = order.answer.send(order.command.spawn()); // who asked waits for it
            }
        };
        let thread = std::thread::Builder::new().name("spawner".to_owned());
        thread.spawn(work).expect("start a thread");
        orders
    })
}

/// The name of a program without its folder.
pub(crate) fn stem(program: &OsStr) -> String {
    let name = Path::new(program).file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}
