//! Looks at the truth every 100 ms while a test goes on, and judges afterwards.

use crate::roles::{WorkerProc, try_http_get};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::fmt::Debug;
use std::time::{Duration, Instant};
use tidegate_client::{Client, QueueView};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const EVERY: Duration = Duration::from_millis(100);
/// A look that takes longer says nothing of a moment.
const LOOK_MAX: Duration = Duration::from_secs(2);

/// Of one value; ends with [`Sampler::stop`] or with its own end.
pub struct Sampler<T> {
    what: String,
    stop: CancellationToken,
    looking: JoinHandle<Vec<(Duration, T)>>,
}

impl<T: Send + 'static> Sampler<T> {
    /// Asks `look` every 100 ms; `None` = nothing could be seen now.
    pub fn start<F>(what: impl Into<String>, look: impl FnMut() -> F + Send + 'static) -> Self
    where
        F: Future<Output = Option<T>> + Send + 'static,
    {
        Self::every(EVERY, what, look)
    }

    /// The same at another pace.
    pub fn every<F>(
        period: Duration,
        what: impl Into<String>,
        mut look: impl FnMut() -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = Option<T>> + Send + 'static,
    {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let looking = tokio::spawn(async move {
            let start = Instant::now();
            let mut ticks = tokio::time::interval(period);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            let mut seen = Vec::new();
            loop {
                tokio::select! {
                    _ = ticks.tick() => {}
                    () = stopped.cancelled() => return seen,
                }
                let at = start.elapsed();
                if let Ok(Some(value)) = tokio::time::timeout(LOOK_MAX, look()).await {
                    seen.push((at, value));
                }
            }
        });
        Self {
            what: what.into(),
            stop,
            looking,
        }
    }

    pub async fn stop(mut self) -> Samples<T> {
        self.stop.cancel();
        let seen = (&mut self.looking).await.expect("a look does not panic");
        Samples::of(std::mem::take(&mut self.what), seen)
    }
}

impl<T> Drop for Sampler<T> {
    fn drop(&mut self) {
        self.stop.cancel();
        self.looking.abort();
    }
}

/// What was seen, in order.
pub struct Samples<T> {
    what: String,
    /// Since the first look.
    pub seen: Vec<(Duration, T)>,
}

impl<T> Samples<T> {
    /// Of looks that something else took, or made up.
    pub fn of(what: impl Into<String>, seen: Vec<(Duration, T)>) -> Self {
        Self {
            what: what.into(),
            seen,
        }
    }
}

impl<T: Copy + Ord + Debug> Samples<T> {
    /// Panics with the first sample above `limit`, and when nothing was seen at all: then nothing was shown.
    #[track_caller]
    pub fn never_above(&self, limit: T) -> &Self {
        assert!(!self.seen.is_empty(), "{} was never seen", self.what);
        let above = self.seen.iter().find(|(_, value)| *value > limit);
        if let Some((at, value)) = above {
            panic!("{}: {value:?} of {limit:?} after {at:?}", self.what);
        }
        self
    }

    pub fn highest(&self) -> Option<T> {
        self.seen.iter().map(|(_, value)| *value).max()
    }
}

/// Slots of a queue as the store counts them: leases and ghosts.
pub fn slots(client: &Client, queue: &str) -> Sampler<u64> {
    let (client, name) = (client.clone(), queue.to_owned());
    Sampler::start(format!("slots of {queue}"), move || {
        let (client, name) = (client.clone(), name.clone());
        async move {
            client
                .get_queue(name)
                .await
                .ok()
                .map(|queue: QueueView| queue.slots)
        }
    })
}

/// Sessions of a role that are inside the function `work` right now, as Postgres itself knows.
pub fn at_work(postgres_url: &str, role: &str) -> Sampler<i64> {
    let look = format!(
        "SELECT count(*) FROM pg_stat_activity \
        WHERE usename = '{role}' AND state = 'active' AND query LIKE 'SELECT work(%'"
    );
    number(postgres_url, look)
}

/// What a statement answers that gives one number.
pub fn number(postgres_url: &str, statement: impl Into<String>) -> Sampler<i64> {
    let (url, statement) = (postgres_url.to_owned(), statement.into());
    Sampler::start(statement.clone(), move || {
        let (url, statement) = (url.clone(), AssertSqlSafe(statement.clone()));
        async move {
            let mut session = PgConnection::connect(&url).await.ok()?;
            let count = sqlx::query_scalar(statement).fetch_one(&mut session).await.ok()?;
            session.close().await.ok()?;
            Some(count)
        }
    })
}

/// Jobs of a queue that the workers themselves say they run, all together.
pub fn running(workers: &[WorkerProc], queue: &str) -> Sampler<u64> {
    let urls: Vec<String> = workers.iter().map(WorkerProc::metrics_url).collect();
    let name = queue.to_owned();
    Sampler::start(format!("jobs of {queue} at the workers"), move || {
        let (urls, name) = (urls.clone(), name.clone());
        async move {
            let mut sum = 0;
            for url in &urls {
                // One that is gone runs nothing.
                if let Ok((200, page)) = try_http_get(url, "/metrics").await {
                    sum += metric(&page, "tidegate_concurrency_running", &name).unwrap_or(0.0) as u64;
                }
            }
            Some(sum)
        }
    })
}

/// A queue's value on a metrics page.
pub fn metric(page: &str, name: &str, queue: &str) -> Option<f64> {
    let label = format!("queue=\"{queue}\"");
    let mut lines = page.lines();
    let line = lines.find(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with('{')) && line.contains(&label)
    })?;
    line.rsplit(' ').next()?.parse().ok()
}

/// The sum of a metric's values over all its series with these labels.
pub fn sum(page: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let labels: Vec<String> = labels
        .iter()
        .map(|(name, value)| format!("{name}=\"{value}\""))
        .collect();
    let is_wanted = |line: &&str| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels.iter().all(|label| line.contains(label))
    };
    let value = |line: &str| line.rsplit(' ').next()?.parse::<f64>().ok();
    page.lines().filter(is_wanted).filter_map(value).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    #[should_panic(expected = "the tide: 3 of 2 after")]
    async fn a_sample_above_the_limit_is_named() {
        let mut n = 0;
        let tide = Sampler::start("the tide", move || {
            n += 1;
            std::future::ready(Some(n))
        });
        tokio::time::sleep(EVERY * 4).await;
        tide.stop().await.never_above(2);
    }

    #[test]
    fn a_metric_is_found_by_its_name_and_queue() {
        let page = "# HELP a b\na_total{queue=\"y\"} 1\na{otel_scope_name=\"t\",queue=\"x\"} 2\na{queue=\"y\"} 3.5\n";
        assert_eq!(metric(page, "a", "y"), Some(3.5));
        assert_eq!(metric(page, "a", "z"), None);
        assert_eq!(sum(page, "a", &[]), 5.5);
        assert_eq!(sum(page, "a_total", &[("queue", "y")]), 1.0);
        assert_eq!(sum(page, "a", &[("queue", "z")]), 0.0);
    }
}
