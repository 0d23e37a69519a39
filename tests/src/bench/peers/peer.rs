//! Who is compared: how each is installed, and what its adapter is started with.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, ensure};

use crate::built;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Peer {
    BullMq,
    BullMqRust,
    Apalis,
    Sidekiq,
    Graphile,
    TidegateRedis,
    TidegateSqlite,
}

/// Where a peer keeps its jobs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Store {
    Redis,
    Postgres,
    /// A file of Tidegate's router.
    Sqlite,
}

impl Peer {
    pub const ALL: [Self; 7] = [
        Self::BullMq,
        Self::BullMqRust,
        Self::Apalis,
        Self::Sidekiq,
        Self::Graphile,
        Self::TidegateRedis,
        Self::TidegateSqlite,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::BullMq => "bullmq",
            Self::BullMqRust => "bullmq-rust",
            Self::Apalis => "apalis",
            Self::Sidekiq => "sidekiq",
            Self::Graphile => "graphile-worker",
            Self::TidegateRedis => "tidegate-redis",
            Self::TidegateSqlite => "tidegate-sqlite",
        }
    }

    pub fn store(self) -> Store {
        match self {
            Self::Graphile => Store::Postgres,
            Self::TidegateSqlite => Store::Sqlite,
            _ => Store::Redis,
        }
    }

    pub fn is_tidegate(self) -> bool {
        matches!(self, Self::TidegateRedis | Self::TidegateSqlite)
    }

    /// The best of 1, 10, 50, 100 and 256 in one worker process on two cores.
    pub fn concurrency(self) -> u32 {
        match self {
            Self::Sidekiq => 10,
            Self::BullMq | Self::BullMqRust | Self::Graphile => 50,
            Self::Apalis => 100,
            Self::TidegateRedis | Self::TidegateSqlite => 256,
        }
    }

    /// Jobs that may wait at once: above 8,000 apalis' worker ends with "too many results to unpack".
    pub fn backlog_max(self) -> u32 {
        match self {
            Self::Apalis => 7_000,
            _ => 100_000,
        }
    }

    /// Whether jobs of a killed worker run again by themselves within two minutes; the others' own documents say hours, or
    /// never, and waiting for it shows nothing.
    pub fn recovers(self) -> bool {
        matches!(
            self,
            Self::BullMq | Self::BullMqRust | Self::TidegateRedis | Self::TidegateSqlite
        )
    }

    /// Whether it has limits on concurrency that hold over all workers.
    pub fn has_limits(self) -> bool {
        matches!(self, Self::BullMq) || self.is_tidegate()
    }

    /// The adapter, without its arguments.
    pub fn command(self) -> Command {
        let node = folder("node");
        match self {
            Self::BullMq => script("node", &node.join("bullmq.mjs")),
            Self::Graphile => script(
                node.join("node_modules/node/bin/node"),
                &node.join("graphile.mjs"),
            ),
            Self::Sidekiq => script("ruby", &source().join("ruby/sidekiq.rb")),
            Self::BullMqRust => Command::new(folder("rust").join("release/bullmq")),
            Self::Apalis => Command::new(folder("rust").join("release/apalis")),
            Self::TidegateRedis | Self::TidegateSqlite => Command::new(built("tidegate-peer")),
        }
    }

    /// Brings the peer into `target/peers`; quick when it is there.
    ///
    /// # Errors
    /// A package that cannot be had, with the installer's own words.
    pub fn install(self) -> anyhow::Result<()> {
        match self {
            Self::BullMq | Self::Graphile => install_node(),
            Self::Sidekiq => install_sidekiq(),
            Self::BullMqRust | Self::Apalis => install_rust(),
            Self::TidegateRedis | Self::TidegateSqlite => Ok(()),
        }
    }
}

/// The adapters as they are in the repository.
fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers")
}

/// Where peers of one language are installed.
fn folder(language: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .with_file_name("target")
        .join("peers")
        .join(language)
}

fn script(interpreter: impl AsRef<OsStr>, file: &Path) -> Command {
    let mut command = Command::new(interpreter);
    command.arg(file);
    command
}

/// Modules are looked for from a script's own folder, so the scripts go to where npm puts them.
fn install_node() -> anyhow::Result<()> {
    let to = folder("node");
    std::fs::create_dir_all(&to)?;
    for name in ["package.json", "adapter.mjs", "bullmq.mjs", "graphile.mjs"] {
        let from = source().join("node").join(name);
        std::fs::copy(&from, to.join(name)).with_context(|| format!("copy {}", from.display()))?;
    }
    run(Command::new("npm")
        .args(["install", "--no-audit", "--no-fund"])
        .current_dir(to))
}

fn install_sidekiq() -> anyhow::Result<()> {
    let there = Command::new("ruby").args(["-r", "sidekiq", "-e", "1"]).output();
    if there.is_ok_and(|output| output.status.success()) {
        return Ok(());
    }
    run(Command::new("apt-get").args(["install", "-y", "-q", "ruby-sidekiq"]))
}

fn install_rust() -> anyhow::Result<()> {
    let manifest = source().join("rust/Cargo.toml");
    run(Command::new("cargo")
        .args(["build", "--release", "--locked", "--quiet", "--manifest-path"])
        .arg(manifest)
        .env("CARGO_TARGET_DIR", folder("rust")))
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed:\n{said}");
    Ok(())
}
