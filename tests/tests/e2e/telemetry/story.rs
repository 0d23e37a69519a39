//! Spans as a text that can be compared: trees in the order in which they began, ids and numbers that differ between runs
//! replaced.

use std::collections::HashMap;
use std::fmt::Write as _;

use tidegate_tests::Received;

/// Attributes that differ between runs.
const VOLATILE: [&str; 2] = ["messaging.message.id", "tidegate.fence"];
const KINDS: [&str; 6] = [
    "UNSPECIFIED",
    "INTERNAL",
    "SERVER",
    "CLIENT",
    "PRODUCER",
    "CONSUMER",
];

/// One tree a trace. `spans` are all there is: a parent or a link that is not among them is shown as `?`.
pub fn tell(spans: &[Received]) -> String {
    let mut spans: Vec<&Received> = spans.iter().collect();
    spans.sort_by_key(|received| received.span.start_time_unix_nano);
    let names = number(&spans);
    let mut text = String::new();
    let is_root = |received: &&Received| received.span.parent_span_id.is_empty();
    let orphans = spans.iter().filter(|received| {
        !received.span.parent_span_id.is_empty() && !names.contains_key(&received.span.parent_span_id)
    });
    for root in spans.iter().filter(|received| is_root(received)).chain(orphans) {
        branch(&spans, &names, root, 0, &mut text);
    }
    text
}

/// Names by span id; the second of a name is `name #2`.
fn number(spans: &[&Received]) -> HashMap<Vec<u8>, String> {
    let mut seen: HashMap<&str, usize> = HashMap::new();
    let mut names = HashMap::new();
    for received in spans {
        let span = &received.span;
        let count = seen.entry(&span.name).or_default();
        *count += 1;
        let name = match count {
            1 => span.name.clone(),
            n => format!("{} #{n}", span.name),
        };
        names.insert(span.span_id.clone(), name);
    }
    names
}

fn branch(
    spans: &[&Received],
    names: &HashMap<Vec<u8>, String>,
    received: &Received,
    depth: usize,
    text: &mut String,
) {
    let span = &received.span;
    let indent = "  ".repeat(depth);
    let name = |id: &Vec<u8>| names.get(id).cloned().unwrap_or_else(|| "?".to_owned());
    let kind = KINDS.get(span.kind as usize).unwrap_or(&"?");
    let orphan = if depth == 0 && !span.parent_span_id.is_empty() {
        " of ?"
    } else {
        ""
    };
    let failed = span.status.as_ref().is_some_and(|status| status.code == 2);
    let status = if failed { " ERROR" } else { "" };
    let _ = writeln!(
        text,
        "{indent}{}{orphan} [{kind}] {}{status}",
        name(&span.span_id),
        received.service
    );
    for link in &span.links {
        let _ = writeln!(text, "{indent}    -> {}", name(&link.span_id));
    }
    for (key, value) in tidegate_tests::attributes(&span.attributes) {
        let value = if VOLATILE.contains(&key.as_str()) {
            "*"
        } else {
            value.as_str()
        };
        let _ = writeln!(text, "{indent}    {key}={value}");
    }
    let children = spans
        .iter()
        .filter(|child| child.span.parent_span_id == span.span_id);
    for child in children {
        branch(spans, names, child, depth + 1, text);
    }
}
