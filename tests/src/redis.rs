//! A real redis-server of the test's own.

use crate::process::Process;
use crate::sandbox::{Sandbox, free_port};
use crate::wait::{START_TIMEOUT, eventually};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Between `free_port` and the server's bind another process may take the port.
const START_TRIES: usize = 5;

/// The reply of a whole INFO has well under a hundred lines; a hostile length must not make the test hang.
const REPLY_MAX: usize = 16 * 1024 * 1024;

#[derive(Clone, Default)]
pub struct RedisOptions {
    settings: Vec<(String, String)>,
}

impl RedisOptions {
    /// One more setting as in redis.conf; the last value of a name wins.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// Defaults: append-only file with a sync each second (what most operators run), `noeviction`, no snapshots, DEBUG
/// allowed, loopback only.
pub struct Redis<'a> {
    sandbox: &'a Sandbox,
    port: u16,
    dir: PathBuf,
    options: RedisOptions,
    process: Mutex<Process>,
}

impl<'a> Redis<'a> {
    pub async fn start(sandbox: &'a Sandbox, options: RedisOptions) -> Self {
        for _ in 1..START_TRIES {
            if let Some(redis) = Self::try_start(sandbox, free_port(), options.clone()).await {
                return redis;
            }
        }
        let last = Self::try_start(sandbox, free_port(), options).await;
        last.expect("redis-server exited at start each time; its output is below")
    }

    async fn try_start(sandbox: &'a Sandbox, port: u16, options: RedisOptions) -> Option<Self> {
        let dir = sandbox.path().join(format!("redis-{port}"));
        std::fs::create_dir_all(&dir).expect("create the data directory");
        let process = Mutex::new(spawn(sandbox, port, &dir, &options));
        let redis = Self {
            sandbox,
            port,
            dir,
            options,
            process,
        };
        redis.answers().await.then_some(redis)
    }

    /// As `--store` and redis clients take it.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it keeps its files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn process(&self) -> Process {
        self.process.lock().expect("no holder panics").clone()
    }

    /// The crash of a store: nothing is flushed.
    pub async fn kill9(&self) {
        self.process().kill9();
        self.process().wait_exit(START_TIMEOUT).await;
    }

    /// The orderly stop of a store: everything is flushed.
    pub async fn shutdown(&self) {
        self.process().sigterm();
        self.process().wait_exit(START_TIMEOUT).await;
    }

    /// Starts it again on the same port and data; stops it first, in order, if it runs.
    pub async fn restart(&self) {
        if self.process().exit_code().is_none() {
            self.shutdown().await;
        }
        self.start_again();
        self.comes_back().await;
    }

    /// Starts it again after it has ended, and does not wait: it may load its data for a while.
    pub fn start_again(&self) {
        let process = spawn(self.sandbox, self.port, &self.dir, &self.options);
        *self.process.lock().expect("no holder panics") = process;
    }

    /// Waits until it has loaded its data.
    pub async fn comes_back(&self) {
        assert!(
            self.answers().await,
            "redis-server did not come back\n{}",
            self.process().tail()
        );
    }

    /// Sends one command and gives its reply as text: elements of lists one a line, nil as `(nil)`, errors as
    /// `-ERR ...`. A tool for tests (`CONFIG SET`, `DEBUG SLEEP`, `INFO`), not a client.
    pub async fn command(&self, words: &[&str]) -> io::Result<String> {
        let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", self.port)).await?);
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        stream.write_all(request.as_bytes()).await?;
        read_reply(&mut stream).await
    }

    /// Like [`Redis::command`], for commands that must succeed.
    pub async fn must(&self, words: &[&str]) -> String {
        let reply = tokio::time::timeout(START_TIMEOUT, self.command(words)).await;
        let reply = reply.expect("redis answers in time").expect("redis is up");
        assert!(!reply.starts_with('-'), "redis refused {words:?}: {reply}");
        reply
    }

    /// Whether *this* server answers. Asking for its process id tells it from a stranger who took the port.
    async fn answers(&self) -> bool {
        let process = self.process();
        let mine = format!("process_id:{}\r", process.pid());
        eventually(START_TIMEOUT, format!("an answer of {process}"), async || {
            if process.exit_code().is_some() {
                return Some(false);
            }
            // PING fails while the data is loading, INFO does not: both are needed.
            let ping = self.command(&["PING"]).await.ok()?;
            let info = self.command(&["INFO", "server"]).await.ok()?;
            (ping == "PONG" && info.contains(&mine)).then_some(true)
        })
        .await
    }
}

fn spawn(sandbox: &Sandbox, port: u16, dir: &Path, options: &RedisOptions) -> Process {
    let mut command = Command::new("redis-server");
    let port = port.to_string();
    let defaults = [
        ("--port", port.as_str()),
        ("--bind", "127.0.0.1"),
        ("--save", ""),
        ("--appendonly", "yes"),
        ("--appendfsync", "everysec"),
        ("--maxmemory-policy", "noeviction"),
        ("--enable-debug-command", "local"),
    ];
    for (name, value) in defaults {
        command.args([name, value]);
    }
    command.arg("--dir").arg(dir);
    for (name, value) in &options.settings {
        command.args([format!("--{name}"), value.clone()]);
    }
    Process::start(sandbox, command)
}

async fn read_reply(stream: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut lines = Vec::new();
    // A list is read as so many more replies; nested lists come out flat.
    let mut expected = 1_usize;
    while expected > 0 {
        expected -= 1;
        let header = read_line(stream).await?;
        let (kind, rest) = header
            .split_at_checked(1)
            .ok_or_else(|| invalid("an empty reply"))?;
        match kind {
            "+" | ":" => lines.push(rest.to_owned()),
            "-" => lines.push(header.clone()),
            "*" => expected += length(rest)?.unwrap_or(0),
            "$" => lines.push(match length(rest)? {
                Some(length) => read_bulk(stream, length).await?,
                None => "(nil)".to_owned(),
            }),
            _ => return Err(invalid(&format!("an unknown reply {header:?}"))),
        }
    }
    Ok(lines.join("\n"))
}

async fn read_line(stream: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    line.truncate(line.trim_end().len());
    Ok(line)
}

async fn read_bulk(stream: &mut BufReader<TcpStream>, length: usize) -> io::Result<String> {
    let mut bytes = vec![0; length + 2];
    stream.read_exact(&mut bytes).await?;
    bytes.truncate(length);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// -1 is nil.
fn length(text: &str) -> io::Result<Option<usize>> {
    match text.parse::<i64>() {
        Ok(-1) => Ok(None),
        Ok(length) => match usize::try_from(length) {
            Ok(length) if length <= REPLY_MAX => Ok(Some(length)),
            _ => Err(invalid("a reply of impossible length")),
        },
        Err(_) => Err(invalid("a length that is no number")),
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("redis sent {what}"))
}
