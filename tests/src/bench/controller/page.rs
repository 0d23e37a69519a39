//! The controller's own histogram of its ticks, read off its metrics page.

const NAME: &str = "tidegate_control_tick_duration_seconds_bucket";

/// Counts by upper edge.
#[derive(Default)]
pub struct Histogram {
    /// (upper edge in seconds, cumulative count).
    buckets: Vec<(f64, f64)>,
    pub count: f64,
}

impl Histogram {
    pub fn of(page: &str) -> Self {
        let mut buckets = Vec::new();
        for line in page.lines().filter(|line| line.starts_with(NAME)) {
            let edge = line.split("le=\"").nth(1).and_then(|rest| rest.split('"').next());
            let edge = edge.map_or(f64::NAN, |edge| {
                if edge == "+Inf" {
                    f64::INFINITY
                } else {
                    edge.parse().unwrap_or(f64::NAN)
                }
            });
            let count = line
                .rsplit(' ')
                .next()
                .and_then(|count| count.parse().ok())
                .unwrap_or(0.0);
            buckets.push((edge, count));
        }
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let count = buckets.last().map_or(0.0, |bucket| bucket.1);
        Self { buckets, count }
    }

    pub fn since(mut self, before: &Self) -> Self {
        for (bucket, (_, count)) in self.buckets.iter_mut().zip(&before.buckets) {
            bucket.1 -= count;
        }
        self.count -= before.count;
        self
    }

    /// The upper edge of the bucket that holds it, interpolated within.
    pub fn quantile(&self, q: f64) -> f64 {
        let wanted = q * self.count;
        let (mut edge_before, mut below) = (0.0, 0.0);
        for (edge, count) in &self.buckets {
            if *count >= wanted {
                let width = if edge.is_finite() { edge - edge_before } else { 0.0 };
                let share = if *count > below {
                    (wanted - below) / (count - below)
                } else {
                    1.0
                };
                return edge_before + width * share;
            }
            (edge_before, below) = (*edge, *count);
        }
        edge_before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    pub fn quantiles_of_a_page_are_interpolated() {
        let page = "\
            tidegate_control_tick_duration_seconds_bucket{le=\"0.005\"} 10\n\
            tidegate_control_tick_duration_seconds_bucket{le=\"0.01\"} 90\n\
            tidegate_control_tick_duration_seconds_bucket{le=\"+Inf\"} 100\n";
        let histogram = Histogram::of(page);
        assert_eq!(histogram.count, 100.0);
        assert!((histogram.quantile(0.5) - 0.0075).abs() < 1e-9);
        assert_eq!(
            histogram.quantile(0.99),
            0.01,
            "no more is known than the last edge"
        );
        let none = Histogram::of(page).since(&histogram);
        assert_eq!(none.count, 0.0);
    }
}
