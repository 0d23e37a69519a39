//! This program once more, as another process: to own a file, and to be killed for it.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
};

use tidegate_store::JobStore;

use crate::fixture::{job, keep_everything, lease, open, settle, submit};

/// Names the file to the child.
pub const FILE: &str = "TIDEGATE_TEST_FILE";
/// Jobs that an owner enters before it says that it is ready.
pub const JOBS: usize = 50;

/// An owner that works until it is killed; what it was told: ids of jobs that were entered, and of jobs that were settled.
pub fn work_until_killed(path: &Path, lines: usize) -> (Vec<String>, Vec<String>) {
    let mut owner = Owner::spawn(path, "child::works_until_killed");
    let told: Vec<String> = owner.lines.by_ref().take(lines).map(Result::unwrap).collect();
    owner.child.kill().unwrap();
    // What it said after that, but before it was dead, counts as well; the last line may be torn.
    let mut told: Vec<_> = told
        .into_iter()
        .chain(owner.lines.by_ref().map_while(Result::ok))
        .collect();
    owner.child.wait().unwrap();
    told.pop();
    let of = |kind: &str| {
        let ids = told.iter().filter_map(|line| line.split_once(kind));
        ids.map(|(_, id)| id.to_owned()).collect()
    };
    (of("job "), of("done "))
}

/// An owner of a store's file.
pub struct Owner {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Owner {
    pub fn start(path: &Path) -> Self {
        Self::spawn(path, "child::owns_a_file")
    }

    fn spawn(path: &Path, part: &str) -> Self {
        let mut child = test(part).env(FILE, path).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ids of the jobs that were acknowledged.
    pub fn wait_ready(&mut self) -> Vec<String> {
        let mut ids = Vec::new();
        for line in self.lines.by_ref() {
            let line = line.unwrap();
            // The test runner writes the name of the test in front of the first line.
            if let Some(at) = line.find("job ") {
                ids.push(line[at + 4..].to_owned());
            }
            if line.ends_with("ready") {
                return ids;
            }
        }
        panic!("the owner ended before it was ready");
    }

    pub fn kill9(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// One of this program's own tests, alone; see [`file`].
pub fn test(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([name, "--exact", "--nocapture"]);
    command
}

/// The file that another test has started this process for; without one it is not this part's turn.
pub fn file() -> Option<PathBuf> {
    std::env::var_os(FILE).map(PathBuf::from)
}

#[tokio::test]
async fn owns_a_file() {
    let Some(path) = file() else {
        return;
    };
    let store = open(&path).await.unwrap();
    for n in 0..JOBS {
        let id = submit(&store, job(format!("payload {n}"))).await.unwrap().id;
        println!("job {id}");
    }
    println!("ready");
    std::io::stdout().flush().unwrap();
    std::thread::sleep(crate::fixture::PATIENCE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn works_until_killed() {
    let Some(path) = file() else {
        return;
    };
    let store = open(&path).await.unwrap();
    keep_everything(&store).await;
    let caller = || async {
        loop {
            for answer in store.submit((0..20).map(|_| job("a")).collect()).await {
                println!("job {}", answer.unwrap().id);
            }
            for held in lease(&store, 10).await.unwrap() {
                settle(&store, &held).await.unwrap();
                println!("done {}", held.id);
            }
        }
    };
    tokio::join!(caller(), caller());
}
