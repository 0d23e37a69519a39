//! Every decision of Tidegate, as plain functions of their inputs.
//!
//! No clock, no randomness, no I/O and no dependency: time and random values are arguments. So a decision can be tested
//! in an instant, replayed from a record, and simulated faster than real time.

pub mod admission;
pub mod backoff;
pub mod breaker;
pub mod bucket;
pub mod budget;
pub mod caps;
pub mod codec;
pub mod governor;
pub mod histogram;
pub mod shard;

/// Numbers for tests that try many cases: the same ones every time.
#[cfg(test)]
mod test_random {
    /// A linear congruential generator; the upper half is what it gives.
    pub struct Random(pub u64);

    impl Random {
        pub fn below(&mut self, end: u64) -> u64 {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % end.max(1)
        }
    }
}
