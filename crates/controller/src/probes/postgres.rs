//! Sessions of a Postgres server, by `pg_stat_activity`.
//!
//! A monitoring role with `pg_monitor` sees every session; without it the server hides others' states, but still counts
//! them. Idle sessions count: they hold a connection, whoever may use it next.

use std::str::FromStr;

use sqlx::{
    ConnectOptions, Connection, PgConnection, Row,
    postgres::{PgConnectOptions, PgRow},
};
use tidegate_protocol::domain::PostgresProbe;

use super::{ProbeError, Secret};
use crate::core::Reading;

/// One look, in the text form of the simple protocol, so that it works through a pooler too. The role and the prefix are
/// bound as quoted literals: the simple protocol has no parameters.
const LOOK: &str = "\
select count(*)::bigint as sessions, \
  count(*) filter (where starts_with(application_name, @prefix@))::bigint as jobs, \
  count(*) filter (where wait_event_type = 'Lock')::bigint as waiters, \
  coalesce( \
    (select nullif(rolconnlimit, -1) from pg_roles where rolname = @role@), \
    current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int \
  )::bigint as connections, \
  (@role@ = '' or exists (select from pg_roles where rolname = @role@))::text as known, \
  (extract(epoch from clock_timestamp()) * 1000)::bigint as clock_ms \
from pg_stat_activity \
where backend_type = 'client backend' and pid <> pg_backend_pid() and (@role@ = '' or usename = @role@)";

/// Keeps its connection from look to look.
pub struct Postgres {
    options: PgConnectOptions,
    look: String,
    role: String,
    counts_jobs: bool,
    connection: Option<PgConnection>,
}

impl Postgres {
    pub fn new(probe: &PostgresProbe, password: Option<&Secret>) -> Result<Self, ProbeError> {
        let mut options = connect_options(&probe.url, password)?;
        // Its own sessions are told apart by people who look.
        options = options.application_name("tidegate-probe");
        Ok(Self {
            options,
            look: LOOK
                .replace("@role@", &literal(&probe.role))
                .replace("@prefix@", &literal(&probe.application_name)),
            role: probe.role.clone(),
            counts_jobs: !probe.application_name.is_empty(),
            connection: None,
        })
    }

    pub async fn look(&mut self) -> Result<Reading, ProbeError> {
        // Taken out, so that one that is left half used (an error, a deadline) is not used again.
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => PgConnection::connect_with(&self.options)
                .await
                .map_err(ProbeError::sql)?,
        };
        let row = one_row(&mut connection, &self.look).await?;
        let number = |name: &str| {
            row.try_get::<i64, _>(name)
                .map(|number| number as f64)
                .map_err(ProbeError::sql)
        };
        let known: String = row.try_get("known").map_err(ProbeError::sql)?;
        if known != "true" {
            return Err(ProbeError::Answer(format!("there is no role {:?}", self.role)));
        }
        let reading = Reading {
            in_use: number("sessions")?,
            by_jobs: self.counts_jobs.then(|| number("jobs")).transpose()?,
            waiters: Some(number("waiters")?),
            limit: Some(number("connections")?),
            stamp: Some(
                row.try_get::<i64, _>("clock_ms")
                    .map_err(ProbeError::sql)?
                    .unsigned_abs(),
            ),
            took_ms: 0.0,
        };
        self.connection = Some(connection);
        Ok(reading)
    }
}

pub(super) fn connect_options(url: &str, password: Option<&Secret>) -> Result<PgConnectOptions, ProbeError> {
    let mut options = PgConnectOptions::from_str(url).map_err(ProbeError::sql)?;
    if let Some(password) = password {
        options = options.password(password.expose());
    }
    // Statements of a monitor say nothing to the reader of a log.
    Ok(options.disable_statement_logging())
}

/// By the simple protocol.
pub(super) async fn one_row(connection: &mut PgConnection, sql: &str) -> Result<PgRow, ProbeError> {
    let rows = sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
        .fetch_all(connection)
        .await
        .map_err(ProbeError::sql)?;
    rows.into_iter()
        .next()
        .ok_or_else(|| ProbeError::Answer("it answers without a row".to_owned()))
}

/// As a text of SQL. A quote within is doubled; the E form makes a backslash the same for every setting of the server.
fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_quotes() {
        for (text, expected) in [
            ("app", "E'app'"),
            ("a'b", "E'a''b'"),
            ("a\\'; drop", "E'a\\\\''; drop'"),
        ] {
            assert_eq!(literal(text), expected);
        }
    }
}
