//! What `cargo xtask scenario` runs: the failures that this project is about, on real servers, under several ways to decide
//! how much runs, all at the same time and on the same arrivals.
//!
//! A [`Script`] is data: a scenario of the simulation and a table `[live]`. Each [`Arm`] gets a [`Lane`] of its own: Postgres
//! with the plant in it, Redis, router, controllers and workers. [`once`] sends the load, does the faults and watches; what
//! came of it is counted from the store and from Postgres, not from what a controller believes, put into the simulation's
//! own terms, and judged by the same code. The work is sleeping, so that a small machine has room for all lanes; a run for
//! which it had none is void, and says so.

mod api;
mod arms;
mod count;
mod cpu;
mod faults;
mod figures;
mod lane;
mod page;
mod plant;
mod run;
mod script;
mod show;
mod suite;
mod watch;

pub use arms::Arm;
pub use figures::{Figures, Row};
pub use lane::Lane;
pub use run::{Run, once};
pub use script::{Live, Script};
pub use suite::{Options, run};
