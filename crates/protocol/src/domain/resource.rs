//! What several queues share and can run short of.

use serde::{Deserialize, Serialize};

use super::Probe;

/// A shared downstream with a capacity, e.g. a database's connections.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
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
