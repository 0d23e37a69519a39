//! What several queues share and can run short of.

use serde::{Deserialize, Serialize};

/// How the use of a resource is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Probe {
    /// Not at all: what jobs hold is all there is.
    #[default]
    Static,
    /// By the pools that workers report.
    Workers,
}

impl Probe {
    pub fn as_str(self) -> &'static str {
        match self {
            Probe::Static => "static",
            Probe::Workers => "workers",
        }
    }
}

/// A shared downstream with a capacity, e.g. a database's connections.
#[derive(Clone, PartialEq, Debug)]
pub struct Resource {
    /// As a queue's name: `[a-z0-9._-]{1,100}`.
    pub name: String,
    /// Units in all.
    pub capacity: u32,
    /// Share of the capacity that jobs may hold; the rest is for everybody else.
    pub headroom: f64,
    pub probe: Probe,
}

impl Resource {
    pub const HEADROOM_DEFAULT: f64 = 0.7;
}
