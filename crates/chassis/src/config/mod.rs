//! One typed configuration from five places, and where each value came from.
//!
//! Order, later wins: defaults < TOML file < `TIDEGATE_SECTION__KEY` < standard variables such as `REDIS_URL`
//! < flags. The default value, serialised, is the schema: a key that it does not have is a mistake, and the
//! error names the key, the place it was written and the nearest key that exists. So every field must be
//! serialised (no `skip_serializing_if`), and maps with keys of the user's choice are declared free-form.

mod env;
mod error;
mod load;
mod secret;
mod tree;

pub mod duration;
pub mod size;

pub use error::ConfigError;
pub use load::{Loaded, Loader, Origin, Source, load};
pub use secret::{Secret, from_env as secrets_from_env};

/// Shown instead of a secret.
pub const REDACTED: &str = "[redacted]";
