//! Programs that the tests start, and how to get them.

use std::path::PathBuf;
use std::process::{Command, Stdio};

/// (program, Debian package). `initdb` comes with Postgres itself, and there is none on the path.
const NEEDS: &[(&str, &str)] = &[
    ("redis-server", "redis-server"),
    ("initdb", "postgresql"),
    ("pgbouncer", "pgbouncer"),
    ("node", "nodejs"),
    ("python3", "python3-venv"), // with pip, for the worker in Python
    ("prometheus", "prometheus"),
];

/// Where packages put servers; the harness looks there, too.
const SERVER_DIRS: [&str; 2] = ["/usr/sbin", "/usr/local/sbin"];
const POSTGRES_DIRS: &str = "/usr/lib/postgresql";

/// Installs what is missing where that is possible; otherwise says exactly what to install.
pub(crate) fn provide() -> Result<(), String> {
    let missing: Vec<_> = NEEDS
        .iter()
        .filter(|(program, _)| !is_installed(program))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let advice = format!(
        "the tests need {0}; on Debian: apt-get install {0}",
        missing.join(" ")
    );
    let root = Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|id| id.stdout.trim_ascii() == b"0");
    if !root || !is_installed("apt-get") {
        return Err(advice);
    }
    println!("installing {}", missing.join(" "));
    let installed =
        apt(&["update"]) && apt(&[&["install", "--yes", "--no-install-recommends"], &missing[..]].concat());
    if installed { Ok(()) } else { Err(advice) }
}

fn apt(args: &[&str]) -> bool {
    let mut command = Command::new("apt-get");
    command
        .arg("--quiet=2")
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null());
    command
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn is_installed(program: &str) -> bool {
    // Debian splits what a virtual environment needs from Python itself.
    if program == "python3" && !python_has_venv() {
        return false;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.extend(SERVER_DIRS.map(PathBuf::from));
    let versions = std::fs::read_dir(POSTGRES_DIRS).into_iter().flatten().flatten();
    folders.extend(versions.map(|version| version.path().join("bin")));
    folders.iter().any(|folder| folder.join(program).is_file())
}

fn python_has_venv() -> bool {
    let mut python = Command::new("python3");
    python
        .args(["-c", "import ensurepip, venv"])
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    python.status().is_ok_and(|status| status.success())
}
