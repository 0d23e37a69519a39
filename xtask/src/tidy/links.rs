//! Links between our documents: a page that moved must take its links along.

use super::Violation;
use super::source::Source;
use std::path::{Component, Path, PathBuf};

/// `exists` answers for a path relative to the repository.
pub(crate) fn check(source: &Source<'_>, exists: &dyn Fn(&Path) -> bool) -> Vec<Violation> {
    if !source.has_extension(&["md"]) {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut in_code_block = false;
    for (number, line) in source.lines() {
        if line.trim_start().starts_with("```") {
            in_code_block = !in_code_block;
        }
        if in_code_block {
            continue;
        }
        for target in targets(line) {
            if resolve(source.path, &target).is_some_and(|path| !exists(&path)) {
                let fix = format!("{target} does not exist: correct the link or remove it");
                found.push(Violation::new(source.path, number, "dead-link", fix));
            }
        }
    }
    found
}

/// Targets of `[text](target "title")` and of `[name]: target`, without those in `code`.
fn targets(line: &str) -> Vec<String> {
    // Every second part between backticks is code.
    let prose: Vec<&str> = line.split('`').step_by(2).collect();
    let prose = prose.join(" ");
    let after_inline = prose.split("](").skip(1);
    let inline = after_inline.filter_map(|rest| rest.split_once(')').map(|(target, _)| target));
    let trimmed = prose.trim_start();
    let definition = if trimmed.starts_with('[') {
        trimmed.split_once("]: ")
    } else {
        None
    };
    let all = inline.chain(definition.map(|(_, target)| target));
    let first_word = |target: &str| target.split_whitespace().next().map(str::to_owned);
    all.filter_map(first_word).collect()
}

/// The file that a target names, relative to the repository. `None` for other sites and for places on the same page.
fn resolve(from: &str, target: &str) -> Option<PathBuf> {
    let target = target.trim_start_matches('<').trim_end_matches('>');
    let file = target.split(['#', '?']).next().unwrap_or_default();
    if file.is_empty() || target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let base = match file.strip_prefix('/') {
        Some(_) => PathBuf::new(),
        None => Path::new(from).parent().unwrap_or(Path::new("")).to_path_buf(),
    };
    let mut path = PathBuf::new();
    for component in base.join(file.trim_start_matches('/')).components() {
        match component {
            // A link out of the repository is kept as it is, so that it is found to be dead in every clone.
            Component::ParentDir if !path.pop() => return Some(PathBuf::from("..").join(file)),
            Component::Normal(name) => path.push(name),
            _ => {}
        }
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dead(path: &str, text: &str) -> Vec<usize> {
        let exists = |path: &Path| {
            ["README.md", "docs/a.md", "docs"]
                .iter()
                .any(|known| path == Path::new(known))
        };
        check(&Source::new(path, text), &exists)
            .iter()
            .map(|violation| violation.line)
            .collect()
    }

    #[test]
    fn links_are_relative_to_their_page() {
        assert_eq!(
            dead(
                "docs/b.md",
                "[a](a.md), [readme](../README.md#top), [root](/docs/a.md), [dir](./)\n"
            ),
            [0; 0]
        );
        assert_eq!(dead("README.md", "text\n[a](a.md)\n[b](docs/a.md)\n"), [2]);
        assert_eq!(
            dead("docs/b.md", "[a](docs/a.md) and [c](c.md \"title\")\n"),
            [1, 1]
        );
        assert_eq!(dead("README.md", "[out](../elsewhere.md)\n"), [1]);
    }

    #[test]
    fn definitions_count_too() {
        assert_eq!(dead("README.md", "[a]: docs/a.md\n[b]: docs/b.md\n"), [2]);
    }

    #[test]
    fn other_sites_anchors_and_code_do_not() {
        let text =
            "[a](https://example.com/a.md) [b](#part) [c](mailto:a@b.c) `[d](d.md)`\n```\n[e](e.md)\n```\n";
        assert_eq!(dead("README.md", text), [0; 0]);
        assert_eq!(dead("a.rs", "/// [a](nowhere.md)\n"), [0; 0]);
    }
}
