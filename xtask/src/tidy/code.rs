//! Rules about Rust code that clippy has no lint for, or only a lint that can be allowed away.

use super::Violation;
use super::source::Source;

/// Each server makes gRPC errors in one file, so that their codes, reasons and details can be read on one page.
/// (sources of the server, name of that file)
const STATUS_FILES: [(&str, &str); 2] = [
    ("crates/router/src/", "status.rs"),
    ("crates/controller/src/", "status.rs"),
];

/// The ways `tonic` offers to make a status.
const STATUS_CONSTRUCTORS: [&str; 22] = [
    "new",
    "ok",
    "cancelled",
    "unknown",
    "invalid_argument",
    "deadline_exceeded",
    "not_found",
    "already_exists",
    "permission_denied",
    "resource_exhausted",
    "failed_precondition",
    "aborted",
    "out_of_range",
    "unimplemented",
    "internal",
    "unavailable",
    "data_loss",
    "unauthenticated",
    "with_details",
    "with_metadata",
    "with_error_details",
    "with_error_details_vec",
];

/// In halves, or this file would violate its own rules.
const UNWRAP: &str = concat!(".unw", "rap()");
const IGNORES: [&str; 2] = [concat!("#[ign", "ore]"), concat!("#[ign", "ore =")];

pub(crate) fn check(source: &Source<'_>) -> Vec<Violation> {
    if !source.is_rust() {
        return Vec::new();
    }
    let mut found = unwraps(source);
    found.extend(ignored_tests(source));
    found.extend(statuses(source));
    found
}

fn unwraps(source: &Source<'_>) -> Vec<Violation> {
    let fix = "return the error, or expect(\"the reason it cannot fail\")";
    let bad = source
        .product_lines()
        .filter(|(_, line)| code_of(line).contains(UNWRAP));
    bad.map(|(number, _)| Violation::new(source.path, number, "unwrap", fix))
        .collect()
}

/// A test that nobody runs proves nothing, and nobody notices when it starts to fail.
fn ignored_tests(source: &Source<'_>) -> Vec<Violation> {
    let is_ignored = |line: &str| {
        let line = code_of(line).trim_start();
        IGNORES.into_iter().any(|attribute| line.starts_with(attribute))
            || (line.starts_with("#[cfg_attr") && has_argument(line, "ignore"))
    };
    let fix = "make the test run everywhere, or delete it";
    let bad = source.lines().filter(|(_, line)| is_ignored(line));
    bad.map(|(number, _)| Violation::new(source.path, number, "ignored-test", fix))
        .collect()
}

fn statuses(source: &Source<'_>) -> Vec<Violation> {
    let server = STATUS_FILES
        .into_iter()
        .find(|(sources, _)| source.path.starts_with(sources));
    let Some((sources, file)) = server else {
        return Vec::new();
    };
    if source.path.rsplit('/').next() == Some(file) {
        return Vec::new();
    }
    let fix = format!("make it in the {file} of {sources}: codes and details are kept together");
    let bad = source
        .product_lines()
        .filter(|(_, line)| makes_status(code_of(line)));
    bad.map(|(number, _)| Violation::new(source.path, number, "status-elsewhere", fix.clone()))
        .collect()
}

fn makes_status(line: &str) -> bool {
    const TYPE: &str = "Status::";
    line.match_indices(TYPE).any(|(at, _)| {
        let is_other_type = line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let rest = &line[at + TYPE.len()..];
        let end = rest
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        !is_other_type && STATUS_CONSTRUCTORS.contains(&&rest[..end])
    })
}

/// The line without its comment. A `//` in a string cuts too much: harmless for what is looked for here.
fn code_of(line: &str) -> &str {
    line.split_once("//").map_or(line, |(code, _)| code)
}

fn has_argument(line: &str, argument: &str) -> bool {
    line.split([',', '(', ')', ' ', '=']).any(|part| part == argument)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(path: &str, text: &str) -> Vec<(usize, &'static str)> {
        check(&Source::new(path, text))
            .iter()
            .map(|violation| (violation.line, violation.rule))
            .collect()
    }

    #[test]
    fn unwrap_is_for_tests_and_examples() {
        assert_eq!(rules("a/src/b.rs", "let a = 1;\nb.unwrap();\n"), [(2, "unwrap")]);
        assert_eq!(
            rules("a/src/b.rs", "#[cfg(test)]\nmod tests {\n b.unwrap();\n}\n"),
            []
        );
        assert_eq!(rules("a/tests/b.rs", "b.unwrap();\n"), []);
        assert_eq!(rules("a/src/b.rs", "/// b.unwrap();\nb.unwrap_or(1);\n"), []);
        assert_eq!(rules("a/README.md", "b.unwrap();\n"), []);
    }

    #[test]
    fn no_test_is_ignored() {
        let text = "#[cfg(test)]\nmod tests {\n    #[test]\n    #[ignore = \"slow\"]\n    fn a() {}\n}\n";
        assert_eq!(rules("a/src/b.rs", text), [(4, "ignored-test")]);
        assert_eq!(rules("tests/a.rs", "#[ignore]\n"), [(1, "ignored-test")]);
        assert_eq!(
            rules("tests/a.rs", "#[cfg_attr(not(unix), ignore)]\n"),
            [(1, "ignored-test")]
        );
        assert_eq!(rules("tests/a.rs", "#[ignored_fields]\n// #[ignore]\n"), []);
    }

    #[test]
    fn a_server_makes_its_statuses_in_one_file() {
        let text = "return Err(tonic::Status::not_found(\"no such job\"));\n";
        assert_eq!(
            rules("crates/router/src/jobs.rs", text),
            [(1, "status-elsewhere")]
        );
        assert_eq!(rules("crates/router/src/grpc/status.rs", text), []);
        assert_eq!(rules("crates/client/src/jobs.rs", text), []);
        let with_details = "Status::with_error_details(code, text, details)\n";
        assert_eq!(
            rules("crates/router/src/jobs.rs", with_details),
            [(1, "status-elsewhere")]
        );
        assert_eq!(
            rules(
                "crates/router/src/jobs.rs",
                "JobStatus::new(); Status::Open; StatusCode::OK\n"
            ),
            []
        );
    }
}
