//! The arrows between our crates: they only go down.

use super::Violation;
use crate::workspace;
use anyhow::{Context, Result};
use serde::Deserialize;
use std::path::Path;
use std::process::Command;

/// What each package may depend on among ours, for any purpose, tests included: a dev-dependency that points up makes
/// the lower crate impossible to test without the upper one.
///
/// Only the router (and what stands above it) links the job store. `store` uses `flow` for the backoff formula alone:
/// the store must compute a retry's time itself, and the formula must not exist twice.
const ALLOWED: [(&str, &[&str]); 12] = [
    ("tidegate-protocol", &[]),
    ("tidegate-flow", &[]),
    ("tidegate-chassis", &[]),
    ("tidegate-store", &["tidegate-protocol", "tidegate-flow"]),
    ("tidegate-client", &["tidegate-protocol", "tidegate-flow"]),
    ("tidegate-sim", &["tidegate-flow"]),
    (
        "tidegate-router",
        &[
            "tidegate-store",
            "tidegate-client",
            "tidegate-flow",
            "tidegate-protocol",
            "tidegate-chassis",
        ],
    ),
    (
        "tidegate-worker",
        &[
            "tidegate-client",
            "tidegate-flow",
            "tidegate-protocol",
            "tidegate-chassis",
        ],
    ),
    (
        "tidegate-controller",
        &[
            "tidegate-client",
            "tidegate-flow",
            "tidegate-protocol",
            "tidegate-chassis",
        ],
    ),
    ("tidegate", BELOW_THE_TOP),
    ("tidegate-tests", BELOW_THE_TOP),
    // It starts built binaries: linking more would make it unable to run when the product does not compile.
    ("xtask", &["tidegate-tests"]),
];

const BELOW_THE_TOP: &[&str] = &[
    "tidegate-router",
    "tidegate-worker",
    "tidegate-controller",
    "tidegate-store",
    "tidegate-client",
    "tidegate-sim",
    "tidegate-protocol",
    "tidegate-flow",
    "tidegate-chassis",
];

/// Decisions are arithmetic: whatever this crate would import could bring a clock or randomness of its own.
const WITHOUT_DEPENDENCIES: &str = "tidegate-flow";

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// `None` is a normal one, else "dev" or "build".
    kind: Option<String>,
    /// Set for crates of the workspace.
    path: Option<String>,
}

pub(crate) fn check(root: &Path) -> Result<Vec<Violation>> {
    let mut command = Command::new(workspace::cargo());
    command
        .current_dir(root)
        .args(["metadata", "--no-deps", "--format-version", "1"]);
    let output = workspace::output_of(&mut command)?;
    let metadata: Metadata = serde_json::from_str(&output).context("read cargo metadata")?;
    let mut found = Vec::new();
    for package in &metadata.packages {
        let full = Path::new(&package.manifest_path);
        let manifest = std::fs::read_to_string(full).with_context(|| format!("read {}", full.display()))?;
        let path = full.strip_prefix(root).unwrap_or(full).to_string_lossy();
        found.extend(check_package(package, &path, &manifest));
    }
    Ok(found)
}

fn check_package(package: &Package, path: &str, manifest: &str) -> Vec<Violation> {
    let Some((_, allowed)) = ALLOWED.into_iter().find(|(name, _)| *name == package.name) else {
        let fix = format!("give {} a place in the table of tidy/layers.rs", package.name);
        return vec![Violation::new(path, 1, "layering", fix)];
    };
    let mut found = Vec::new();
    for dependency in &package.dependencies {
        let (name, is_ours) = (dependency.name.as_str(), dependency.path.is_some());
        if is_ours && !allowed.contains(&name) {
            let fix = format!(
                "{} may not depend on {name}: arrows only go down, see ARCHITECTURE.md",
                package.name
            );
            found.push(Violation::new(path, line_of(manifest, name), "layering", fix));
        } else if package.name == WITHOUT_DEPENDENCIES && dependency.kind.as_deref() != Some("dev") {
            let fix = format!(
                "{name}: {WITHOUT_DEPENDENCIES} depends on nothing; take what it needs as an argument"
            );
            found.push(Violation::new(path, line_of(manifest, name), "pure-flow", fix));
        }
    }
    found
}

/// Where a manifest mentions a dependency; line 1 if it is spelt in a way that is not recognised.
fn line_of(manifest: &str, dependency: &str) -> usize {
    let names = |line: &str| {
        let rest = line.trim().strip_prefix(dependency);
        rest.is_some_and(|rest| rest.starts_with(['.', ' ', '=']))
    };
    manifest.lines().position(names).map_or(1, |index| index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, dependencies: &[(&str, Option<&str>, bool)]) -> Vec<(usize, &'static str)> {
        let manifest =
            "[dependencies]\ntidegate-router-x = 1\ntidegate-router.workspace = true\nserde = \"1\"\n";
        let dependency = |&(name, kind, is_ours): &(&str, Option<&str>, bool)| Dependency {
            name: name.to_owned(),
            kind: kind.map(str::to_owned),
            path: is_ours.then(|| "somewhere".to_owned()),
        };
        let package = Package {
            name: name.to_owned(),
            manifest_path: String::new(),
            dependencies: dependencies.iter().map(dependency).collect(),
        };
        let found = check_package(&package, "Cargo.toml", manifest);
        found
            .iter()
            .map(|violation| (violation.line, violation.rule))
            .collect()
    }

    #[test]
    fn arrows_go_down() {
        assert_eq!(
            found(
                "tidegate-router",
                &[("tidegate-store", None, true), ("serde", None, false)]
            ),
            []
        );
        assert_eq!(
            found("tidegate-worker", &[("tidegate-router", None, true)]),
            [(3, "layering")]
        );
        assert_eq!(
            found("tidegate-worker", &[("tidegate-store", Some("dev"), true)]),
            [(1, "layering")]
        );
        assert_eq!(
            found("xtask", &[("tidegate-store", None, true)]),
            [(1, "layering")]
        );
    }

    #[test]
    fn a_new_package_needs_a_place() {
        assert_eq!(found("tidegate-news", &[]), [(1, "layering")]);
    }

    #[test]
    fn flow_has_no_dependency() {
        assert_eq!(
            found("tidegate-flow", &[("serde", None, false)]),
            [(4, "pure-flow")]
        );
        assert_eq!(
            found("tidegate-flow", &[("cc", Some("build"), false)]),
            [(1, "pure-flow")]
        );
        assert_eq!(found("tidegate-flow", &[("proptest", Some("dev"), false)]), []);
    }

    #[test]
    fn the_table_itself_only_points_down() {
        let row = |name: &str| ALLOWED.iter().position(|(package, _)| *package == name);
        for (package, allowed) in ALLOWED {
            assert!(allowed.iter().all(|below| row(below) < row(package)), "{package}");
        }
        let links_store = |allowed: &[&str]| allowed.contains(&"tidegate-store");
        let linking: Vec<&str> = ALLOWED
            .iter()
            .filter(|(_, all)| links_store(all))
            .map(|(name, _)| *name)
            .collect();
        assert_eq!(linking, ["tidegate-router", "tidegate", "tidegate-tests"]);
    }
}
