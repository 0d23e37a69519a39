//! The other users of the pool: calls of an API that come when they come, each for a connection for as long as it works,
//! and give up when they get none in a second.
//!
//! They keep connections that they have used for 5 s, as an API does. A new one with its first call takes 10 ms of a processor
//! (measured), a call on an old one half a millisecond: to open and close them would take more of a small machine than
//! everything else together.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use sqlx::postgres::PgConnectOptions;
use tidegate_sim::plan::Call;
use tidegate_worker::{
    FailureClass, PoolStats,
    postgres::{TargetPool, TargetPoolOptions, class_of},
};
use tokio::time::timeout;

use super::plant::API_NAME;
use crate::load::{Sent, open_loop};

/// What a caller waits for a connection.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// A call that takes longer than this has failed, whatever it waits for.
const CALL_MAX: Duration = Duration::from_secs(30);
/// After a refusal of the server calls queue for the connections that there are; then one more is tried again. Without a
/// pause a full server would be busy with refusing.
const REFUSED: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Done,
    /// No connection in time, refused by the server, or cut off.
    Failed,
}

/// Connections that are opened one by one, when the ones there are are all in use.
struct Api {
    pool: TargetPool,
    refused: Mutex<Option<Instant>>,
}

/// Makes the calls of a plan and waits for the last one; not those of stretches in which there is no server to call.
pub async fn calls(
    url: &str,
    capacity: u32,
    start: Instant,
    plan: &[Call],
    down_s: &[(f64, f64)],
) -> Vec<Sent<Answer>> {
    let connect: PgConnectOptions = url.parse().expect("a URL of the harness");
    let options = TargetPoolOptions {
        ceiling: capacity,
        acquire_timeout: WAIT_MAX,
        ..TargetPoolOptions::default()
    };
    let api = Arc::new(Api {
        pool: TargetPool::with(connect.application_name(API_NAME), options),
        refused: Mutex::default(),
    });
    let is_up = |call: &&Call| {
        !down_s
            .iter()
            .any(|(from, until)| (*from..*until).contains(&call.at))
    };
    let plan: Vec<Call> = plan.iter().filter(is_up).cloned().collect();
    let times: Vec<Duration> = plan.iter().map(|call| Duration::from_secs_f64(call.at)).collect();
    open_loop(start, &times, |number| {
        let (api, ms) = (api.clone(), 1_000.0 * plan[number].work);
        async move {
            let done = timeout(CALL_MAX, api.call(ms)).await;
            done.unwrap_or(Answer::Failed)
        }
    })
    .await
}

impl Api {
    async fn call(&self, ms: f64) -> Answer {
        let begun = Instant::now();
        loop {
            self.make_room();
            let left = WAIT_MAX.saturating_sub(begun.elapsed());
            let Ok(taken) = timeout(left, self.pool.acquire()).await else {
                return Answer::Failed;
            };
            let mut connection = match taken {
                Ok(connection) => connection,
                Err(error) if class_of(&error) == FailureClass::Overload => {
                    self.was_refused();
                    continue;
                }
                Err(_) => return Answer::Failed,
            };
            let work = sqlx::query("SELECT work($1)").bind(ms);
            return match work.execute(&mut *connection).await {
                Ok(_) => Answer::Done,
                Err(_) => Answer::Failed,
            };
        }
    }

    /// A connection more may be opened when all are in use, unless the server has just refused one.
    fn make_room(&self) {
        let refused = *self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.is_none_or(|at| at.elapsed() >= REFUSED) {
            let usage = self.pool.usage();
            self.pool.set_target(usage.in_use + usage.idle.max(1));
        }
    }

    /// There is no more to be had: for a moment callers queue for what the API has.
    fn was_refused(&self) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        let usage = self.pool.usage();
        self.pool.set_target(usage.in_use + usage.idle);
    }
}
