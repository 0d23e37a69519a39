//! The plant: a Postgres in which work takes connections and time, and next to no processor. Like the model's, it works at
//! full speed up to a knee; with `n` sessions at work beyond it each goes at `(knee / n) / (1 + 0.5 (n - knee) / knee)`.
//!
//! Everything is inside the server, so that whatever comes by whatever way meets the same: the table `plant` says what it
//! is like now, and changes while work goes on.

use std::sync::Arc;

use serde::Serialize;
use sqlx::{Connection, PgConnection};
use tokio::sync::Mutex;

use crate::Postgres;

/// Whose sessions they all are: the limit of this role is the pool.
pub const ROLE: &str = "app";
/// What the names of the sessions of jobs begin with, and of the other users'.
pub const JOBS_NAME: &str = "tg-worker";
pub const API_NAME: &str = "tg-api";
/// Who looks: it must be let in when everybody else is not.
pub const MONITOR: &str = "monitor";

/// Sessions at work are counted anew after 100 ms, by whoever comes first. The count is kept in sequences, because what is
/// set in one is seen by all at once, while a row would wait for its writer's transaction. Work is done in slices of 100 ms,
/// each at the speed of its beginning, so that a knee that moves, or others that come and go, slow down what is under way. All
/// time since the last slice counts as work, so that a busy machine does not make the plant slower than it is.
const SCHEMA: &str = "\
CREATE TABLE plant (knee float8 NOT NULL, refuse float8 NOT NULL DEFAULT 0, delay_ms float8 NOT NULL DEFAULT 0);
INSERT INTO plant VALUES (1000);
CREATE SEQUENCE plant_at_work MINVALUE 0;
CREATE SEQUENCE plant_counted_ms MINVALUE 0;

CREATE FUNCTION plant_speed() RETURNS float8 LANGUAGE plpgsql AS $$
DECLARE
  k float8; n float8; counted bigint;
  now_ms CONSTANT bigint := 1000 * extract(epoch FROM clock_timestamp());
BEGIN
  SELECT plant.knee, a.last_value, c.last_value INTO k, n, counted
    FROM plant, plant_at_work a, plant_counted_ms c;
  IF now_ms - counted >= 100 THEN
    PERFORM setval('plant_counted_ms', now_ms);
    PERFORM pg_stat_clear_snapshot();
    SELECT count(*) INTO n FROM pg_stat_get_activity(NULL) WHERE state = 'active' AND query LIKE 'SELECT work(%';
    PERFORM setval('plant_at_work', n::bigint);
  END IF;
  RETURN CASE WHEN n <= k THEN 1 ELSE k / n / (1 + 0.5 * (n - k) / k) END;
END $$;

CREATE FUNCTION work(ms float8) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  left_s float8 := ms / 1000;
  speed float8; seen timestamptz; now_at timestamptz;
  is_refused boolean; delay_s float8;
BEGIN
  SELECT random() < plant.refuse, plant.delay_ms / 1000 INTO is_refused, delay_s FROM plant;
  IF is_refused THEN
    RAISE EXCEPTION 'sorry, too much work already' USING ERRCODE = '53000';
  END IF;
  IF delay_s > 0 THEN
    PERFORM pg_sleep(delay_s);
  END IF;
  seen := clock_timestamp();
  WHILE left_s > 0.0005 LOOP
    speed := plant_speed();
    PERFORM pg_sleep(least(0.1, left_s / speed));
    now_at := clock_timestamp();
    left_s := left_s - speed * extract(epoch FROM now_at - seen);
    seen := now_at;
  END LOOP;
END $$;
GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC;
GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO PUBLIC;";

/// Sessions of the role at one moment, as the server knows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sessions {
    /// Of jobs, inside the function `work`.
    pub jobs_at_work: u32,
    /// Of everybody, idle ones too.
    pub all: u32,
}

/// What is done to the plant, and seen of it, in a session of the superuser, who has places of its own.
#[derive(Clone)]
pub struct Plant {
    session: Arc<Mutex<PgConnection>>,
}

impl Plant {
    /// Makes it in an empty server. `capacity`: sessions that jobs and others may have together.
    pub async fn make(postgres: &Postgres<'_>, capacity: u32) -> anyhow::Result<Self> {
        postgres.role(ROLE, capacity).await;
        postgres.role(MONITOR, 5).await;
        postgres
            .must(&format!("GRANT pg_monitor TO {MONITOR}; {SCHEMA}"))
            .await;
        Ok(Self {
            session: Arc::new(Mutex::new(PgConnection::connect(&postgres.url()).await?)),
        })
    }

    /// Sessions that work at full speed at once, from now on.
    pub async fn knee(&self, sessions: f64) -> anyhow::Result<()> {
        self.set("UPDATE plant SET knee = $1", sessions).await
    }

    /// The share of work that is refused as too much, from now on.
    pub async fn refuse(&self, share: f64) -> anyhow::Result<()> {
        self.set("UPDATE plant SET refuse = $1", share).await
    }

    /// What work that begins from now on waits first, whatever else there is.
    pub async fn delay_ms(&self, ms: f64) -> anyhow::Result<()> {
        self.set("UPDATE plant SET delay_ms = $1", ms).await
    }

    async fn set(&self, statement: &'static str, value: f64) -> anyhow::Result<()> {
        let mut session = self.session.lock().await;
        sqlx::query(statement).bind(value).execute(&mut *session).await?;
        Ok(())
    }

    pub async fn look(&self) -> Result<Sessions, sqlx::Error> {
        const LOOK: &str = "SELECT count(*) FILTER (WHERE state = 'active' AND query LIKE 'SELECT work(%' \
            AND application_name LIKE $2 || '%'), count(*) FROM pg_stat_get_activity(NULL) \
            WHERE usesysid = (SELECT oid FROM pg_roles WHERE rolname = $1)";
        let mut session = self.session.lock().await;
        let look = sqlx::query_as::<_, (i64, i64)>(LOOK).bind(ROLE).bind(JOBS_NAME);
        let (jobs, all) = look.fetch_one(&mut *session).await?;
        let count = |n: i64| u32::try_from(n).unwrap_or(u32::MAX);
        Ok(Sessions {
            jobs_at_work: count(jobs),
            all: count(all),
        })
    }
}
