//! Every number that the adaptive rule was given by people, with its reason. `crates/sim/README.md` has the range of each
//! in which the scenarios still pass.

/// Weight of the newest sample over [`EVIDENCE_S`]. Smaller lags behind a ramp, larger follows noise; shifts of level
/// pass at once in any case.
pub const ALPHA: f64 = 0.4;
/// Deviations from which a sample is a shift of level and no noise.
pub const SHIFT_SIGMAS: f64 = 4.0;
/// A judgement of speed needs this much time *and* this many jobs, whatever the tick: a median of ten jobs is off by a
/// fifth often enough to cut every minute.
pub const EVIDENCE_S: f64 = 5.0;
pub const EVIDENCE_JOBS: u64 = 30;
/// Slowdown below which there is room, and above which the resource is full. In between only throughput tells.
pub const ROOM: f64 = 1.05;
pub const FULL: f64 = 1.2;
/// Slowdown that needs no second look.
pub const ALARM: f64 = 1.5;
/// What a cut leaves of what runs, at least: deep enough that its effect is seen above the noise, and no deeper, because
/// each slot too few is a backlog.
pub const CUT: f64 = 0.8;
/// Share of the largest number known to run well under which no slowdown is this load's doing.
pub const HARMLESS: f64 = 0.35;
/// Share of results that are failures from which less is run, beyond what was accepted.
pub const ERRORS: f64 = 0.05;
/// Failures of class down, of all results, that are no accident.
pub const DOWN: f64 = 0.5;
/// Of the capacity that others leave, jobs take this much: the last connections are where queueing explodes.
pub const USABLE: f64 = 0.95;
/// Others are given so much more than they use: they come in bursts, and they cannot be asked to wait.
pub const OTHERS: f64 = 1.18;
/// A backlog is to be gone in this time, if there is room.
pub const DRAIN_S: f64 = 10.0;
/// Share of the budget that is kept ready, divided over its queues: a first burst finds slots.
pub const WARM: f64 = 0.25;
/// Growth of a target in a tick once a limit has been met, and before.
pub const STEP: f64 = 1.5;
pub const STEP_FIRST: f64 = 3.0;
