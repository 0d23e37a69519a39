//! The layers in order, and the typed value at the end.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::env::{self, Setting};
use super::tree::{self, Schema};
use super::{ConfigError, secret};

/// Where a configuration file is looked for when no `--config` names one: the first that exists.
const SEARCH_PATHS: [&str; 2] = ["./tidegate.toml", "/etc/tidegate/tidegate.toml"];

/// Loads with the process's environment, no standard variables and no free-form tables: see [`Loader`].
///
/// # Errors
/// Any [`ConfigError`]; nothing is half-loaded.
pub fn load<T>(explicit: Option<&Path>, overrides: Value) -> Result<Loaded<T>, ConfigError>
where
    T: DeserializeOwned + Serialize + Default,
{
    Loader::from_process().load(explicit, overrides)
}

/// What a load depends on besides the file and the flags.
#[derive(Clone, Debug, Default)]
pub struct Loader {
    env: BTreeMap<String, String>,
    search: Vec<PathBuf>,
    standard: Vec<(String, String)>,
    free_form: Vec<String>,
}

impl Loader {
    /// The process's environment and the usual places of the file.
    pub fn from_process() -> Self {
        // A variable that is not Unicode cannot be a setting of ours.
        let env = std::env::vars_os()
            .filter_map(|(name, text)| Some((name.into_string().ok()?, text.into_string().ok()?)));
        Self::from_env(env).search(SEARCH_PATHS)
    }

    /// A given environment and no file except an explicit one: for tests.
    pub fn from_env<K, V>(env: impl IntoIterator<Item = (K, V)>) -> Self
    where
        K: Into<String>,
        V: Into<String>,
    {
        let env = env
            .into_iter()
            .map(|(name, text)| (name.into(), text.into()))
            .collect();
        Self {
            env,
            ..Self::default()
        }
    }

    /// Places to look for the file; the first that exists is read.
    pub fn search<P: Into<PathBuf>>(mut self, paths: impl IntoIterator<Item = P>) -> Self {
        self.search = paths.into_iter().map(Into::into).collect();
        self
    }

    /// Standard variables and the keys they set, such as `("REDIS_URL", "store.redis_url")`.
    /// They win over `TIDEGATE_*`.
    pub fn standard_env(mut self, mappings: &[(&str, &str)]) -> Self {
        self.standard = mappings
            .iter()
            .map(|(variable, key)| ((*variable).to_owned(), (*key).to_owned()))
            .collect();
        self
    }

    /// Dotted keys below which the user chooses the names, such as `queues`.
    pub fn free_form(mut self, prefixes: &[&str]) -> Self {
        self.free_form = prefixes.iter().map(|prefix| (*prefix).to_owned()).collect();
        self
    }

    /// Loads: defaults < file < `TIDEGATE_*` < standard variables < `overrides` (flags; nulls are "not given").
    ///
    /// # Errors
    /// Any [`ConfigError`]; nothing is half-loaded.
    pub fn load<T>(&self, explicit: Option<&Path>, overrides: Value) -> Result<Loaded<T>, ConfigError>
    where
        T: DeserializeOwned + Serialize + Default,
    {
        let defaults = secret::revealed(|| serde_json::to_value(T::default()))?;
        let schema = Schema {
            defaults: &defaults,
            free_form: &self.free_form,
        };
        let mut layers = Layers::new(&defaults);

        let file = self.file(explicit)?;
        if let Some((path, tree)) = &file {
            layers.add(tree, &Source::File(path.clone()), &schema)?;
        }
        for setting in env::prefixed(&self.env, &schema)? {
            layers.add_setting(setting, &schema)?;
        }
        for setting in env::standard(&self.env, &self.standard)? {
            layers.add_setting(setting, &schema)?;
        }
        layers.add(&without_nulls(overrides), &Source::Flag, &schema)?;

        let value = layers.extract::<T>()?;
        Ok(Loaded {
            value,
            origins: layers.origins,
            file: file.map(|(path, _)| path),
        })
    }

    fn file(&self, explicit: Option<&Path>) -> Result<Option<(PathBuf, Value)>, ConfigError> {
        let found = self.search.iter().find(|path| path.exists());
        let (path, named_by) = match (explicit, found) {
            (Some(path), _) => (path, "--config"),
            (None, Some(path)) => (path.as_path(), "the search path"),
            (None, None) => return Ok(None),
        };
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            named_by: named_by.to_owned(),
            source,
        })?;
        let tree = toml::from_str(&text).map_err(|error| ConfigError::Syntax {
            path: path.to_owned(),
            message: error.to_string(),
        })?;
        Ok(Some((path.to_owned(), tree)))
    }
}

/// A configuration and where it came from.
#[derive(Clone, Debug)]
pub struct Loaded<T> {
    pub value: T,
    origins: BTreeMap<String, Source>,
    file: Option<PathBuf>,
}

impl<T: Serialize> Loaded<T> {
    /// Every leaf key with its value (secrets redacted) and its source, sorted by key.
    pub fn origins(&self) -> Vec<Origin> {
        // The value was just deserialised from this shape and the default serialised: it serialises.
        let tree = serde_json::to_value(&self.value).unwrap_or(Value::Null);
        let mut origins: Vec<Origin> = tree::leaves(&tree)
            .into_iter()
            .map(|(path, value)| Origin {
                source: source_of(&self.origins, &path),
                key: path.join("."),
                value,
            })
            .collect();
        origins.sort_by(|a, b| a.key.cmp(&b.key));
        origins
    }
}

impl<T> Loaded<T> {
    /// The file that was read, if any.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }
}

/// One line of `config print --origin`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Origin {
    pub key: String,
    pub value: Value,
    pub source: Source,
}

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Default,
    File(PathBuf),
    Env(String),
    Flag,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::File(path) => write!(f, "{}", path.display()),
            Source::Env(variable) => write!(f, "env {variable}"),
            Source::Flag => f.write_str("flag"),
        }
    }
}

impl Serialize for Source {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The merged tree while it grows.
struct Layers {
    tree: Value,
    origins: BTreeMap<String, Source>,
    /// Texts from the environment for keys whose default has no type (absent options).
    untyped: BTreeMap<String, String>,
}

impl Layers {
    fn new(defaults: &Value) -> Self {
        Self {
            tree: defaults.clone(),
            origins: BTreeMap::new(),
            untyped: BTreeMap::new(),
        }
    }

    fn add(&mut self, layer: &Value, source: &Source, schema: &Schema<'_>) -> Result<(), ConfigError> {
        schema.check(layer, source)?;
        for (path, _) in tree::leaves(layer) {
            self.untyped.remove(&path.join("."));
        }
        tree::merge(&mut self.tree, layer, source, &mut self.origins);
        Ok(())
    }

    fn add_setting(&mut self, setting: Setting, schema: &Schema<'_>) -> Result<(), ConfigError> {
        let Setting { path, text, source } = setting;
        let default = tree::get(schema.defaults, &path);
        let mut layer = Value::Object(Map::new());
        tree::set(&mut layer, &path, env::typed(&text, default));
        self.add(&layer, &source, schema)?;
        if default.is_none_or(Value::is_null) {
            self.untyped.insert(path.join("."), text);
        }
        Ok(())
    }

    /// The typed value. A text for an option may have been meant as a number: when it is refused, it is tried
    /// so, once each.
    fn extract<T: DeserializeOwned>(&mut self) -> Result<T, ConfigError> {
        loop {
            let error = match serde_path_to_error::deserialize(&self.tree) {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let key = match error.path().to_string() {
                root if root == "." => String::new(),
                key => key,
            };
            let Some(text) = self.untyped.remove(&key) else {
                return Err(self.invalid(key, error.into_inner().to_string()));
            };
            let path: Vec<String> = key.split('.').map(str::to_owned).collect();
            tree::set(&mut self.tree, &path, env::loose(&text));
        }
    }

    fn invalid(&self, key: String, message: String) -> ConfigError {
        // `ports[1]` in an array: the source is the array's.
        let plain = key.split('[').next().unwrap_or_default();
        let path: Vec<String> = plain.split('.').map(str::to_owned).collect();
        ConfigError::Invalid {
            origin: source_of(&self.origins, &path),
            key,
            message,
        }
    }
}

/// The source of a key: its own, or that of the nearest table or array above it.
fn source_of(origins: &BTreeMap<String, Source>, path: &[String]) -> Source {
    (1..=path.len())
        .rev()
        .find_map(|depth| origins.get(&path[..depth].join(".")))
        .cloned()
        .unwrap_or(Source::Default)
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => map
            .into_iter()
            .filter(|(_, child)| !child.is_null())
            .map(|(key, child)| (key, without_nulls(child)))
            .collect::<Map<_, _>>()
            .into(),
        Value::Null => Value::Object(Map::new()),
        other => other,
    }
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
