//! Whitespace, size, left-over notes, and traces of the machine that a file was written on.

use super::Violation;
use super::source::Source;

/// A reader holds about this much of a file in mind.
const LINES_MAX: usize = 450;
const LINES_WARN: usize = 350;

/// Written in halves, or this file would violate its own rule.
const NOTES: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX")];

/// Where packages come from is the reader's setting, not the repository's: a mirror's name would break every clone
/// that cannot reach it.
const REGISTRIES: [&str; 8] = [
    concat!("index.", "crates.io"),
    concat!("static.", "crates.io"),
    concat!("sparse", "+http"),
    concat!("registry", "+http"),
    concat!("replace", "-with"),
    concat!("proxy.", "golang.org"),
    concat!("registry.", "npmjs.org"),
    concat!("pypi.org", "/simple"),
];
/// What every Cargo.lock says.
const PUBLIC_INDEX: &str = concat!("registry", "+https://github.com/rust-lang/crates.io-index");

const MACHINE_PATHS: [&str; 3] = [
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
];
/// Fine in a document's example and in a test, wrong in the product: the place is the operator's choice.
const SCRATCH_PATH: &str = concat!("/t", "mp/");

/// These checks name what they look for.
const HOME: &str = "xtask/src/tidy/";

pub(crate) fn check(source: &Source<'_>) -> Vec<Violation> {
    let mut found = whitespace(source);
    found.extend(length(source));
    found.extend(notes(source));
    found.extend(machine_traces(source));
    found
}

fn whitespace(source: &Source<'_>) -> Vec<Violation> {
    if !source.has_extension(&["rs", "proto", "toml", "md"]) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (number, line) in source.lines() {
        if line.contains('\t') {
            found.push(Violation::new(source.path, number, "tab", "indent with blanks"));
        }
        // `lines` takes the line feed away; a carriage return before it is taken too, and is whitespace all the same.
        if line.ends_with(char::is_whitespace) {
            found.push(Violation::new(
                source.path,
                number,
                "trailing-whitespace",
                "remove it",
            ));
        }
    }
    if source.text.contains('\r') {
        found.push(Violation::new(
            source.path,
            1,
            "carriage-return",
            "end lines with a line feed alone",
        ));
    }
    if !source.text.is_empty() && !source.text.ends_with('\n') {
        let last = source.text.lines().count();
        found.push(Violation::new(
            source.path,
            last,
            "final-newline",
            "end the file with a newline",
        ));
    }
    found
}

fn length(source: &Source<'_>) -> Option<Violation> {
    if !source.is_rust() {
        return None;
    }
    let lines = source.product_lines().count();
    let fix =
        format!("{lines} lines before the tests, {LINES_MAX} allowed: split it by what its parts are for");
    let violation = Violation::new(source.path, lines, "file-length", fix);
    match lines {
        _ if lines <= LINES_WARN => None,
        _ if lines <= LINES_MAX => Some(violation.warning()),
        _ => Some(violation),
    }
}

fn notes(source: &Source<'_>) -> Vec<Violation> {
    if source.path.starts_with(HOME) {
        return Vec::new();
    }
    let note_in = |line: &str| NOTES.into_iter().find(|note| has_word(line, note));
    let noted = source
        .lines()
        .filter_map(|(number, line)| note_in(line).map(|note| (number, note)));
    let fix = |note| format!("do it, or write down what is missing where users look; no {note} in the code");
    noted
        .map(|(number, note)| Violation::new(source.path, number, "left-over-note", fix(note)))
        .collect()
}

fn machine_traces(source: &Source<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    if source.path.starts_with(HOME) {
        return found;
    }
    for (number, line) in source.lines() {
        let line = line.replace(PUBLIC_INDEX, "");
        if let Some(host) = REGISTRIES.into_iter().find(|host| line.contains(host)) {
            let fix = format!("remove {host}: where packages come from is each user's setting");
            found.push(Violation::new(source.path, number, "registry-host", fix));
        }
        if let Some(path) = MACHINE_PATHS.into_iter().find(|path| starts_a_path(&line, path)) {
            let fix = format!("remove {path}: paths are relative to the repository or configured");
            found.push(Violation::new(source.path, number, "machine-path", fix));
        }
    }
    if source.has_extension(&["rs", "toml", "sh"]) {
        for (number, _) in source
            .product_lines()
            .filter(|(_, line)| starts_a_path(line, SCRATCH_PATH))
        {
            let fix = "take the directory from configuration or from std::env::temp_dir";
            found.push(Violation::new(source.path, number, "scratch-path", fix));
        }
    }
    found
}

/// `word` not as a part of a longer one.
fn has_word(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let (before, after) = (&line[..at], &line[at + word.len()..]);
        !before.ends_with(is_part) && !after.starts_with(is_part)
    })
}

/// `path` from the root, not in the middle of a longer path or an address.
fn starts_a_path(line: &str, path: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || "_-./~}*".contains(c);
    line.match_indices(path)
        .any(|(at, _)| !line[..at].ends_with(is_part))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(path: &str, text: &str) -> Vec<&'static str> {
        check(&Source::new(path, text))
            .iter()
            .map(|violation| violation.rule)
            .collect()
    }

    #[test]
    fn whitespace_is_judged_where_we_write_it() {
        assert_eq!(rules("a.toml", "a = 1\n"), [""; 0]);
        assert_eq!(rules("a.toml", "\ta = 1\n"), ["tab"]);
        assert_eq!(rules("a.md", "text  \n"), ["trailing-whitespace"]);
        assert_eq!(rules("a.proto", "text"), ["final-newline"]);
        assert_eq!(rules("a.rs", "text\r\n"), ["carriage-return"]);
        assert_eq!(rules("Makefile", "\tmake \n"), [""; 0]);
    }

    #[test]
    fn long_files_are_warned_about_then_refused() {
        let file = |lines| "x();\n".repeat(lines);
        assert_eq!(rules("a.rs", &file(350)), [""; 0]);
        assert!(!check(&Source::new("a.rs", &file(351)))[0].is_error());
        assert!(!check(&Source::new("a.rs", &file(450)))[0].is_error());
        assert!(check(&Source::new("a.rs", &file(451)))[0].is_error());
        let tests = format!("x();\n#[cfg(test)]\nmod tests {{\n{}}}\n", file(500));
        assert_eq!(rules("a.rs", &tests), [""; 0], "tests may be long");
    }

    #[test]
    fn notes_are_whole_words() {
        assert_eq!(rules("a.rs", "// TODO: later\n"), ["left-over-note"]);
        assert_eq!(rules("a.md", "FIXME\n"), ["left-over-note"]);
        assert_eq!(rules("a.sh", "# XXX\n"), ["left-over-note"]);
        assert_eq!(rules("a.sh", "mktemp a.XXXXXX; MASTODON; TODOS\n"), [""; 0]);
    }

    #[test]
    fn traces_of_a_machine_are_found() {
        assert_eq!(rules("a.md", "see /work/main/a\n"), ["machine-path"]);
        assert_eq!(
            rules("a.rs", "const A: &str = \"/root/.cargo\";\n"),
            ["machine-path"]
        );
        assert_eq!(rules("a.rs", "const A: &str = \"/tmp/a\";\n"), ["scratch-path"]);
        assert_eq!(
            rules("a.rs", "fn a() {}\n#[cfg(test)]\nmod tests {\n\"/tmp/a\"\n}\n"),
            [""; 0]
        );
        assert_eq!(
            rules(
                "a.md",
                "https://host/work/a, crates/root/b, target/tmp/c, ./work/\n"
            ),
            [""; 0]
        );
    }

    #[test]
    fn registries_are_found_except_the_public_index() {
        let lock = "source = \"registry+https://github.com/rust-lang/crates.io-index\"\n";
        assert_eq!(rules("Cargo.lock", lock), [""; 0]);
        assert_eq!(
            rules(
                "Cargo.lock",
                "source = \"registry+https://mirror.example/index\"\n"
            ),
            ["registry-host"]
        );
        assert_eq!(
            rules("config.toml", "replace-with = \"mirror\"\n"),
            ["registry-host"]
        );
    }
}
