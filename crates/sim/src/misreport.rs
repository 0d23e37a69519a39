//! Numbers that arrive wrong.

use crate::{
    plant::Report,
    scenario::{Field, Misreport, Says},
};

const SPIKE: f64 = 1e9;

/// Remembers what a frozen number was.
#[derive(Default)]
pub struct Liar {
    frozen: Option<Report>,
}

impl Liar {
    /// The report as it arrives.
    pub fn distort(&mut self, misreports: &[Misreport], truth: &Report) -> Report {
        let mut report = truth.clone();
        let active: Vec<&Misreport> = misreports
            .iter()
            .filter(|lie| (lie.from_s..lie.until_s).contains(&truth.now))
            .collect();
        if !active.iter().any(|lie| lie.says == Says::Frozen) {
            self.frozen = Some(truth.clone());
        }
        for lie in active {
            self.tell(lie, &mut report);
        }
        report
    }

    fn tell(&self, lie: &Misreport, report: &mut Report) {
        let frozen = self.frozen.clone().unwrap_or_default();
        let wrong = |frozen: Option<f64>| match lie.says {
            Says::Nan => Some(f64::NAN),
            Says::Negative => Some(-5.0),
            Says::Spike => Some(SPIKE),
            Says::Frozen => frozen,
            Says::Nothing => None,
        };
        for (at, pool) in report
            .pools
            .iter_mut()
            .enumerate()
            .filter(|_| lie.field == Field::InUse)
        {
            let before = frozen.pools.get(at);
            pool.in_use = wrong(before.and_then(|pool| pool.in_use));
            pool.by_jobs = wrong(before.and_then(|pool| pool.by_jobs));
        }
        for (at, queue) in report.queues.iter_mut().enumerate() {
            let before = frozen.queues.get(at);
            match lie.field {
                Field::InFlight => {
                    queue.in_flight = wrong(before.map(|queue| queue.in_flight)).unwrap_or(f64::NAN)
                }
                Field::Ready => queue.ready = wrong(before.map(|queue| queue.ready)).unwrap_or(0.0),
                Field::RunTime => match (lie.says, before) {
                    (Says::Frozen, Some(before)) => queue.run_times.clone_from(&before.run_times),
                    (Says::Nothing, _) => queue.run_times.clear(),
                    _ => {
                        let value = wrong(None).unwrap_or(0.0);
                        queue.run_times.iter_mut().for_each(|time| *time = value);
                    }
                },
                Field::InUse | Field::StoreLatency => {}
            }
        }
        if lie.field == Field::StoreLatency {
            report.store_latency_ms = wrong(frozen.store_latency_ms);
        }
    }
}
