//! Log lines are a fixed sentence and fields: what varies in the sentence cannot be searched for, and takes what it must
//! not show along.

use super::Violation;
use super::source::Source;

const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

pub(crate) fn check(source: &Source<'_>) -> Vec<Violation> {
    if !source.is_rust() {
        return Vec::new();
    }
    let lines: Vec<(usize, &str)> = source.product_lines().collect();
    let fix =
        "say it in a fixed sentence, and put what varies into fields: info!(%who, \"another one leads\")";
    let starts = lines.iter().enumerate().filter(|(_, (_, line))| is_start(line));
    starts
        .filter(|(at, _)| sentence(&lines[*at..]).is_some_and(|sentence| sentence.contains('{')))
        .map(|(_, (number, _))| Violation::new(source.path, *number, "log-sentence", fix))
        .collect()
}

fn is_start(line: &str) -> bool {
    let line = line.trim_start();
    !line.starts_with("//")
        && LEVELS
            .iter()
            .any(|level| line.contains(&format!("tracing::{level}!(")))
}

/// The text of a macro call that begins in the first line: the last one that stands alone, not after `=` or a sign.
fn sentence(lines: &[(usize, &str)]) -> Option<String> {
    let call: Vec<&str> = lines.iter().map(|(_, line)| *line).take(40).collect();
    let call = call.join("\n");
    let begin = call.find("tracing::")?;
    let (mut depth, mut texts, mut rest) = (0_u32, Vec::new(), call[begin..].char_indices().peekable());
    let text = &call[begin..];
    while let Some((at, c)) = rest.next() {
        match c {
            '(' => depth += 1,
            ')' if depth == 1 => break,
            ')' => depth -= 1,
            '"' => {
                let mut end = at + 1;
                while let Some((next, c)) = rest.next() {
                    match c {
                        '\\' => drop(rest.next()),
                        '"' => {
                            end = next;
                            break;
                        }
                        _ => {}
                    }
                }
                let before = text[..at].trim_end();
                if depth == 1 && (before.ends_with(',') || before.ends_with('(')) {
                    texts.push(text[at + 1..end].to_owned());
                }
            }
            _ => {}
        }
    }
    texts.pop()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(text: &str) -> Vec<usize> {
        let found = check(&Source::new("crates/a/src/b.rs", text));
        found.iter().map(|violation| violation.line).collect()
    }

    #[test]
    fn what_varies_belongs_into_fields() {
        let none: [usize; 0] = [];
        assert_eq!(lines_of("tracing::info!(%who, \"another one leads\");\n"), none);
        assert_eq!(lines_of("tracing::info!(\"{who} leads\");\n"), [1]);
        assert_eq!(
            lines_of("x();\ntracing::warn!(\n    a = f(\"{b}\"),\n    \"it failed: {error}\"\n);\n"),
            [2]
        );
        assert_eq!(
            lines_of("tracing::warn!(\n    a = format!(\"{b}\"),\n    \"it failed\"\n);\nlet a = \"{}\";\n"),
            none
        );
        assert_eq!(
            lines_of("tracing::debug!(text = \"{\", \"a \\\" mark\");\n"),
            none
        );
    }
}
