//! A file as the checks see it: which lines are product code, which are tests.

/// One tracked text file.
pub(crate) struct Source<'a> {
    pub(crate) path: &'a str,
    pub(crate) text: &'a str,
    /// Lines before the test module; all of them if there is none.
    product_lines: usize,
}

impl<'a> Source<'a> {
    pub(crate) fn new(path: &'a str, text: &'a str) -> Self {
        let lines: Vec<&str> = text.lines().collect();
        let product_lines = if is_test_path(path) {
            0
        } else {
            lines_before_tests(&lines)
        };
        Self {
            path,
            text,
            product_lines,
        }
    }

    pub(crate) fn has_extension(&self, extensions: &[&str]) -> bool {
        let extension = self.path.rsplit_once('.').map(|(_, extension)| extension);
        extension.is_some_and(|extension| extensions.contains(&extension))
    }

    pub(crate) fn is_rust(&self) -> bool {
        self.has_extension(&["rs"])
    }

    /// Machine output is judged by what wrote it.
    pub(crate) fn is_generated(&self) -> bool {
        self.path.contains("/src/gen/")
    }

    /// Lines with their numbers, from 1.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (usize, &'a str)> + use<'a> {
        self.text
            .lines()
            .enumerate()
            .map(|(index, line)| (index + 1, line))
    }

    /// The lines that end up in the product. Only Rust files can have others.
    pub(crate) fn product_lines(&self) -> impl Iterator<Item = (usize, &'a str)> + use<'a> {
        let count = if self.is_rust() {
            self.product_lines
        } else {
            usize::MAX
        };
        self.lines().take(count)
    }
}

/// Integration tests, benches, examples, and unit tests in a file of their own.
fn is_test_path(path: &str) -> bool {
    let in_folder =
        |folder: &str| path.starts_with(&format!("{folder}/")) || path.contains(&format!("/{folder}/"));
    ["tests", "benches", "examples"].into_iter().any(in_folder)
        || path.ends_with("/tests.rs")
        || path.ends_with("_tests.rs")
}

/// The test module comes last in a file; a `#[cfg(test)]` on anything but a module with a body does not end the product.
fn lines_before_tests(lines: &[&str]) -> usize {
    let is_start = |&index: &usize| {
        let mut rest = lines[index..].iter().map(|line| line.trim());
        rest.next()
            .is_some_and(|line| line.starts_with("#[cfg(test)]") || line.starts_with("#[cfg(all(test"))
            && rest
                .find(|line| !line.starts_with("#["))
                .is_some_and(|line| line.contains("mod ") && line.ends_with('{'))
    };
    (0..lines.len()).find(is_start).unwrap_or(lines.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product(path: &str, text: &str) -> usize {
        Source::new(path, text).product_lines().count()
    }

    #[test]
    fn a_test_module_ends_the_product() {
        assert_eq!(
            product("a/src/b.rs", "fn a() {}\n\n#[cfg(test)]\nmod tests {\n}\n"),
            2
        );
        assert_eq!(
            product(
                "a/src/b.rs",
                "fn a() {}\n#[cfg(test)]\n#[allow(x)]\nmod tests {\n}\n"
            ),
            1
        );
    }

    #[test]
    fn a_test_only_import_or_file_does_not() {
        assert_eq!(
            product(
                "a/src/b.rs",
                "#[cfg(test)]\nuse x;\n#[cfg(test)]\nmod tests;\nfn a() {}\n"
            ),
            5
        );
    }

    #[test]
    fn test_files_have_no_product_lines() {
        for path in [
            "tests/src/lib.rs",
            "crates/a/tests/b.rs",
            "crates/a/src/b/tests.rs",
            "crates/a/benches/b.rs",
        ] {
            assert_eq!(product(path, "fn a() {}\n"), 0, "{path}");
        }
        assert_eq!(product("docs/tests/guide.md", "text\n"), 1, "only Rust has tests");
        assert_eq!(
            product("xtask/src/test.rs", "fn a() {}\n"),
            1,
            "a command, not a test"
        );
    }
}
