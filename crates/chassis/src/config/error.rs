//! What can be wrong with a configuration, in words that say what to do.

use std::path::PathBuf;

use super::Source;

/// Why a configuration was refused. Each message names the key and the place it was written.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file (configuration or `*_FILE`) could not be read.
    #[error("cannot read {}, named by {named_by}", path.display())]
    Read {
        path: PathBuf,
        named_by: String,
        source: std::io::Error,
    },
    /// The TOML file does not parse; the message has line and column.
    #[error("{} is not valid TOML: {message}", path.display())]
    Syntax { path: PathBuf, message: String },
    /// A key that no part of the configuration has.
    #[error("unknown key `{key}` in {origin}{}", hint(suggestion))]
    UnknownKey {
        key: String,
        origin: Source,
        suggestion: Option<String>,
    },
    /// A value of the wrong type or out of range.
    #[error("invalid value for `{key}` in {origin}: {message}")]
    Invalid {
        key: String,
        origin: Source,
        message: String,
    },
    /// `X` and `X_FILE` are both set, and nothing says which one is meant.
    #[error("both {variable} and {variable}_FILE are set: unset one of them")]
    Ambiguous { variable: String },
    /// The configuration type itself cannot be serialised: a mistake in the program, not of the user.
    #[error("the default configuration cannot be used as a schema: {0}")]
    Schema(#[from] serde_json::Error),
}

fn hint(suggestion: &Option<String>) -> String {
    suggestion
        .as_ref()
        .map(|key| format!("; did you mean `{key}`?"))
        .unwrap_or_default()
}
