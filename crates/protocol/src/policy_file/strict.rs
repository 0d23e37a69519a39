//! A table as a type, with errors that name the key: an unknown one with the key that was probably meant.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

/// Reads over the type's default, whose serialised form is the list of keys that exist. Below `free_form` keys the user
/// chooses the names.
pub(super) fn read<T>(table: Value, free_form: &[&str]) -> Result<T, String>
where
    T: DeserializeOwned + Serialize + Default,
{
    let mut tree = serde_json::to_value(T::default()).map_err(|error| error.to_string())?;
    let Value::Object(table) = table else {
        return Err("must be a table".to_owned());
    };
    known(&table, &tree, "", free_form)?;
    merge(&mut tree, table, free_form, "");
    serde_path_to_error::deserialize(tree).map_err(|error| {
        let key = error.path().to_string();
        format!("invalid value for `{key}`: {}", error.into_inner())
    })
}

fn dotted(prefix: &str, key: &str) -> String {
    match prefix {
        "" => key.to_owned(),
        prefix => format!("{prefix}.{key}"),
    }
}

fn known(
    table: &Map<String, Value>,
    defaults: &Value,
    prefix: &str,
    free_form: &[&str],
) -> Result<(), String> {
    // A table where a value is expected: told as a wrong type, with the value.
    let Some(defaults) = defaults.as_object() else {
        return Ok(());
    };
    for (key, value) in table {
        let path = dotted(prefix, key);
        let Some(default) = defaults.get(key) else {
            return Err(match nearest(key, defaults) {
                Some(right) => {
                    format!("unknown key `{path}`; did you mean `{}`?", dotted(prefix, right))
                }
                None => format!("unknown key `{path}`"),
            });
        };
        if let (Value::Object(inner), false) = (value, free_form.contains(&path.as_str())) {
            known(inner, default, &path, free_form)?;
        }
    }
    Ok(())
}

/// A third of the letters may be wrong; more than that is another word.
fn nearest<'a>(wrong: &str, keys: &'a Map<String, Value>) -> Option<&'a str> {
    let tolerance = (wrong.chars().count() / 3).max(2);
    let distance = |key: &'a String| {
        (
            strsim::osa_distance(&key.to_lowercase(), &wrong.to_lowercase()),
            key,
        )
    };
    let near = keys
        .keys()
        .map(distance)
        .filter(|(distance, _)| *distance <= tolerance);
    near.min().map(|(_, key)| key.as_str())
}

fn merge(tree: &mut Value, table: Map<String, Value>, free_form: &[&str], prefix: &str) {
    for (key, value) in table {
        let path = dotted(prefix, &key);
        match (tree.get_mut(&key), value) {
            (Some(below @ Value::Object(_)), Value::Object(inner)) if !free_form.contains(&path.as_str()) => {
                merge(below, inner, free_form, &path);
            }
            (_, value) => tree[key] = value,
        }
    }
}
