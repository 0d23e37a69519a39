//! Histograms on the wire. Here, because only this crate and those above know both the wire and `flow`.

use tidegate_flow::histogram::Histogram;
use tidegate_protocol::v1;

pub fn wire_histogram(histogram: &Histogram) -> v1::Histogram {
    v1::Histogram {
        buckets: histogram.buckets().to_vec(),
        count: histogram.count(),
        sum_ms: histogram.sum_ms(),
        sum_squares_ms: histogram.sum_squares_ms(),
    }
}

/// What came by wire; nonsense in it counts as nothing.
pub fn histogram(wire: &v1::Histogram) -> Histogram {
    Histogram::from_parts(&wire.buckets, wire.sum_ms, wire.sum_squares_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_survives_the_wire() {
        let mut counted = Histogram::default();
        [0.2, 3.0, 800.0].into_iter().for_each(|ms| counted.add(ms));
        let wire = wire_histogram(&counted);
        assert_eq!(wire.count, 3);
        assert_eq!(histogram(&wire), counted);
    }
}
