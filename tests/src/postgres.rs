//! A real Postgres of the test's own, as operators are advised to run one beside workers: it notices within 200 ms that
//! a client has gone, so that the statements of a killed worker do not hold their places.

use crate::process::{Process, User, build_folder, installed};
use crate::sandbox::{Sandbox, free_port};
use crate::wait::{START_TIMEOUT, eventually};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

/// Between `free_port` and the server's bind another process may take the port.
const START_TRIES: usize = 5;
/// One try to connect, while the server starts.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Sessions that the server keeps for its superuser, so that a test can look when all others are taken.
const RESERVED: u32 = 3;

#[derive(Clone)]
pub struct PostgresOptions {
    settings: Vec<(String, String)>,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        let options = Self { settings: Vec::new() };
        options
            .with("listen_addresses", "127.0.0.1")
            .with("unix_socket_directories", "")
            .with("client_connection_check_interval", "200ms")
            // The tests end processes, never the machine: what a process has written, the system keeps.
            .with("fsync", "off")
            .with("shared_buffers", "16MB")
            .with("autovacuum", "off")
            .max_connections(100)
    }
}

impl PostgresOptions {
    /// Sessions for others than the superuser, who keeps three.
    pub fn max_connections(self, sessions: u32) -> Self {
        self.with("max_connections", &(sessions + RESERVED).to_string())
            .with("superuser_reserved_connections", &RESERVED.to_string())
    }

    /// One more setting as in postgresql.conf; the last value of a name wins.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// Listens on loopback, trusts everybody there; the superuser and the database are called `postgres`.
pub struct Postgres<'a> {
    sandbox: &'a Sandbox,
    port: u16,
    dir: PathBuf,
    options: PostgresOptions,
    process: Mutex<Process>,
}

impl<'a> Postgres<'a> {
    pub async fn start(sandbox: &'a Sandbox, options: PostgresOptions) -> Self {
        for _ in 1..START_TRIES {
            if let Some(postgres) = Self::try_start(sandbox, free_port(), options.clone()).await {
                return postgres;
            }
        }
        let last = Self::try_start(sandbox, free_port(), options).await;
        last.expect("postgres exited at start each time; its output is below")
    }

    async fn try_start(sandbox: &'a Sandbox, port: u16, options: PostgresOptions) -> Option<Self> {
        let dir = sandbox.path().join(format!("postgres-{port}"));
        // With owners and modes: the server refuses a folder that is not its own.
        run(Command::new("cp").arg("-a").arg(template()).arg(&dir));
        let process = Mutex::new(spawn(sandbox, port, &dir, &options));
        let postgres = Self {
            sandbox,
            port,
            dir,
            options,
            process,
        };
        postgres.answers().await.then_some(postgres)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Of the superuser.
    pub fn url(&self) -> String {
        self.role_url("postgres")
    }

    pub fn role_url(&self, role: &str) -> String {
        format!("postgres://{role}@127.0.0.1:{}/postgres", self.port)
    }

    /// Makes a role that may have so many sessions at once: the hard edge of a resource. Gives its URL.
    pub async fn role(&self, name: &str, connections: u32) -> String {
        let create = format!("CREATE ROLE \"{name}\" LOGIN CONNECTION LIMIT {connections}");
        self.must(&create).await;
        self.must(&format!("GRANT ALL ON SCHEMA public TO \"{name}\""))
            .await;
        self.role_url(name)
    }

    /// A superuser's session.
    ///
    /// # Errors
    /// As the server says.
    pub async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        PgConnection::connect(&self.url()).await
    }

    /// Statements that must succeed, in a superuser's session of their own.
    pub async fn must(&self, sql: &str) {
        let run = async {
            let mut session = self.connect().await?;
            sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
                .execute(&mut session)
                .await?;
            session.close().await
        };
        run.await
            .unwrap_or_else(|error| panic!("postgres refused {sql:?}: {error}"));
    }

    /// The one bigint that a query answers, as a superuser.
    pub async fn number(&self, sql: &str) -> i64 {
        let run = async {
            let mut session = self.connect().await?;
            let row = sqlx::query(AssertSqlSafe(sql.to_owned()))
                .fetch_one(&mut session)
                .await?;
            session.close().await?;
            row.try_get::<i64, _>(0)
        };
        run.await
            .unwrap_or_else(|error| panic!("postgres refused {sql:?}: {error}"))
    }

    pub fn process(&self) -> Process {
        self.process.lock().expect("no holder panics").clone()
    }

    /// The crash of the server with all its sessions.
    pub async fn kill9(&self) {
        self.process().kill9_tree();
        self.process().wait_exit(START_TIMEOUT).await;
    }

    /// The orderly stop: sessions are ended, not waited for.
    pub async fn shutdown(&self) {
        self.process().sigint();
        self.process().wait_exit(START_TIMEOUT).await;
    }

    /// Starts it again on the same port and data; stops it first, in order, if it runs.
    pub async fn restart(&self) {
        if self.process().exit_code().is_none() {
            self.shutdown().await;
        }
        // After a crash it names a process that has ended but keeps its id until the sandbox ends.
        let _ = fs::remove_file(self.dir.join("postmaster.pid"));
        let process = spawn(self.sandbox, self.port, &self.dir, &self.options);
        *self.process.lock().expect("no holder panics") = process;
        assert!(
            self.answers().await,
            "postgres did not come back\n{}",
            self.process().tail()
        );
    }

    /// The server and its sessions stand still, as on a machine that is paused. Undone by [`Postgres::thaw`].
    pub fn freeze(&self) {
        self.process().freeze_tree();
    }

    pub fn thaw(&self) {
        self.process().thaw_tree();
    }

    /// Whether *this* server answers: its folder tells it from a stranger who took the port.
    async fn answers(&self) -> bool {
        let process = self.process();
        eventually(START_TIMEOUT, format!("an answer of {process}"), async || {
            if process.exit_code().is_some() {
                return Some(false);
            }
            let folder = tokio::time::timeout(CONNECT_TIMEOUT, self.folder())
                .await
                .ok()?
                .ok()?;
            (Path::new(&folder) == self.dir).then_some(true)
        })
        .await
    }

    async fn folder(&self) -> Result<String, sqlx::Error> {
        let mut session = self.connect().await?;
        let row = sqlx::query("SHOW data_directory").fetch_one(&mut session).await?;
        session.close().await?;
        row.try_get(0)
    }
}

fn spawn(sandbox: &Sandbox, port: u16, dir: &Path, options: &PostgresOptions) -> Process {
    let mut command = Command::new(installed("postgres"));
    command.arg("-D").arg(dir).args(["-p", &port.to_string()]);
    for (name, value) in &options.settings {
        command.args(["-c", &format!("{name}={value}")]);
    }
    Process::start_as(sandbox, command, User::unprivileged())
}

/// An empty database, made once a build folder: to copy it takes a tenth of the time.
fn template() -> PathBuf {
    let folder = build_folder().join("test-postgres");
    fs::create_dir_all(&folder).expect("make the templates' folder");
    let initdb = installed("initdb");
    // Another version's files would not do.
    let version = initdb
        .components()
        .rev()
        .nth(2)
        .expect("it is in a folder of its version");
    let template = folder.join(version);
    let lock = File::create(folder.join("lock")).expect("make the lock file");
    lock.lock().expect("lock a file");
    if !template.exists() {
        make_template(&initdb, &template);
    }
    template
}

/// The user whom Postgres runs as may have no way into the build folder, so the files are made elsewhere and moved.
fn make_template(initdb: &Path, template: &Path) {
    let scratch = Sandbox::new();
    let dir = scratch.path().join("template");
    fs::create_dir(&dir).expect("make a folder");
    let mut command = Command::new(initdb);
    command.arg("-D").arg(&dir).args([
        "--no-sync",
        "--auth=trust",
        "--username=postgres",
        "--encoding=UTF8",
        "--locale=C",
        "--wal-segsize=1", // MiB: small files to copy
    ]);
    if let Some(user) = User::unprivileged() {
        user.own(&dir);
        user.run_as(&mut command);
    }
    run(command.current_dir(scratch.path()));
    // Beside its final place first: a copy that was cut off must not be taken for the whole.
    let part = template.with_extension("part");
    run(Command::new("rm").arg("-rf").arg(&part));
    run(Command::new("cp").arg("-a").arg(&dir).arg(&part));
    fs::rename(&part, template).expect("move the template to its place");
}

fn run(command: &mut Command) {
    let output = command.output();
    let output = output.unwrap_or_else(|error| panic!("start {command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed: {errors}");
}
