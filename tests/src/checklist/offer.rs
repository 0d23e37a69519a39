//! The load: each job at its time, each with a key of its own, and every fiftieth a second time.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use tidegate_client::{Client, ClientError};
use tidegate_protocol::domain::SubmitOutcome;

use super::{
    app::{Application, LONG, SHORT, Work},
    ground::Ground,
    plan::{Arrival, Kind, Plan},
};
use crate::load::open_loop;

/// One submit in so many is made twice.
const REPEAT_EVERY: usize = 50;

/// What became of one arrival.
pub struct Offered {
    pub arrival: Arrival,
    pub due: Instant,
    pub answer: Answer,
}

pub enum Answer {
    /// `repeat`: whether the second submit was known to be one, if there was a second.
    Admitted {
        repeat: Option<bool>,
    },
    /// Over capacity: try again later.
    Refused(String),
    Failed(String),
}

impl Offered {
    pub fn is_admitted(&self) -> bool {
        matches!(self.answer, Answer::Admitted { .. })
    }
}

/// Offers the whole plan, and slows the database down when it says so. In the order of [`Plan::arrivals`].
///
/// # Errors
/// An address that is none.
pub async fn offer(
    ground: &Ground<'_>,
    plan: &Plan,
    application: &Application,
) -> anyhow::Result<(Instant, Vec<Offered>)> {
    let client = Client::connect(ground.routers().to_vec())?;
    let run = uuid::Uuid::new_v4().simple().to_string();
    let arrivals = plan.arrivals();
    let dues: Vec<Duration> = arrivals.iter().map(|arrival| arrival.due).collect();
    let start = Instant::now();
    let sending = open_loop(start, &dues, |number| {
        submit(
            client.clone(),
            arrivals[number].kind,
            number,
            format!("{run}-{number}"),
        )
    });
    let slowing = async {
        for phase in &plan.phases {
            tokio::time::sleep_until((start + phase.from).into()).await;
            application.slow.store(phase.slow, Ordering::Relaxed);
        }
    };
    let (sent, ()) = tokio::join!(sending, slowing);
    let offered = sent.into_iter().map(|sent| Offered {
        arrival: arrivals[sent.number],
        due: sent.due,
        answer: sent.answer,
    });
    Ok((start, offered.collect()))
}

/// Once, or twice with the same key and another request id, as a producer that was restarted between the two would.
async fn submit(client: Client, kind: Kind, number: usize, key: String) -> Answer {
    let queue = match kind {
        Kind::Short => SHORT,
        Kind::Long => LONG,
    };
    let ms = kind.work_ms();
    let submit = || client.submit(&queue, Work { number, ms }).key(key.clone()).send();
    let first = match submit().await {
        Ok(first) => first,
        Err(ClientError::Backpressure { reason, .. }) => return Answer::Refused(reason),
        Err(error) => return Answer::Failed(error.to_string()),
    };
    if !number.is_multiple_of(REPEAT_EVERY) {
        return Answer::Admitted { repeat: None };
    }
    let is_known = submit()
        .await
        .is_ok_and(|second| second.outcome == SubmitOutcome::Duplicate && second.id == first.id);
    Answer::Admitted {
        repeat: Some(is_known),
    }
}
