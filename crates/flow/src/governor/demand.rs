//! What a queue needs, and how far a tick moves towards it.

use super::{
    inputs::QueueInputs,
    params::{DRAIN_S, EVIDENCE_S, STEP, STEP_FIRST},
    reason::Reason,
    smooth, speed,
    state::QueueState,
};
use crate::histogram::Histogram;

/// Growth in a tick, at least: small targets would take minutes by percent.
const STEP_MIN: f64 = 4.0;
/// What idleness takes in [`EVIDENCE_S`].
const DECAY: f64 = 0.75;
/// Time that a demand must have been below the target before idleness takes anything: arrivals are not even.
const IDLE_S: f64 = 10.0;
/// Relative noise of a mean run time up to which a sample has its full weight, and the least weight.
const NOISE: f64 = 0.1;
const NOISE_WEIGHT_MIN: f64 = 0.2;
/// Changes up to this part are not worth one.
const HYSTERESIS: f64 = 0.1;
/// Nor is taking this part away while nobody else wants it: a cap that is not used costs nothing.
const KEPT: f64 = 0.25;

/// A queue's wish before budgets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Need {
    /// Slots that are busy on average.
    pub busy: f64,
    /// With a reserve for the spread of arrivals.
    pub slots: u32,
    /// With the reserve of a contended domain.
    pub lean: u32,
}

/// What a step depends on beside its queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setting {
    /// No limit has been met yet.
    pub is_first: bool,
    /// The domain can't serve every demand.
    pub is_contended: bool,
}

impl QueueState {
    /// Smooths what the tick has seen.
    pub(super) fn observe(&mut self, inputs: &QueueInputs, seconds: f64) {
        let count = inputs.arrivals as f64;
        // The noise of both rates' mean, as two counts are compared. By what was seen alone, twelve times as many in the one
        // second after a surge would be no shift, and one arrival instead of six in half of one would be.
        let expected = self.arrivals.or(count / seconds) * seconds;
        let noise = smooth::of_rate((count + expected) / 2.0, seconds);
        self.arrivals.take(count / seconds, noise, seconds);
        // Until the first judgement there is nothing better.
        if (self.run_time.value.is_none() || self.is_new)
            && speed::is_believable(&inputs.run_time)
            && let Some(mean) = speed::mean_ms(&inputs.run_time)
        {
            self.run_time
                .take(mean / 1_000.0, noise_of_mean(&inputs.run_time), seconds);
            self.is_new = true;
        }
    }

    /// Takes the run times of a judged window as they would be without congestion: more of what is slow because there is
    /// too much of it would be a loop without end.
    pub(super) fn take_run_time(&mut self, times: &Histogram, slowdown: f64, seconds: f64) {
        let Some(mean) = speed::mean_ms(times) else { return };
        if self.is_new {
            (self.is_new, self.run_time.value) = (false, None);
        }
        let factor = 1.0 / (1_000.0 * slowdown.max(1.0));
        let noise = noise_of_mean(times) * 1_000.0 * factor;
        // A mean of mixed jobs is noise for the most part: then it is averaged over more of them.
        let known = self.run_time.or(mean * factor);
        let weight = (NOISE * known / noise.max(1e-9)).clamp(NOISE_WEIGHT_MIN, 1.0);
        self.run_time.take(mean * factor, noise, weight * seconds);
    }

    /// Little's law on arrivals and backlog, with square-root staffing. `None`: no job has ended yet.
    pub(super) fn need(&self, inputs: &QueueInputs, warm: u32) -> Option<Need> {
        let run_time = self.run_time.value?;
        let busy = (self.arrivals.or(0.0) + inputs.ready as f64 / DRAIN_S) * run_time;
        let max = inputs.max.max(inputs.min);
        let least = inputs.min.max(warm).min(max);
        let slots = |reserve: f64| (busy + reserve * busy.sqrt() + 1.0).ceil() as u32;
        let lean = slots(1.0).clamp(inputs.min, max);
        Some(Need {
            busy,
            slots: slots(2.0).clamp(least, max),
            lean,
        })
    }

    /// From the last target towards the demand.
    pub(super) fn step(&self, demand: u32, warm: u32, setting: Setting, seconds: f64) -> (u32, Reason) {
        let Some(target) = self.target else {
            return (demand, Reason::Cold);
        };
        if demand > target {
            let growth = if setting.is_first { STEP_FIRST } else { STEP };
            let from = f64::from(target);
            let reach = (from * growth).max(from + STEP_MIN) as u32;
            return match demand > reach {
                true => (reach, Reason::StepCap),
                false => (demand, Reason::Demand),
            };
        }
        if demand < target {
            let left = (f64::from(target) * DECAY.powf(seconds / EVIDENCE_S)).floor() as u32;
            let to = left.max(demand);
            let is_kept = !setting.is_contended
                && demand > warm
                && f64::from(target - demand) <= KEPT * f64::from(target);
            if is_kept || is_slight(demand, target) || self.idle_s < IDLE_S {
                return (target, Reason::Hysteresis);
            }
            return (
                to,
                if to <= warm {
                    Reason::Floor
                } else {
                    Reason::IdleDecay
                },
            );
        }
        (target, Reason::Demand)
    }
}

/// Whether a change is not worth making.
pub(super) fn is_slight(to: u32, from: u32) -> bool {
    f64::from(to.abs_diff(from)) <= (HYSTERESIS * f64::from(from)).max(1.0)
}

/// Standard error of a mean run time, seconds.
fn noise_of_mean(times: &Histogram) -> f64 {
    let variance = times.variance_ms2().unwrap_or(0.0);
    (variance / times.count().max(1) as f64).sqrt() / 1_000.0
}
