//! An open-loop load: jobs arrive when they arrive, however the system fares. Latency counts from when a job was *meant*
//! to be sent, so that a stall is not measured as one slow job with silence behind it (coordinated omission).

use hdrhistogram::Histogram;
use std::future::Future;
use std::time::{Duration, Instant};
use tidegate_client::Client;
use tokio::task::{JoinError, JoinSet};

/// Sends on their way at once; what comes while they all are waits here, and its wait is counted.
const IN_FLIGHT_MAX: usize = 1_024;
/// Latencies are kept to three digits, up to ten minutes.
const LATENCY_US_MAX: u64 = 600_000_000;
const DIGITS: u8 = 3;

/// Arrivals of a Poisson process whose rate (a second) may change with time: what many independent producers look like.
pub fn poisson(seed: u64, length: Duration, rate: impl Fn(Duration) -> f64) -> Vec<Duration> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut at = Duration::ZERO;
    let mut arrivals = Vec::new();
    loop {
        at += Duration::from_secs_f64(-(1.0 - rng.f64()).ln() / rate(at));
        if at >= length {
            return arrivals;
        }
        arrivals.push(at);
    }
}

/// Evenly spaced arrivals.
pub fn steady(length: Duration, rate: f64) -> Vec<Duration> {
    let count = (length.as_secs_f64() * rate) as u32;
    (0..count)
        .map(|n| Duration::from_secs_f64(f64::from(n) / rate))
        .collect()
}

/// One arrival: when it was meant to be sent, and what became of it.
#[derive(Clone, Debug)]
pub struct Sent<T> {
    pub number: usize,
    pub due: Instant,
    pub answered: Instant,
    pub answer: T,
}

impl<T> Sent<T> {
    pub fn latency(&self) -> Duration {
        self.answered - self.due
    }
}

/// Sends each arrival at its time, counted from `start`, without waiting for the ones before.
pub async fn open_loop<T, F>(
    start: Instant,
    arrivals: &[Duration],
    mut send: impl FnMut(usize) -> F,
) -> Vec<Sent<T>>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let mut sends = JoinSet::new();
    let mut all = Vec::with_capacity(arrivals.len());
    for (number, at) in arrivals.iter().enumerate() {
        let due = start + *at;
        tokio::time::sleep_until(due.into()).await;
        while sends.len() >= IN_FLIGHT_MAX {
            all.extend(joined(sends.join_next().await));
        }
        while let Some(sent) = sends.try_join_next() {
            all.extend(joined(Some(sent)));
        }
        let send = send(number);
        sends.spawn(async move {
            let answer = send.await;
            Sent {
                number,
                due,
                answered: Instant::now(),
                answer,
            }
        });
    }
    while !sends.is_empty() {
        all.extend(joined(sends.join_next().await));
    }
    all.sort_by_key(|sent| sent.number);
    all
}

fn joined<T>(sent: Option<Result<Sent<T>, JoinError>>) -> Option<Sent<T>> {
    sent.map(|sent| sent.expect("a send does not panic"))
}

/// Submits jobs of one queue, each with the payload that `payload` makes of its number. Gives the ids of those that were
/// acknowledged, with when they were due, and how many were not.
pub async fn submit(
    client: &Client,
    queue: &str,
    arrivals: &[Duration],
    payload: impl Fn(usize) -> String,
) -> (Vec<Sent<String>>, usize) {
    let sent = open_loop(Instant::now(), arrivals, |number| {
        let submit = client.submit_raw(queue, payload(number));
        async move { submit.send().await.map(|submitted| submitted.id.to_string()) }
    });
    let mut refused = 0;
    let acknowledged = sent.await.into_iter().filter_map(|sent| match sent.answer {
        Ok(id) => Some(Sent {
            number: sent.number,
            due: sent.due,
            answered: sent.answered,
            answer: id,
        }),
        Err(_) => {
            refused += 1;
            None
        }
    });
    (acknowledged.collect(), refused)
}

/// Latencies, to three digits.
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        let histogram = Histogram::new_with_max(LATENCY_US_MAX, DIGITS);
        Self(histogram.expect("the bounds are valid"))
    }
}

impl Latencies {
    pub fn add(&mut self, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.0.saturating_record(us);
    }

    pub fn ms(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1e3
    }

    pub fn count(&self) -> u64 {
        self.0.len()
    }
}

impl FromIterator<Duration> for Latencies {
    fn from_iter<I: IntoIterator<Item = Duration>>(latencies: I) -> Self {
        let mut all = Self::default();
        latencies.into_iter().for_each(|latency| all.add(latency));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tokio::sync::Semaphore;

    #[test]
    fn arrivals_come_from_their_seed_at_their_rate() {
        let length = Duration::from_secs(60);
        let one = poisson(7, length, |_| 100.0);
        assert_eq!(one, poisson(7, length, |_| 100.0));
        assert!((5_700..6_300).contains(&one.len()), "{}", one.len());
        assert_ne!(one, poisson(8, length, |_| 100.0));
        assert_eq!(steady(length, 10.0).len(), 600);
        let surge = poisson(7, length, |at| if at.as_secs() < 30 { 10.0 } else { 100.0 });
        let late = surge.iter().filter(|at| at.as_secs() >= 30).count();
        assert!((8.0..12.0).contains(&(late as f64 / (surge.len() - late) as f64)));
    }

    /// A server that stalls for half a second: a closed loop would measure one slow answer, this measures all that waited.
    #[tokio::test]
    async fn a_stall_is_counted_for_everything_that_waited_for_it() {
        let stalled = Arc::new(Semaphore::new(0));
        let release = stalled.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(500)).await;
            release.add_permits(100);
        });
        let arrivals = steady(Duration::from_millis(500), 200.0);
        let sent = open_loop(Instant::now(), &arrivals, |_| {
            let stalled = stalled.clone();
            async move { stalled.acquire().await.expect("never closed").forget() }
        });
        let latencies: Latencies = sent.await.iter().map(Sent::latency).collect();
        assert_eq!(latencies.count(), 100);
        let half = latencies.ms(0.5);
        assert!((200.0..450.0).contains(&half), "{half} ms");
    }
}
