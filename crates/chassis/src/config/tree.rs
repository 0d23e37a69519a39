//! Walks over the configuration as a JSON tree: lookup, merge, leaves, and which keys exist.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{ConfigError, Source};

/// Maps of TOML tables and environment variables nest at most this deep; deeper is a mistake or an attack.
const DEPTH_MAX: usize = 16;

/// The value at a dotted path.
pub(super) fn get<'a>(tree: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(tree, |node, segment| node.get(segment))
}

/// Sets the value at a path, making tables on the way; a scalar on the way is replaced.
pub(super) fn set(tree: &mut Value, path: &[String], value: Value) {
    let Some((last, parents)) = path.split_last() else {
        return;
    };
    let mut node = tree;
    for segment in parents {
        node = table(node).entry(segment.clone()).or_insert(Value::Null);
    }
    table(node).insert(last.clone(), value);
}

fn table(node: &mut Value) -> &mut Map<String, Value> {
    if !node.is_object() {
        *node = Value::Object(Map::new());
    }
    node.as_object_mut().expect("it was just made a table")
}

/// Every leaf as (path, value). An array is one leaf, and so is an empty table.
pub(super) fn leaves(tree: &Value) -> Vec<(Vec<String>, Value)> {
    let mut found = Vec::new();
    collect(tree, &mut Vec::new(), &mut found);
    found
}

fn collect(node: &Value, path: &mut Vec<String>, found: &mut Vec<(Vec<String>, Value)>) {
    match node {
        Value::Object(map) if !map.is_empty() && path.len() < DEPTH_MAX => {
            for (key, child) in map {
                path.push(key.clone());
                collect(child, path, found);
                path.pop();
            }
        }
        leaf => found.push((path.clone(), leaf.clone())),
    }
}

/// Lays `layer` over `tree`. A table merges key by key; anything else replaces. Each leaf's source is noted.
pub(super) fn merge(
    tree: &mut Value,
    layer: &Value,
    source: &Source,
    origins: &mut BTreeMap<String, Source>,
) {
    for (path, value) in leaves(layer) {
        // An empty table says nothing; written over a section it would wipe the section's defaults.
        let empty_table = value.as_object().is_some_and(Map::is_empty);
        if empty_table && get(tree, &path).is_some_and(Value::is_object) {
            continue;
        }
        let key = path.join(".");
        origins.retain(|known, _| !is_under(known, &key));
        origins.insert(key, source.clone());
        set(tree, &path, value);
    }
}

fn is_under(key: &str, parent: &str) -> bool {
    key.strip_prefix(parent).is_some_and(|rest| rest.starts_with('.'))
}

/// The schema: which keys exist. Built from the serialised default.
pub(super) struct Schema<'a> {
    pub(super) defaults: &'a Value,
    pub(super) free_form: &'a [String],
}

impl Schema<'_> {
    /// Whether `path` may be written: it is in the defaults, below a free-form key, or below an absent option
    /// (null), whose inside the default cannot show.
    pub(super) fn knows(&self, path: &[String]) -> bool {
        let mut node = self.defaults;
        for (depth, segment) in path.iter().enumerate() {
            if node.is_null() || self.is_free_form(&path[..depth]) {
                return true;
            }
            match node.as_object() {
                Some(map) => match map.get(segment) {
                    Some(child) => node = child,
                    None => return self.is_free_form(&path[..=depth]),
                },
                // A table where a scalar is expected: a wrong type, reported with the value.
                None => return true,
            }
        }
        true
    }

    fn is_free_form(&self, path: &[String]) -> bool {
        let key = path.join(".");
        self.free_form.contains(&key)
    }

    /// Refuses the first key of `layer` that does not exist.
    pub(super) fn check(&self, layer: &Value, source: &Source) -> Result<(), ConfigError> {
        for (path, _) in leaves(layer) {
            if path.is_empty() || self.knows(&path) {
                continue;
            }
            return Err(self.unknown(&path, source));
        }
        Ok(())
    }

    /// The error for a path that does not exist. It names the first segment that is wrong, not a leaf below it.
    pub(super) fn unknown(&self, path: &[String], source: &Source) -> ConfigError {
        let wrong = (1..=path.len())
            .find(|depth| !self.knows(&path[..*depth]))
            .unwrap_or(path.len());
        ConfigError::UnknownKey {
            key: path[..wrong].join("."),
            origin: source.clone(),
            suggestion: self.nearest(&path[..wrong]),
        }
    }

    /// The key that was probably meant: a misspelt sibling, or the same name in another section.
    fn nearest(&self, path: &[String]) -> Option<String> {
        let (wrong, parents) = path.split_last()?;
        let prefix = |key: &str| {
            let mut full = parents.to_vec();
            full.push(key.to_owned());
            full.join(".")
        };
        let siblings = get(self.defaults, parents).and_then(Value::as_object)?;
        // A third of the letters may be wrong; more than that is another word.
        let tolerance = (wrong.chars().count() / 3).max(2);
        let misspelt = siblings
            .keys()
            .map(|key| {
                (
                    strsim::osa_distance(&key.to_lowercase(), &wrong.to_lowercase()),
                    key,
                )
            })
            .filter(|(distance, _)| *distance <= tolerance)
            .min();
        if let Some((_, key)) = misspelt {
            return Some(prefix(key));
        }
        leaves(self.defaults)
            .into_iter()
            .find(|(known, _)| known.last() == Some(wrong))
            .map(|(known, _)| known.join("."))
    }
}
