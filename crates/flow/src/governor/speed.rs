//! How much slower jobs run than they do when there is room.
//!
//! Each queue has a baseline, its median run time while its domain is lightly loaded; the slowdown of a domain is the
//! ratio of now to then over all its queues, weighted by jobs. Its standard error comes from the spread of the run
//! times, so that a mix of 10 ms and 5 s jobs needs more evidence than a uniform load.

use super::params::EVIDENCE_S;
use crate::{codec::plain, histogram::Histogram};

/// Jobs that a baseline is the plain mean of, before it follows.
const LEARN_JOBS: u64 = 100;
/// Weight of a window of [`EVIDENCE_S`] in a baseline that follows, and how far it goes at most: faster would take an
/// overload that begins slowly for normal, or the noise of one window for a change.
const FOLLOW: f64 = 0.25;
const FOLLOW_MAX: f64 = 0.1;
/// Jobs of a queue in a window from which its median says something.
const JOBS_MIN: u64 = 5;
/// A spread below this is finer than the buckets of a histogram: the mean is exact, the median is not.
const FINE: f64 = 0.25;
/// A median is known to a part of its bucket, however many jobs there are.
const BUCKET: f64 = 0.02;
/// Deviations by which a loaded domain is faster than its baseline, so that the baseline was wrong.
const FASTER: f64 = -3.0;

/// A queue's usual run time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Baseline {
    /// 0: not learned yet.
    pub ms: f64,
    pub jobs: u64,
    pub error_ms: f64,
}
plain!(Baseline { ms, jobs, error_ms });

/// A queue's run times in one window.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub jobs: f64,
    /// The middle of the run times.
    pub ms: f64,
    pub error_ms: f64,
    /// IQR by median: 0.6 for jobs alike, above 3 for a mix.
    pub spread: f64,
}

impl Sample {
    pub fn of(times: &Histogram) -> Option<Self> {
        if times.count() < JOBS_MIN {
            return None;
        }
        let p50 = times.quantile_ms(0.5)?.max(1e-3);
        let iqr = times.quantile_ms(0.75)? - times.quantile_ms(0.25)?;
        let jobs = times.count() as f64;
        let (mean, deviation) = (mean_ms(times)?, times.variance_ms2()?.sqrt());
        // Few that are far off leave the middle where it is, and the mean not.
        let is_alike = iqr < FINE * p50 && deviation < FINE * mean;
        let ms = if is_alike { mean } else { p50 };
        Some(Self {
            jobs,
            ms,
            error_ms: (iqr / jobs.sqrt()).hypot(BUCKET * p50),
            spread: iqr / p50,
        })
    }
}

/// Whether run times can be true. A sum of nothing over many jobs is a report that was no number, and nothing runs for
/// weeks.
pub fn is_believable(times: &Histogram) -> bool {
    const ABSURD_MS: f64 = 7.0 * 86_400_000.0;
    times.is_empty() || (times.sum_ms() > 0.0 && times.quantile_ms(0.5).is_some_and(|ms| ms < ABSURD_MS))
}

/// The mean, within what the buckets allow: a sum that came by wire may be anything.
pub fn mean_ms(times: &Histogram) -> Option<f64> {
    Some(times.mean_ms()?.clamp(0.0, times.quantile_ms(1.0)?))
}

impl Baseline {
    /// Takes a window's sample. `light`: the domain has room; `z`: deviations that it was slower.
    pub fn take(&mut self, sample: &Sample, light: bool, z: f64, seconds: f64) {
        if self.jobs < LEARN_JOBS {
            let known = self.jobs as f64;
            self.mix(sample.jobs / (known + sample.jobs), sample.ms, sample.error_ms);
            self.jobs = self.jobs.saturating_add(sample.jobs as u64);
            return;
        }
        let share = (seconds / EVIDENCE_S).clamp(0.0, 1.0);
        let step = self.ms * FOLLOW_MAX * share;
        let to = sample.ms.clamp(self.ms - step / FOLLOW, self.ms + step / FOLLOW);
        if light || (z < FASTER && to < self.ms) {
            self.mix(FOLLOW * share, to, sample.error_ms);
        }
    }

    fn mix(&mut self, weight: f64, ms: f64, error_ms: f64) {
        self.ms += weight * (ms - self.ms);
        self.error_ms = ((1.0 - weight) * self.error_ms).hypot(weight * error_ms);
    }

    /// Its unit has changed: what was usual is this much slower from here on.
    pub fn rescale(&mut self, factor: f64) {
        self.ms *= factor;
        self.error_ms *= factor;
    }
}

/// Sums over the queues of a domain.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pooled {
    pub now: f64,
    pub usual: f64,
    pub variance: f64,
    /// Jobs by their usual run time, seconds: work done, whatever the mix.
    pub work_s: f64,
}
plain!(Pooled {
    now,
    usual,
    variance,
    work_s
});

impl Pooled {
    pub fn add(&mut self, sample: &Sample, baseline: &Baseline) {
        if baseline.ms <= 0.0 {
            return;
        }
        self.now += sample.jobs * sample.ms;
        self.usual += sample.jobs * baseline.ms;
        // What was usual is known no better than it was measured.
        let error_ms = sample.error_ms.hypot(baseline.error_ms * sample.ms / baseline.ms);
        self.variance += (sample.jobs * error_ms).powi(2);
        self.work_s += sample.jobs * baseline.ms / 1_000.0;
    }

    pub fn merge(&mut self, other: &Self) {
        self.now += other.now;
        self.usual += other.usual;
        self.variance += other.variance;
        self.work_s += other.work_s;
    }

    pub fn is_empty(&self) -> bool {
        self.usual <= 0.0
    }

    /// 1: as usual.
    pub fn slowdown(&self) -> f64 {
        if self.is_empty() {
            1.0
        } else {
            self.now / self.usual
        }
    }

    pub fn error(&self) -> f64 {
        if self.is_empty() {
            1.0
        } else {
            (self.variance.sqrt() / self.usual).max(1e-3)
        }
    }

    /// Deviations that it is slower than usual.
    pub fn z(&self) -> f64 {
        (self.slowdown() - 1.0) / self.error()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(ms: f64, n: u32) -> Histogram {
        let mut times = Histogram::default();
        (0..n).for_each(|i| times.add(ms * (0.5 + f64::from(i) / f64::from(n))));
        times
    }

    fn sample(ms: f64, n: u32) -> Sample {
        Sample::of(&times(ms, n)).expect("enough")
    }

    #[test]
    fn slower_than_usual_by_the_ratio_of_medians() {
        let baseline = Baseline {
            ms: 100.0,
            jobs: 100,
            error_ms: 1.0,
        };
        let mut pooled = Pooled::default();
        pooled.add(&sample(150.0, 100), &baseline);
        assert!((pooled.slowdown() - 1.5).abs() < 0.08, "{}", pooled.slowdown());
        assert!(pooled.z() > 3.0);
        assert!(Sample::of(&times(100.0, 4)).is_none());
    }

    #[test]
    fn jobs_all_alike_are_known_better_than_a_bucket() {
        let mut alike = Histogram::default();
        (0..50).for_each(|_| alike.add(104.0));
        let sample = Sample::of(&alike).expect("enough");
        assert!((sample.ms - 104.0).abs() < 1e-6);
    }

    #[test]
    fn a_baseline_learns_then_follows_slowly_and_only_with_room() {
        let mut baseline = Baseline::default();
        baseline.take(&sample(100.0, 100), false, 0.0, 5.0);
        let learned = baseline.ms;
        baseline.take(&sample(300.0, 100), true, 9.0, 5.0);
        assert!((baseline.ms / learned - 1.1).abs() < 1e-9);
        baseline.take(&sample(300.0, 100), false, 9.0, 5.0);
        assert!((baseline.ms / learned - 1.1).abs() < 1e-9, "no drift under load");
        baseline.take(&sample(50.0, 100), false, -9.0, 5.0);
        assert!(baseline.ms < learned, "faster under load: it was wrong");
    }

    #[test]
    fn a_sum_that_cannot_be_is_not_believed() {
        let spiked = Histogram::from_parts(times(100.0, 50).buckets(), 1e15, 0.0);
        assert!(mean_ms(&spiked).expect("not empty") < 200.0);
    }
}
