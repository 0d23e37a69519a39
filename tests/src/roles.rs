//! Tidegate's roles as processes: started with port 0, asked for nothing but their ready line.

use crate::process::Process;
use crate::sandbox::Sandbox;
use crate::wait::START_TIMEOUT;
use std::collections::HashMap;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ANY_PORT: &str = "127.0.0.1:0";

/// How long a metrics or health request may take.
const HTTP_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Clone, Default)]
pub struct RouterOptions {
    /// A fixed address, for a router that must come back where it was; else a free port.
    pub listen: Option<String>,
    /// The text of a policies file.
    pub policies: Option<String>,
    /// The text of a config file.
    pub config: Option<String>,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
}

#[derive(Clone, Default)]
pub struct WorkerOptions {
    pub slots: Option<u32>,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
}

#[derive(Clone, Default)]
pub struct TestWorkerOptions {
    /// (queue, kind of work)
    pub queues: Vec<(String, String)>,
    pub name: String,
    pub postgres: Option<String>,
    pub slots: Option<u32>,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
}

#[derive(Clone, Default)]
pub struct DevOptions {
    /// Where jobs are delivered; else its built-in echo app.
    pub app: Option<String>,
    /// A database that outlives this run; else one of the sandbox.
    pub db: Option<String>,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
}

/// `tidegate router`.
pub struct Router {
    pub process: Process,
    ready: Ready,
}

impl Router {
    /// `store` as the flag takes it: `redis://...`, `sqlite:PATH`, `memory:`.
    pub async fn start(sandbox: &Sandbox, store: &str, options: RouterOptions) -> Self {
        let listen = options.listen.as_deref().unwrap_or(ANY_PORT);
        let mut args = strings(&[
            "router",
            "--listen",
            listen,
            "--metrics-listen",
            ANY_PORT,
            "--store",
            store,
        ]);
        if let Some(policies) = &options.policies {
            args.extend([
                "--policies".to_owned(),
                sandbox.write(&unique("policies"), policies),
            ]);
        }
        if let Some(config) = &options.config {
            args.extend(["--config".to_owned(), sandbox.write(&unique("config"), config)]);
        }
        args.extend(options.args);
        let (process, ready) = start(sandbox, "router", args, &options.env).await;
        Self { process, ready }
    }

    /// As `--router` and gRPC clients take it.
    pub fn grpc_url(&self) -> String {
        self.ready.url("grpc")
    }

    /// `host:port`, for [`RouterOptions::listen`] of its successor.
    pub fn grpc_address(&self) -> String {
        self.ready.address("grpc").to_owned()
    }

    pub fn metrics_url(&self) -> String {
        self.ready.url("metrics")
    }

    /// The text of its metrics page.
    pub async fn metrics(&self) -> String {
        metrics(&self.ready).await
    }
}

#[derive(Clone, Default)]
pub struct ControllerOptions {
    /// A fixed address, for a controller that must come back where it was; else a free port.
    pub listen: Option<String>,
    /// The text of a policies file.
    pub policies: Option<String>,
    /// The text of a config file.
    pub config: Option<String>,
    /// What outlives it, for a successor or a standby; else a file of its own.
    pub ledger: Option<String>,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
}

/// `tidegate controller`.
pub struct Controller {
    pub process: Process,
    ready: Ready,
}

impl Controller {
    pub async fn start(sandbox: &Sandbox, options: ControllerOptions) -> Self {
        let listen = options.listen.as_deref().unwrap_or(ANY_PORT);
        let mut args = strings(&["controller", "--listen", listen, "--metrics-listen", ANY_PORT]);
        let own = || format!("sqlite:ledger-{}.db", uuid::Uuid::new_v4().simple());
        args.extend(["--ledger".to_owned(), options.ledger.clone().unwrap_or_else(own)]);
        if let Some(policies) = &options.policies {
            args.extend([
                "--policies".to_owned(),
                sandbox.write(&unique("policies"), policies),
            ]);
        }
        if let Some(config) = &options.config {
            args.extend(["--config".to_owned(), sandbox.write(&unique("config"), config)]);
        }
        args.extend(options.args);
        let (process, ready) = start(sandbox, "controller", args, &options.env).await;
        Self { process, ready }
    }

    /// As `--controller` and gRPC clients take it.
    pub fn grpc_url(&self) -> String {
        self.ready.url("grpc")
    }

    /// `host:port`, for [`ControllerOptions::listen`] of its successor.
    pub fn grpc_address(&self) -> String {
        self.ready.address("grpc").to_owned()
    }

    pub fn metrics_url(&self) -> String {
        self.ready.url("metrics")
    }

    /// The text of its metrics page.
    pub async fn metrics(&self) -> String {
        metrics(&self.ready).await
    }
}

/// `tidegate worker`, delivering to an HTTP app.
pub struct WorkerProc {
    pub process: Process,
    ready: Ready,
}

impl WorkerProc {
    pub async fn start(
        sandbox: &Sandbox,
        routers: &[String],
        app_url: &str,
        queues: &[&str],
        options: WorkerOptions,
    ) -> Self {
        let mut args = strings(&["worker", "--metrics-listen", ANY_PORT, "--app", app_url]);
        for router in routers {
            args.extend(["--router".to_owned(), router.clone()]);
        }
        for queue in queues {
            args.extend(strings(&["--queue", queue]));
        }
        if let Some(slots) = options.slots {
            args.extend(["--slots".to_owned(), slots.to_string()]);
        }
        args.extend(options.args);
        let (process, ready) = start(sandbox, "worker", args, &options.env).await;
        Self { process, ready }
    }

    /// The program `test-worker`: a worker on the library, see [`crate::work`].
    pub async fn start_test_worker(
        sandbox: &Sandbox,
        routers: &[String],
        options: TestWorkerOptions,
    ) -> Self {
        let mut args = vec!["--name".to_owned(), options.name];
        for router in routers {
            args.extend(["--router".to_owned(), router.clone()]);
        }
        for (queue, kind) in &options.queues {
            args.extend(["--queue".to_owned(), format!("{queue}={kind}")]);
        }
        if let Some(slots) = options.slots {
            args.extend(["--slots".to_owned(), slots.to_string()]);
        }
        if let Some(url) = options.postgres {
            args.extend(["--postgres".to_owned(), url]);
        }
        args.extend(options.args);
        let env: Vec<_> = options
            .env
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .collect();
        let process = Process::built(sandbox, "test-worker", args, &env);
        let ready = ready(&process, "worker").await;
        Self { process, ready }
    }

    pub fn metrics_url(&self) -> String {
        self.ready.url("metrics")
    }

    pub async fn metrics(&self) -> String {
        metrics(&self.ready).await
    }
}

/// `tidegate dev`: everything in one process.
pub struct Dev {
    pub process: Process,
    ready: Ready,
}

impl Dev {
    pub async fn start(sandbox: &Sandbox, options: DevOptions) -> Self {
        let mut args = strings(&["dev", "--port", "0", "--controller-port", "0", "--headless"]);
        if let Some(db) = &options.db {
            args.extend(["--db".to_owned(), db.clone()]);
        }
        if let Some(app) = &options.app {
            args.extend(["--app".to_owned(), app.clone()]);
        }
        args.extend(options.args);
        let (process, ready) = start(sandbox, "dev", args, &options.env).await;
        Self { process, ready }
    }

    pub fn grpc_url(&self) -> String {
        self.ready.url("grpc")
    }

    pub fn controller_url(&self) -> String {
        self.ready.url("controller")
    }

    pub fn app_url(&self) -> String {
        self.ready.url("app")
    }

    pub fn metrics_url(&self) -> String {
        self.ready.url("metrics")
    }

    pub async fn metrics(&self) -> String {
        metrics(&self.ready).await
    }
}

/// `ready role=router grpc=127.0.0.1:40001 metrics=127.0.0.1:40002`, the one line of the output that programs may parse.
struct Ready {
    fields: HashMap<String, String>,
}

impl Ready {
    fn parse(line: &str) -> Self {
        let pairs = line.split_whitespace().filter_map(|word| word.split_once('='));
        Self {
            fields: pairs
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        }
    }

    /// Without a scheme and a final slash, whether the role printed them or not.
    fn address(&self, name: &str) -> &str {
        let value = self.fields.get(name);
        let value = value.unwrap_or_else(|| panic!("the ready line has no {name}=: {:?}", self.fields));
        value.trim_start_matches("http://").trim_end_matches('/')
    }

    fn url(&self, name: &str) -> String {
        format!("http://{}", self.address(name))
    }
}

async fn start(
    sandbox: &Sandbox,
    role: &str,
    args: Vec<String>,
    env: &[(String, String)],
) -> (Process, Ready) {
    let env: Vec<(&str, &str)> = env
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let process = Process::tidegate(sandbox, args, &env);
    let ready = ready(&process, role).await;
    (process, ready)
}

async fn ready(process: &Process, role: &str) -> Ready {
    let line = process
        .wait_for_line(&format!("ready role={role} "), START_TIMEOUT)
        .await;
    Ready::parse(&line)
}

async fn metrics(ready: &Ready) -> String {
    let (status, body) = http_get(&ready.url("metrics"), "/metrics").await;
    assert_eq!(status, 200, "the metrics page answered: {body}");
    body
}

/// A GET that must be answered.
pub async fn http_get(base_url: &str, path: &str) -> (u16, String) {
    let answer = try_http_get(base_url, path).await;
    answer.unwrap_or_else(|error| panic!("GET {base_url}{path}: {error}"))
}

/// A plain GET. HTTP/1.0, so that the answer is never chunked and ends with the connection.
///
/// # Errors
/// No answer in ten seconds, or one that is none.
pub async fn try_http_get(base_url: &str, path: &str) -> io::Result<(u16, String)> {
    let address = base_url.trim_start_matches("http://").trim_end_matches('/');
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream
            .write_all(format!("GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n").as_bytes())
            .await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        io::Result::Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = tokio::time::timeout(HTTP_TIMEOUT, exchange).await??;
    let status = answer
        .split_whitespace()
        .nth(1)
        .and_then(|status| status.parse().ok());
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let status = status.ok_or_else(|| io::Error::other(format!("an answer without a status: {answer:?}")))?;
    Ok((status, body.to_owned()))
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// Two routers of one sandbox may have different policies.
fn unique(stem: &str) -> String {
    format!("{stem}-{}.toml", uuid::Uuid::new_v4().simple())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_line_gives_addresses_with_or_without_scheme() {
        let ready = Ready::parse(
            "ready role=dev grpc=127.0.0.1:1 metrics=http://127.0.0.1:2 app=http://127.0.0.1:3/",
        );
        assert_eq!(ready.address("grpc"), "127.0.0.1:1");
        assert_eq!(ready.url("metrics"), "http://127.0.0.1:2");
        assert_eq!(ready.url("app"), "http://127.0.0.1:3");
    }

    #[test]
    #[should_panic(expected = "has no grpc=")]
    fn a_missing_address_is_named() {
        Ready::parse("ready role=worker metrics=127.0.0.1:2").address("grpc");
    }
}
