//! The governor on a model plant: discrete events on a virtual clock, scenarios as files, rules to compare with.
//!
//! The plant (`plant`) shares no code with `tidegate-flow` and knows nothing of who controls it; only
//! `strategies::governed` calls the governor, through its public interface. `README.md` documents scenarios and commands.

pub mod bench;
pub mod cli;
mod explain;
pub mod measure;
mod misreport;
pub mod plan;
pub mod plant;
mod plot;
pub mod report;
pub mod run;
pub mod scenario;
pub mod shape;
mod strategies;
mod stretch;
mod suite;

pub use suite::{Check, Job, Row, judge, rows_of};
