//! What probes say of resources, between ticks: believed or not, and the mean that the governor is told.

use tidegate_flow::{governor, histogram::Histogram};
use tidegate_protocol::domain::Probe;

use super::{
    Core,
    belief::{Belief, Reading, Trust},
    model::Now,
};

/// Probes look each second; after three that are missing it is said.
const LATE_MS: u64 = 3_000;
/// Readings in a row after which it is believed that others have gone, or that a pool is full.
const HINTS: u32 = 2;

/// A resource's probe, as it is to be asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    pub resource: String,
    pub probe: Probe,
}

/// What is known by a resource's probe.
#[derive(Clone, Debug, Default)]
pub(super) struct Measured {
    pub belief: Belief,
    /// Believed readings since the last tick.
    window: Window,
    /// Those of the last tick: what is said when the window is empty.
    means: Option<Means>,
    /// Readings in a row that say so.
    hints: u32,
}

#[derive(Clone, Debug, Default)]
struct Window {
    readings: u32,
    in_use: f64,
    by_jobs: f64,
    /// Readings that told the jobs' part.
    told: u32,
    waiters: f64,
    times: Histogram,
}

/// Of one tick.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Means {
    pub in_use: f64,
    pub by_jobs: Option<f64>,
    pub waiters: f64,
    pub times: Histogram,
}

impl Window {
    fn add(&mut self, reading: &Reading) {
        self.readings += 1;
        self.in_use += reading.in_use;
        self.waiters += reading.waiters.unwrap_or(0.0);
        if let Some(by_jobs) = reading.by_jobs {
            self.by_jobs += by_jobs;
            self.told += 1;
        }
        self.times.add(reading.took_ms);
    }

    fn means(self) -> Option<Means> {
        let readings = f64::from(self.readings);
        (self.readings > 0).then(|| Means {
            in_use: self.in_use / readings,
            by_jobs: (self.told == self.readings).then_some(self.by_jobs / readings),
            waiters: self.waiters / readings,
            times: self.times,
        })
    }
}

impl Core {
    /// The probes that the controller has to ask, in the order of their resources.
    pub fn probes(&self) -> Vec<Asked> {
        let asked = self.resources.iter().map(|(name, managed)| Asked {
            resource: name.clone(),
            probe: managed.value.probe.clone(),
        });
        asked.filter(|asked| asked.probe.is_asked()).collect()
    }

    /// A probe has answered, or could not.
    pub fn probed(&mut self, asked: &Asked, answer: Result<Reading, String>, now: Now) {
        // What was asked before the resource was changed says nothing of it.
        let capacity = match self.resources.get(&asked.resource) {
            Some(managed) if managed.value.probe == asked.probe => managed.value.capacity,
            _ => return,
        };
        let held = self.held_on(&asked.resource);
        let measured = self.measured.entry(asked.resource.clone()).or_default();
        let before = measured.belief.trust();
        let reading = measured.belief.take(answer, capacity, held, now.mono_ms);
        tell(&asked.resource, before, &measured.belief);
        let Some(reading) = reading else { return };
        // Others that come in a wave cannot be asked to wait for the tick, and what was before it says nothing of it. That they
        // have gone, or find a full pool, is believed only where the jobs' part is measured: slots that are held count for more
        // than is in use.
        let others = reading.in_use - reading.by_jobs.unwrap_or(held as f64).min(reading.in_use);
        let (known, resource) = (&self.governor, &asked.resource);
        let is_hint = reading.by_jobs.is_some()
            && (governor::is_wave_over(known, resource, others)
                || governor::is_filled(known, resource, reading.in_use, capacity));
        measured.hints = if is_hint {
            measured.hints.saturating_add(1)
        } else {
            0
        };
        let is_wave = measured.hints == HINTS || governor::is_wave(known, resource, others);
        if is_wave {
            measured.window = Window {
                times: std::mem::take(&mut measured.window.times),
                ..Window::default()
            };
        }
        measured.window.add(&reading);
        if is_wave {
            self.tick_soon(now);
        }
    }

    /// At each tick: windows are closed, and probes that say nothing are doubted.
    pub(super) fn close_probe_windows(&mut self, now: Now) {
        let resources = &self.resources;
        self.measured.retain(|name, _| {
            let managed = resources.get(name);
            managed.is_some_and(|managed| managed.value.probe.is_asked())
        });
        for asked in self.probes() {
            let measured = self.measured.entry(asked.resource.clone()).or_default();
            let before = measured.belief.trust();
            measured.belief.age(LATE_MS, now.mono_ms);
            tell(&asked.resource, before, &measured.belief);
            let window = std::mem::take(&mut measured.window).means();
            measured.means = match measured.belief.believed() {
                None => None,
                Some(_) => window.or(measured.means.take().map(|means| Means {
                    // The last word is said again, the times it took are not.
                    times: Histogram::default(),
                    ..means
                })),
            };
        }
    }

    pub(super) fn means(&self, resource: &str) -> Option<&Means> {
        self.measured.get(resource)?.means.as_ref()
    }

    /// The probe of a resource that was changed is another one.
    pub(super) fn forget_probe(&mut self, resource: &str) {
        self.measured.remove(resource);
    }
}

fn tell(resource: &str, before: Trust, belief: &Belief) {
    let now = belief.trust();
    if before == now {
        return;
    }
    match now {
        Trust::Good => tracing::info!(resource, "a probe is believed"),
        Trust::Waiting => {}
        Trust::Held | Trust::Distrusted => {
            tracing::warn!(resource, trust = now.as_str(), fault = %belief, "a probe is doubted");
        }
    }
}
