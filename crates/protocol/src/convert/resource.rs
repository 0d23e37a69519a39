//! Shared resources, as operators declare them.

use crate::{domain::Resource, reason, v1};

use super::{Invalid, probe, queue_name};

/// What is wrong with a resource, wherever it was written; all of it.
pub fn resource_violations(resource: &Resource) -> Vec<Invalid> {
    let mut found = Vec::new();
    let mut wrong = |field: &str, message: &str| {
        found.push(Invalid::new(field, reason::INVALID_ARGUMENT, message));
    };
    if resource.capacity == 0 {
        wrong("capacity", "must be at least 1");
    }
    if !(resource.headroom > 0.0 && resource.headroom <= 1.0) {
        wrong("headroom", "must be above 0 and at most 1");
    }
    probe::violations(&resource.probe, &mut |field, message| {
        wrong(&format!("probe.{field}"), message)
    });
    found
}

/// Unset headroom and probe take the documented default; values are not checked.
pub fn resource(wire: v1::Resource) -> Result<Resource, Invalid> {
    queue_name("name", &wire.name)?;
    Ok(Resource {
        name: wire.name,
        capacity: wire.capacity,
        headroom: wire.headroom.unwrap_or(Resource::HEADROOM_DEFAULT),
        probe: probe::from_wire(wire.probe),
    })
}

/// A resource for people; `version` counts its changes.
impl From<(Resource, u64)> for v1::Resource {
    fn from((resource, version): (Resource, u64)) -> Self {
        Self {
            name: resource.name,
            capacity: resource.capacity,
            headroom: Some(resource.headroom),
            version,
            probe: Some(probe::to_wire(resource.probe)),
        }
    }
}
