//! How much slower jobs run than they do when there is room.
//!
//! Each queue has a baseline, its run time while its domain is lightly loaded; the slowdown of a domain is the ratio of now
//! to then over all its queues, weighted by work. Its standard error comes from the spread of the run
//! times, so that a mix of 10 ms and 5 s jobs needs more evidence than a uniform load.

use super::params::EVIDENCE_S;
use crate::{codec::plain, histogram::Histogram};

/// Jobs that a baseline is the plain mean of, before it follows.
const LEARN_JOBS: u64 = 100;
/// With so many, more are only learned while there is room.
const LIGHT_JOBS: u64 = 20;
/// Weight of a window of [`EVIDENCE_S`] in a baseline that follows, and how far it goes at most: faster would take an
/// overload that begins slowly for normal, or the noise of one window for a change.
const FOLLOW: f64 = 0.25;
const FOLLOW_MAX: f64 = 0.1;
/// Jobs of a queue in a window from which its median says something.
const JOBS_MIN: u64 = 5;
/// A median is known to a part of its bucket, however many jobs there are.
const BUCKET: f64 = 0.02;
/// Deviations by which a loaded domain is faster than its baseline, so that the baseline was wrong.
const FASTER: f64 = -3.0;

/// One way to say where run times lie, with its standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Level {
    pub ms: f64,
    pub error_ms: f64,
}
plain!(Level { ms, error_ms });

/// A queue's usual run time; 0: not learned yet. Median and mean are kept side by side, because which of them is known
/// better depends on the jobs and changes from window to window.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Baseline {
    pub median: Level,
    pub mean: Level,
    pub jobs: u64,
}
plain!(Baseline { median, mean, jobs });

/// A queue's run times in one window.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub jobs: f64,
    pub median: Level,
    pub mean: Level,
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
        let median = Level {
            ms: p50,
            error_ms: (iqr / jobs.sqrt()).hypot(BUCKET * p50),
        };
        let mean = Level {
            ms: mean_ms(times)?.max(1e-3),
            error_ms: (times.variance_ms2()? / jobs).sqrt().max(1e-3),
        };
        Some(Self {
            jobs,
            median,
            mean,
            spread: iqr / p50,
        })
    }

    /// Of its median or mean, whichever is known better.
    pub fn relative_error(&self) -> f64 {
        let of = |level: &Level| level.error_ms / level.ms;
        of(&self.median).min(of(&self.mean))
    }

    /// How many times as long as usual the jobs took, and the standard error of that: by the median or the mean, whichever
    /// is known better. `None`: nothing is usual yet.
    pub fn ratio(&self, baseline: &Baseline) -> Option<(f64, f64)> {
        let of = |now: &Level, usual: &Level| {
            let ratio = now.ms / usual.ms;
            // What was usual is known no better than it was measured.
            (
                ratio,
                (now.error_ms / usual.ms).hypot(ratio * usual.error_ms / usual.ms),
            )
        };
        if baseline.median.ms <= 0.0 || baseline.mean.ms <= 0.0 {
            return None;
        }
        let (median, mean) = (of(&self.median, &baseline.median), of(&self.mean, &baseline.mean));
        Some(if mean.1 < median.1 { mean } else { median })
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

impl Level {
    fn mix(&mut self, weight: f64, to: &Level) {
        self.ms += weight * (to.ms - self.ms);
        self.error_ms = ((1.0 - weight) * self.error_ms).hypot(weight * to.error_ms);
    }

    /// Not further away than a part of itself.
    fn near(&self, to: &Level, most: f64) -> Level {
        let (least, most) = (self.ms * (1.0 - most), self.ms * (1.0 + most));
        Level {
            ms: to.ms.clamp(least, most),
            ..*to
        }
    }
}

impl Baseline {
    /// Takes a window's sample. `light`: the domain has room; `z`: deviations that it was slower.
    pub fn take(&mut self, sample: &Sample, light: bool, z: f64, seconds: f64) {
        if self.jobs < LEARN_JOBS {
            // What was learned with room is not mixed with what a step of load made of it.
            if !light && self.jobs >= LIGHT_JOBS {
                return;
            }
            let weight = sample.jobs / (self.jobs as f64 + sample.jobs);
            self.median.mix(weight, &sample.median);
            self.mean.mix(weight, &sample.mean);
            self.jobs = self.jobs.saturating_add(sample.jobs as u64);
            return;
        }
        let share = (seconds / EVIDENCE_S).clamp(0.0, 1.0);
        if light || (z < FASTER && sample.mean.ms < self.mean.ms) {
            let most = FOLLOW_MAX / FOLLOW;
            self.median
                .mix(FOLLOW * share, &self.median.near(&sample.median, most));
            self.mean.mix(FOLLOW * share, &self.mean.near(&sample.mean, most));
        }
    }

    /// What is usual is this much slower from here on.
    pub fn rescale(&mut self, factor: f64) {
        for level in [&mut self.median, &mut self.mean] {
            level.ms *= factor;
            level.error_ms *= factor;
        }
    }

    pub fn is_known(&self) -> bool {
        self.median.ms > 0.0
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
        let Some((ratio, error)) = sample.ratio(baseline) else {
            return;
        };
        let weight = sample.jobs * baseline.mean.ms;
        self.now += weight * ratio;
        self.usual += weight;
        self.variance += (weight * error).powi(2);
        self.work_s += weight / 1_000.0;
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

    fn usual(ms: f64) -> Baseline {
        let mut baseline = Baseline::default();
        (0..4).for_each(|_| baseline.take(&sample(ms, 100), true, 0.0, 5.0));
        baseline
    }

    #[test]
    fn slower_than_usual_by_the_ratio_of_levels() {
        let mut pooled = Pooled::default();
        pooled.add(&sample(150.0, 100), &usual(100.0));
        assert!((pooled.slowdown() - 1.5).abs() < 0.02, "{}", pooled.slowdown());
        assert!(pooled.z() > 3.0);
        assert!(Sample::of(&times(100.0, 4)).is_none());
    }

    #[test]
    fn a_few_that_are_far_off_leave_the_judgement_to_the_median() {
        let mut mixed = times(10.0, 90);
        (0..10).for_each(|_| mixed.add(5_000.0));
        let mut baseline = Baseline::default();
        baseline.take(&Sample::of(&mixed).expect("enough"), true, 0.0, 5.0);
        // The same jobs, and by chance twice as many long ones.
        (0..10).for_each(|_| mixed.add(5_000.0));
        let (ratio, _) = Sample::of(&mixed)
            .and_then(|sample| sample.ratio(&baseline))
            .expect("known");
        assert!(ratio < 1.2, "{ratio}");
    }

    #[test]
    fn a_baseline_learns_then_follows_slowly_and_only_with_room() {
        let mut baseline = Baseline::default();
        baseline.take(&sample(100.0, 100), false, 0.0, 5.0);
        let learned = baseline.mean.ms;
        baseline.take(&sample(300.0, 100), true, 9.0, 5.0);
        assert!((baseline.mean.ms / learned - 1.1).abs() < 1e-9);
        baseline.take(&sample(300.0, 100), false, 9.0, 5.0);
        assert!(
            (baseline.mean.ms / learned - 1.1).abs() < 1e-9,
            "no drift under load"
        );
        baseline.take(&sample(50.0, 100), false, -9.0, 5.0);
        assert!(
            baseline.mean.ms < 1.1 * learned,
            "faster under load: it was wrong"
        );
    }

    #[test]
    fn a_step_of_load_does_not_teach_what_is_usual() {
        let mut baseline = Baseline::default();
        baseline.take(&sample(100.0, 30), true, 0.0, 5.0);
        let learned = baseline.mean.ms;
        baseline.take(&sample(200.0, 60), false, 9.0, 5.0);
        assert_eq!(baseline.mean.ms, learned);
        baseline.take(&sample(110.0, 60), true, 0.0, 5.0);
        assert!(baseline.mean.ms > learned, "with room it still learns");
        let mut first = Baseline::default();
        first.take(&sample(100.0, 10), false, 0.0, 5.0);
        first.take(&sample(100.0, 10), false, 0.0, 5.0);
        assert_eq!(first.jobs, 20, "there was never room: better than nothing");
    }

    #[test]
    fn a_sum_that_cannot_be_is_not_believed() {
        let spiked = Histogram::from_parts(times(100.0, 50).buckets(), 1e15, 0.0);
        assert!(mean_ms(&spiked).expect("not empty") < 200.0);
    }
}
