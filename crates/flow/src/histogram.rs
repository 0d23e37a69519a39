//! Durations in logarithmic buckets: small, exact to merge, and good to a few percent at any scale.
//!
//! Bucket `i` counts values in `[2^(i/8), 2^((i+1)/8))` milliseconds, so a value is known to 9 %. Buckets and not a
//! sketch, because the histograms of many workers must merge to what one worker would have counted, whatever the order;
//! then a median over the fleet is a median and not a mean of medians. Mean and variance come from sums beside the
//! buckets and are exact. What lies below a millisecond counts in bucket 0, what lies beyond the last bucket in it.

/// Buckets for each doubling.
const PER_OCTAVE: f64 = 8.0;
/// 32 doublings: up to 49 days, longer than any attempt may run.
pub const BUCKETS_MAX: usize = 256;

/// See the [module](self).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// Without the empty ones at the end.
    buckets: Vec<u32>,
    count: u64,
    sum_ms: f64,
    sum_squares_ms: f64,
}

crate::codec::plain!(Histogram {
    buckets,
    count,
    sum_ms,
    sum_squares_ms
});

impl Histogram {
    /// One that was counted elsewhere. The count is that of the buckets; what is no number counts as nothing.
    pub fn from_parts(buckets: &[u32], sum_ms: f64, sum_squares_ms: f64) -> Self {
        let mut histogram = Self::default();
        for (index, n) in buckets.iter().enumerate().filter(|(_, n)| **n > 0) {
            histogram.put(index, *n);
        }
        let number = |sum: f64| if sum.is_finite() { sum.max(0.0) } else { 0.0 };
        histogram.sum_ms = number(sum_ms);
        histogram.sum_squares_ms = number(sum_squares_ms);
        histogram
    }

    /// Counts a value. What is no duration (negative, not a number) counts as 0.
    pub fn add(&mut self, ms: f64) {
        let ms = if ms.is_finite() { ms.max(0.0) } else { 0.0 };
        self.put(bucket_of(ms), 1);
        self.sum_ms += ms;
        self.sum_squares_ms += ms * ms;
    }

    /// As if everything that `other` counted had been counted here.
    pub fn merge(&mut self, other: &Self) {
        for (index, n) in other.buckets.iter().enumerate().filter(|(_, n)| **n > 0) {
            self.put(index, *n);
        }
        self.sum_ms += other.sum_ms;
        self.sum_squares_ms += other.sum_squares_ms;
    }

    fn put(&mut self, index: usize, n: u32) {
        let index = index.min(BUCKETS_MAX - 1);
        if self.buckets.len() <= index {
            self.buckets.resize(index + 1, 0);
        }
        self.buckets[index] = self.buckets[index].saturating_add(n);
        self.count = self.count.saturating_add(u64::from(n));
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn buckets(&self) -> &[u32] {
        &self.buckets
    }

    pub fn sum_ms(&self) -> f64 {
        self.sum_ms
    }

    pub fn sum_squares_ms(&self) -> f64 {
        self.sum_squares_ms
    }

    /// `None` when it is empty.
    pub fn mean_ms(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum_ms / self.count as f64)
    }

    /// Of the values themselves, not of a sample. `None` when it is empty.
    pub fn variance_ms2(&self) -> Option<f64> {
        let mean = self.mean_ms()?;
        // Never below 0, which the subtraction of two large sums could be.
        Some((self.sum_squares_ms / self.count as f64 - mean * mean).max(0.0))
    }

    /// The value below which a share `q` (0 to 1) lies, interpolated within its bucket. `None` when it is empty.
    pub fn quantile_ms(&self, q: f64) -> Option<f64> {
        if self.count == 0 {
            return None;
        }
        let q = if q.is_finite() { q.clamp(0.0, 1.0) } else { 0.0 };
        let wanted = q * self.count as f64;
        let mut below = 0.0;
        let mut last = 0;
        for (index, n) in self.buckets.iter().enumerate().filter(|(_, n)| **n > 0) {
            let n = f64::from(*n);
            if below + n >= wanted {
                return Some(edge_ms(index as f64 + (wanted - below) / n));
            }
            below += n;
            last = index;
        }
        Some(edge_ms(last as f64 + 1.0))
    }
}

fn bucket_of(ms: f64) -> usize {
    if ms < 1.0 {
        return 0;
    }
    let index = (ms.log2() * PER_OCTAVE).floor() as usize;
    index.min(BUCKETS_MAX - 1)
}

/// Where bucket `index` begins.
fn edge_ms(index: f64) -> f64 {
    (index / PER_OCTAVE).exp2()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[f64]) -> Histogram {
        let mut histogram = Histogram::default();
        values.iter().for_each(|ms| histogram.add(*ms));
        histogram
    }

    #[test]
    fn a_value_counts_in_the_bucket_that_holds_it() {
        for (ms, bucket) in [
            (0.0, 0),
            (0.5, 0),
            (1.0, 0),
            (1.09, 0),
            (1.1, 1),
            (2.0, 8),
            (1_000.0, 79),
            (1_024.0, 80),
            (-5.0, 0),
            (f64::NAN, 0),
            (1e12, BUCKETS_MAX - 1),
        ] {
            let histogram = of(&[ms]);
            assert_eq!(histogram.buckets().len(), bucket + 1, "{ms}");
            assert_eq!(histogram.buckets()[bucket], 1, "{ms}");
        }
    }

    #[test]
    fn parts_merge_to_the_whole() {
        let values: Vec<f64> = (1..=1_000).map(|n| f64::from(n) * 1.7).collect();
        let whole = of(&values);
        let (left, right) = values.split_at(137);
        let mut merged = of(right);
        merged.merge(&of(left));
        assert_eq!(
            (merged.buckets(), merged.count()),
            (whole.buckets(), whole.count())
        );
        assert!((merged.sum_ms() - whole.sum_ms()).abs() < 1e-6);
        let carried = Histogram::from_parts(merged.buckets(), merged.sum_ms(), merged.sum_squares_ms());
        assert_eq!(carried, merged);
    }

    #[test]
    fn quantiles_are_right_to_a_bucket_and_mean_and_variance_exact() {
        let values: Vec<f64> = (1..=10_000).map(f64::from).collect();
        let histogram = of(&values);
        for q in [0.01, 0.25, 0.5, 0.75, 0.99, 1.0] {
            let (got, right) = (histogram.quantile_ms(q).expect("not empty"), q * 10_000.0);
            assert!((got / right - 1.0).abs() < 0.095, "{q}: {got} for {right}");
        }
        assert!((histogram.mean_ms().expect("not empty") - 5_000.5).abs() < 1e-6);
        let variance = histogram.variance_ms2().expect("not empty");
        assert!((variance - (1e8 - 1.0) / 12.0).abs() < 1.0, "{variance}");
    }

    #[test]
    fn nothing_has_no_mean() {
        let nothing = Histogram::default();
        assert_eq!((nothing.mean_ms(), nothing.quantile_ms(0.5)), (None, None));
        assert_eq!(of(&[7.0]).variance_ms2(), Some(0.0));
    }

    #[test]
    fn what_came_by_wire_cannot_make_it_large_or_wrong() {
        let histogram = Histogram::from_parts(&vec![1; 10_000], f64::NAN, -1.0);
        assert_eq!(histogram.buckets().len(), BUCKETS_MAX);
        assert_eq!(histogram.count(), 10_000);
        assert_eq!((histogram.sum_ms(), histogram.sum_squares_ms()), (0.0, 0.0));
        let full = Histogram::from_parts(&[u32::MAX, u32::MAX], 0.0, 0.0);
        let mut twice = full.clone();
        twice.merge(&full);
        assert_eq!(twice.buckets()[0], u32::MAX);
    }
}
