//! `deploy/otel-collector`: what can be known of it without the collector itself. Every component of a pipeline is
//! declared, every declared one is in use, and the order is the one that protects it.

use std::collections::BTreeSet;

use tidegate_tests::deploy;

/// (depth, key, what follows it) of each line that has a key; two spaces a level.
fn keys(text: &str) -> Vec<(usize, String, String)> {
    let content = text
        .lines()
        .filter(|line| !line.trim_start().starts_with(['#', '-']));
    content
        .filter_map(|line| {
            let (key, value) = line.trim().split_once(':')?;
            let indent = line.len() - line.trim_start().len();
            assert!(indent.is_multiple_of(2) && !line.contains('\t'), "{line:?}");
            Some((indent / 2, key.to_owned(), value.trim().to_owned()))
        })
        .collect()
}

/// Keys one level below a path of keys.
fn below<'a>(all: &'a [(usize, String, String)], path: &[&str]) -> Vec<(&'a str, &'a str)> {
    let mut found = Vec::new();
    let mut at = vec![""; 16];
    for (depth, key, value) in all {
        at[*depth] = key;
        if *depth == path.len() && at[..*depth] == *path {
            found.push((key.as_str(), value.as_str()));
        }
    }
    found
}

fn listed(text: &str) -> Vec<&str> {
    let inner = text.trim_start_matches('[').trim_end_matches(']');
    inner
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .collect()
}

/// What is wrong with it.
fn faults(text: &str) -> Vec<String> {
    let all = keys(text);
    let mut faults = Vec::new();
    for section in ["receivers", "processors", "exporters"] {
        let declared: BTreeSet<&str> = below(&all, &[section])
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        let mut used = BTreeSet::new();
        for (pipeline, _) in below(&all, &["service", "pipelines"]) {
            let parts = below(&all, &["service", "pipelines", pipeline]);
            let names = parts
                .iter()
                .find(|(name, _)| *name == section)
                .map_or("", |(_, names)| names);
            let names = listed(names);
            if names.is_empty() {
                faults.push(format!("{pipeline} has no {section}"));
            }
            if section == "processors"
                && (names.first() != Some(&"memory_limiter") || names.last() != Some(&"batch"))
            {
                faults.push(format!("{pipeline}: memory_limiter is first and batch last"));
            }
            used.extend(names);
        }
        faults.extend(
            used.difference(&declared)
                .map(|name| format!("{name} is not declared in {section}")),
        );
        faults.extend(
            declared
                .difference(&used)
                .map(|name| format!("{name} of {section} is in no pipeline")),
        );
    }
    faults
}

#[test]
fn the_configuration_of_the_collector_hangs_together() {
    let path = deploy("otel-collector/config.yaml");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(faults(&text), [""; 0]);
    let all = keys(&text);
    let pipelines: Vec<&str> = below(&all, &["service", "pipelines"])
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(pipelines, ["traces", "metrics"], "what our services send");
    let endpoint = below(&all, &["receivers", "otlp", "protocols", "grpc"]);
    assert_eq!(
        endpoint,
        [("endpoint", "0.0.0.0:4317")],
        "where the documentation points our services to"
    );

    for (right, wrong, fault) in [
        (
            "exporters: [otlp]",
            "exporters: [otpl]",
            "otpl is not declared in exporters",
        ),
        (
            "processors: [memory_limiter, batch]",
            "processors: [batch]",
            "metrics: memory_limiter is first",
        ),
        ("receivers: [otlp]", "receivers: []", "traces has no receivers"),
    ] {
        let broken = text.replace(right, wrong);
        let found = faults(&broken);
        assert!(
            found.iter().any(|found| found.contains(fault)),
            "{fault}: {found:?}"
        );
    }
}
