//! Programs that the tests start, and how to get them.

use std::path::Path;
use std::process::{Command, Stdio};

/// (program, Debian package)
const NEEDS: &[(&str, &str)] = &[("redis-server", "redis-server")];

/// Installs what is missing where that is possible; otherwise says exactly what to install.
pub(crate) fn provide() -> Result<(), String> {
    let missing: Vec<_> = NEEDS
        .iter()
        .filter(|(program, _)| !on_path(program))
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
    if !root || !on_path("apt-get") {
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

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| Path::new(&folder).join(program).is_file())
}
