//! Logarithmic histograms of the wire: they merge exactly over workers, so a quantile of the fleet is one of its jobs and
//! not a mean of quantiles.

/// 2^(512/8) ms is beyond any time there is; longer lists are cut.
pub const BUCKETS_MAX: usize = 512;
/// Buckets per doubling.
const PER_OCTAVE: f64 = 8.0;

/// Bucket i counts values in `[2^(i/8), 2^((i+1)/8))` ms.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    sum_ms: f64,
}

impl Histogram {
    pub fn new(buckets: impl IntoIterator<Item = u32>, count: u64, sum_ms: f64) -> Self {
        Self {
            buckets: buckets.into_iter().take(BUCKETS_MAX).map(u64::from).collect(),
            count,
            // A sum that is no number would stay in every mean after it.
            sum_ms: if sum_ms.is_finite() { sum_ms.max(0.0) } else { 0.0 },
        }
    }

    pub fn merge(&mut self, other: &Histogram) {
        if self.buckets.len() < other.buckets.len() {
            self.buckets.resize(other.buckets.len(), 0);
        }
        self.buckets
            .iter_mut()
            .zip(&other.buckets)
            .for_each(|(sum, more)| *sum = sum.saturating_add(*more));
        self.count = self.count.saturating_add(other.count);
        self.sum_ms += other.sum_ms;
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn mean_ms(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum_ms / self.count as f64)
    }

    /// The upper edge of the bucket that the quantile falls into.
    pub fn quantile_ms(&self, quantile: f64) -> Option<f64> {
        let total: u64 = self.buckets.iter().sum();
        let rank = (total as f64 * quantile).ceil().max(1.0) as u64;
        let mut seen = 0;
        let reached = |(_, count): &(usize, &u64)| {
            seen += **count;
            seen >= rank
        };
        let (index, _) = self.buckets.iter().enumerate().find(reached)?;
        Some(((index + 1) as f64 / PER_OCTAVE).exp2())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_and_answers() {
        let mut all = Histogram::default();
        assert_eq!((all.mean_ms(), all.quantile_ms(0.99)), (None, None));
        let mut fast = vec![0; 25];
        fast[24] = 98; // 8 ms
        all.merge(&Histogram::new(fast, 98, 98.0 * 8.2));
        let mut slow = vec![0; 81];
        slow[80] = 2; // 1,024 ms
        all.merge(&Histogram::new(slow, 2, 2_100.0));
        assert_eq!(all.count(), 100);
        assert!((all.mean_ms().unwrap() - 29.0).abs() < 0.1);
        assert!(all.quantile_ms(0.5).unwrap() < 9.0);
        assert!((1_024.0..1_200.0).contains(&all.quantile_ms(0.99).unwrap()));
    }

    #[test]
    fn nonsense_is_bounded() {
        let odd = Histogram::new(vec![1; 10_000], 3, f64::NAN);
        assert_eq!((odd.buckets.len(), odd.mean_ms()), (BUCKETS_MAX, Some(0.0)));
    }
}
