//! Environment variables as configuration: names to keys, texts to values, `*_FILE` to contents.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use super::tree::{self, Schema};
use super::{ConfigError, Source};

const PREFIX: &str = "TIDEGATE_";
const NESTING: &str = "__";
const FILE_SUFFIX: &str = "_FILE";

/// One setting found in the environment.
pub(super) struct Setting {
    pub(super) path: Vec<String>,
    pub(super) text: String,
    pub(super) source: Source,
}

/// Settings from `TIDEGATE_SECTION__KEY[_FILE]`.
///
/// A name without `__` is taken only if it is a scalar key of the top level: others, such as the
/// `TIDEGATE_JOB_ID` that a worker gives to a command, are none of the configuration's business.
pub(super) fn prefixed(
    env: &BTreeMap<String, String>,
    schema: &Schema<'_>,
) -> Result<Vec<Setting>, ConfigError> {
    let mut settings = Vec::new();
    for (variable, text) in env {
        let Some(name) = variable.strip_prefix(PREFIX) else {
            continue;
        };
        let path: Vec<String> = name.split(NESTING).map(str::to_lowercase).collect();
        let source = Source::Env(variable.clone());
        let nested = path.len() > 1;
        if is_setting(&path, schema, nested) {
            settings.push(Setting {
                path,
                text: text.clone(),
                source,
            });
        } else if let Some(path) = without_file(&path).filter(|path| is_setting(path, schema, nested)) {
            refuse_both(env, variable)?;
            settings.push(Setting {
                path,
                text: read(text, variable)?,
                source,
            });
        } else if nested {
            return Err(schema.unknown(&path, &source));
        }
    }
    Ok(settings)
}

/// Settings from standard variables (`REDIS_URL` and such) and their `*_FILE` forms.
pub(super) fn standard(
    env: &BTreeMap<String, String>,
    mappings: &[(String, String)],
) -> Result<Vec<Setting>, ConfigError> {
    let mut settings = Vec::new();
    for (variable, key) in mappings {
        let path = key.split('.').map(str::to_owned).collect();
        let file = format!("{variable}{FILE_SUFFIX}");
        if let Some(named) = env.get(&file) {
            refuse_both(env, &file)?;
            let text = read(named, &file)?;
            settings.push(Setting {
                path,
                text,
                source: Source::Env(file),
            });
        } else if let Some(text) = env.get(variable).filter(|text| !text.is_empty()) {
            // An empty standard variable means "not set": platforms export them so.
            let source = Source::Env(variable.clone());
            settings.push(Setting {
                path,
                text: text.clone(),
                source,
            });
        }
    }
    Ok(settings)
}

fn is_setting(path: &[String], schema: &Schema<'_>, nested: bool) -> bool {
    if nested {
        return schema.knows(path);
    }
    tree::get(schema.defaults, path).is_some_and(|value| !value.is_object())
}

fn without_file(path: &[String]) -> Option<Vec<String>> {
    let mut path = path.to_vec();
    let last = path.pop()?;
    path.push(last.strip_suffix(&FILE_SUFFIX.to_lowercase())?.to_owned());
    Some(path)
}

fn refuse_both(env: &BTreeMap<String, String>, file_variable: &str) -> Result<(), ConfigError> {
    let variable = file_variable.strip_suffix(FILE_SUFFIX).unwrap_or(file_variable);
    if variable != file_variable && env.contains_key(variable) {
        return Err(ConfigError::Ambiguous {
            variable: variable.to_owned(),
        });
    }
    Ok(())
}

fn read(path: &str, variable: &str) -> Result<String, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: PathBuf::from(path),
        named_by: variable.to_owned(),
        source,
    })?;
    // Editors and `echo` end a file with a newline that is no part of a password.
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// The text as a value of the default's type. What does not fit stays text, so that the type error quotes it.
///
/// An absent option (null) has no type to go by: it stays text, and [`loose`] is the second try.
pub(super) fn typed(text: &str, default: Option<&Value>) -> Value {
    match default {
        Some(Value::Bool(_) | Value::Number(_)) => scalar(text),
        Some(Value::Array(items)) => list(text, items.first()),
        _ => Value::String(text.to_owned()),
    }
}

/// The text as number, boolean or list, when a plain text was refused.
pub(super) fn loose(text: &str) -> Value {
    match scalar(text) {
        Value::String(_) if text.starts_with(['[', '{']) => {
            serde_json::from_str(text).unwrap_or_else(|_| text.into())
        }
        value => value,
    }
}

fn scalar(text: &str) -> Value {
    match serde_json::from_str(text.trim()) {
        Ok(value @ (Value::Bool(_) | Value::Number(_))) => value,
        _ => Value::String(text.to_owned()),
    }
}

/// `a, b, c` or a JSON array.
fn list(text: &str, item: Option<&Value>) -> Value {
    if text.trim_start().starts_with('[') {
        return serde_json::from_str(text).unwrap_or_else(|_| text.into());
    }
    let items = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    Value::Array(items.map(|part| typed(part, item)).collect())
}
