//! A real PgBouncer in front of a test's Postgres, in transaction mode: a session of the server for as long as a
//! transaction lasts, which is how most fleets share few connections.

use crate::postgres::Postgres;
use crate::process::{Process, User, installed};
use crate::sandbox::{Sandbox, free_port};
use crate::wait::{START_TIMEOUT, eventually};
use sqlx::{Connection, PgConnection};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// Between `free_port` and the pooler's bind another process may take the port.
const START_TRIES: usize = 5;

#[derive(Clone)]
pub struct PgBouncerOptions {
    settings: Vec<(String, String)>,
}

impl Default for PgBouncerOptions {
    fn default() -> Self {
        let options = Self { settings: Vec::new() };
        options
            .with("pool_mode", "transaction")
            .with("max_client_conn", "500")
            .pool_size(20)
    }
}

impl PgBouncerOptions {
    /// Sessions of the server for each role.
    pub fn pool_size(self, sessions: u32) -> Self {
        self.with("default_pool_size", &sessions.to_string())
    }

    /// One more setting as in pgbouncer.ini; the last value of a name wins.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// Knows every role of its Postgres; `postgres` may look at its console ([`PgBouncer::console_url`]).
pub struct PgBouncer<'a> {
    sandbox: &'a Sandbox,
    port: u16,
    ini: PathBuf,
    process: Mutex<Process>,
}

impl<'a> PgBouncer<'a> {
    pub async fn start(sandbox: &'a Sandbox, server: &Postgres<'_>, options: PgBouncerOptions) -> Self {
        Self::in_front_of(sandbox, server.port(), options).await
    }

    /// As [`PgBouncer::start`], to a port: a fault proxy's, for example.
    pub async fn in_front_of(sandbox: &'a Sandbox, server_port: u16, options: PgBouncerOptions) -> Self {
        for _ in 1..START_TRIES {
            if let Some(pooler) = Self::try_start(sandbox, server_port, free_port(), &options).await {
                return pooler;
            }
        }
        let last = Self::try_start(sandbox, server_port, free_port(), &options).await;
        last.expect("pgbouncer exited at start each time; its output is below")
    }

    async fn try_start(
        sandbox: &'a Sandbox,
        server_port: u16,
        port: u16,
        options: &PgBouncerOptions,
    ) -> Option<Self> {
        let users = sandbox.write(&format!("pgbouncer-{port}.users"), "\"postgres\" \"\"\n");
        let mut ini = format!(
            "[databases]\n\
             * = host=127.0.0.1 port={server_port} auth_user=postgres\n\
             [pgbouncer]\n\
             listen_addr = 127.0.0.1\n\
             listen_port = {port}\n\
             unix_socket_dir =\n\
             auth_type = trust\n\
             auth_file = {users}\n\
             admin_users = postgres\n\
             ignore_startup_parameters = extra_float_digits\n"
        );
        for (name, value) in &options.settings {
            ini.push_str(&format!("{name} = {value}\n"));
        }
        let ini = PathBuf::from(sandbox.write(&format!("pgbouncer-{port}.ini"), &ini));
        let process = Mutex::new(spawn(sandbox, &ini));
        let pooler = Self {
            sandbox,
            port,
            ini,
            process,
        };
        pooler.answers().await.then_some(pooler)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Of a role of the Postgres behind it.
    pub fn role_url(&self, role: &str) -> String {
        format!("postgres://{role}@127.0.0.1:{}/postgres", self.port)
    }

    /// Where `SHOW POOLS` is answered. It speaks the simple query protocol only.
    pub fn console_url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/pgbouncer", self.port)
    }

    pub fn process(&self) -> Process {
        self.process.lock().expect("no holder panics").clone()
    }

    pub async fn kill9(&self) {
        self.process().kill9();
        self.process().wait_exit(START_TIMEOUT).await;
    }

    /// Starts it again on the same port; kills it first if it runs.
    pub async fn restart(&self) {
        if self.process().exit_code().is_none() {
            self.kill9().await;
        }
        *self.process.lock().expect("no holder panics") = spawn(self.sandbox, &self.ini);
        assert!(
            self.answers().await,
            "pgbouncer did not come back\n{}",
            self.process().tail()
        );
    }

    async fn answers(&self) -> bool {
        let process = self.process();
        eventually(START_TIMEOUT, format!("an answer of {process}"), async || {
            if process.exit_code().is_some() {
                return Some(false);
            }
            let session = PgConnection::connect(&self.role_url("postgres")).await.ok()?;
            session.close().await.ok()?;
            Some(true)
        })
        .await
    }
}

fn spawn(sandbox: &Sandbox, ini: &Path) -> Process {
    let mut command = Command::new(installed("pgbouncer"));
    command.arg(ini);
    Process::start_as(sandbox, command, User::unprivileged())
}
