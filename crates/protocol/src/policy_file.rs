//! The file of queue policies and shared resources, read the same way by routers, controllers and the command line.
//!
//! `[queues.NAME]` tables hold the fields of a policy, `[resources.NAME]` those of a resource; durations are text. Nothing
//! of a file is taken if anything in it is wrong. The text is an argument: reading files is its caller's work.

mod duration;
mod strict;
mod tables;

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::{
    convert,
    domain::{Cap, Policy, QueueName, Resource},
};

/// Queues, and resources, in one file: all are written in one call.
const TABLES_MAX: usize = 1_000;

/// One `[queues.NAME]` table.
#[derive(Clone, Debug, PartialEq)]
pub struct QueuePolicy {
    pub queue: QueueName,
    pub policy: Policy,
    /// How many may run over the whole fleet, until a controller says otherwise.
    pub cap: Option<Cap>,
}

/// A whole file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PolicyFile {
    pub queues: Vec<QueuePolicy>,
    pub resources: Vec<Resource>,
}

/// Why a file was not taken. The message names the place and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyFileError {
    #[error("not valid TOML: {0}")]
    Syntax(String),
    #[error("{0}")]
    Invalid(String),
}

/// Reads and checks a file's text.
pub fn parse(text: &str) -> Result<PolicyFile, PolicyFileError> {
    let mut tree: BTreeMap<String, Value> =
        toml::from_str(text).map_err(|error| PolicyFileError::Syntax(error.to_string()))?;
    let queues = tables(&mut tree, "queues")?;
    let resources = tables(&mut tree, "resources")?;
    if let Some(key) = tree.keys().next() {
        return Err(PolicyFileError::Invalid(format!(
            "unknown key `{key}`: policies stand in tables named [queues.NAME], resources in [resources.NAME]"
        )));
    }
    let queue = |(name, table): (String, Value)| {
        one_queue(&name, table)
            .map_err(|message| PolicyFileError::Invalid(format!("queues.{name}: {message}")))
    };
    let resource = |(name, table): (String, Value)| {
        one_resource(&name, table)
            .map_err(|message| PolicyFileError::Invalid(format!("resources.{name}: {message}")))
    };
    Ok(PolicyFile {
        queues: queues.into_iter().map(queue).collect::<Result<_, _>>()?,
        resources: resources.into_iter().map(resource).collect::<Result<_, _>>()?,
    })
}

fn tables(tree: &mut BTreeMap<String, Value>, kind: &str) -> Result<Map<String, Value>, PolicyFileError> {
    match tree.remove(kind) {
        None => Ok(Map::new()),
        Some(Value::Object(tables)) if tables.len() > TABLES_MAX => Err(PolicyFileError::Invalid(format!(
            "{} {kind}; at most {TABLES_MAX} are taken",
            tables.len()
        ))),
        Some(Value::Object(tables)) => Ok(tables),
        Some(_) => Err(PolicyFileError::Invalid(format!(
            "`{kind}` must be tables named [{kind}.NAME]"
        ))),
    }
}

fn one_queue(name: &str, table: Value) -> Result<QueuePolicy, String> {
    let queue: QueueName = name.parse().map_err(|error| format!("{error}"))?;
    let table: tables::Queue = strict::read(table, &["costs"])?;
    let cap = table.cap()?;
    let policy = table.policy();
    convert::check_policy(&policy).map_err(|invalid| invalid.to_string())?;
    Ok(QueuePolicy { queue, policy, cap })
}

fn one_resource(name: &str, table: Value) -> Result<Resource, String> {
    let _: QueueName = name.parse().map_err(|error| format!("{error}"))?;
    if table.get("capacity").is_none() {
        return Err("capacity: say how many units there are, e.g. capacity = 50".to_owned());
    }
    let table: tables::Resource = strict::read(table, &[])?;
    let resource = table.resource(name);
    match convert::resource_violations(&resource).into_iter().next() {
        Some(invalid) => Err(invalid.to_string()),
        None => Ok(resource),
    }
}

#[cfg(test)]
mod tests;
