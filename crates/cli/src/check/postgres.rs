//! A Postgres that jobs or the controller use.

use std::time::Duration;

use sqlx::{Connection, PgConnection, Row, postgres::PgConnectOptions};

use super::report::{Report, Status, unless};

const CONNECT_MAX: Duration = Duration::from_secs(3);
/// Statements of a worker that was cut off must end before its lease does: ttl 10 s, less a margin of 2 s.
const STATEMENT_MS_MAX: u64 = 8_000;
/// Above this share of its connections others are about to be refused.
const CONNECTIONS_SHARE_MAX: f64 = 0.8;

#[derive(Clone, Debug, Default)]
struct Facts {
    version: u32,
    is_replica: bool,
    /// Milliseconds; 0: never.
    client_check_ms: u64,
    statement_timeout_ms: u64,
    connections: u64,
    connections_max: u64,
}

pub(super) async fn check(report: &mut Report, url: &str) {
    let asked = tokio::time::timeout(CONNECT_MAX, ask(url)).await;
    match asked {
        Ok(Ok(facts)) => {
            report.ok(
                "postgres.reachable",
                format!("version {}", facts.version / 10_000),
            );
            judge(report, &facts);
        }
        // The text may quote the address, and with it a password.
        Ok(Err(error)) => report.failed_check(
            "postgres.reachable",
            format!("{}{}", place(url), reason(&error)),
            HINT,
        ),
        Err(_) => report.failed_check(
            "postgres.reachable",
            format!("{}no answer within 3 s", place(url)),
            HINT,
        ),
    }
}

/// Of an address, what is no secret.
fn place(url: &str) -> String {
    let options = url.parse::<PgConnectOptions>();
    options.map_or_else(
        |_| String::new(),
        |options| format!("{}:{}: ", options.get_host(), options.get_port()),
    )
}

const HINT: &str = "start it, or correct the address and the password (--postgres, DATABASE_URL)";

fn reason(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => error.message().to_owned(),
        sqlx::Error::Io(error) => error.to_string(),
        _ => "it cannot be talked to".to_owned(),
    }
}

async fn ask(url: &str) -> Result<Facts, sqlx::Error> {
    const LOOK: &str = "SELECT current_setting('server_version_num')::bigint, pg_is_in_recovery(), \
        coalesce((SELECT setting::bigint FROM pg_settings WHERE name = 'client_connection_check_interval'), 0), \
        (SELECT setting::bigint FROM pg_settings WHERE name = 'statement_timeout'), \
        (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'), \
        current_setting('max_connections')::bigint";
    let mut connection = PgConnection::connect(url).await?;
    let row = sqlx::query(LOOK)
        .persistent(false)
        .fetch_one(&mut connection)
        .await?;
    let number = |column: usize| -> Result<u64, sqlx::Error> {
        let number: i64 = row.try_get(column)?;
        Ok(u64::try_from(number).unwrap_or_default())
    };
    let facts = Facts {
        version: number(0)? as u32,
        is_replica: row.try_get(1)?,
        client_check_ms: number(2)?,
        statement_timeout_ms: number(3)?,
        connections: number(4)?,
        connections_max: number(5)?,
    };
    connection.close().await?;
    Ok(facts)
}

fn judge(report: &mut Report, facts: &Facts) {
    report.judge(
        "postgres.primary",
        if facts.is_replica {
            "a replica"
        } else {
            "a primary"
        },
        unless(
            facts.is_replica,
            Status::Failed,
            "fenced writes and the ledger need the primary: target_session_attrs=read-write",
        ),
    );
    report.judge(
        "postgres.client_check",
        format!("client_connection_check_interval {} ms", facts.client_check_ms),
        unless(
            facts.client_check_ms == 0,
            Status::Warning,
            "statements of a worker that died run on and hold their connection: \
             ALTER SYSTEM SET client_connection_check_interval = '1s' (Postgres 14 and newer)",
        ),
    );
    report.judge(
        "postgres.statement_timeout",
        format!("statement_timeout {} ms", facts.statement_timeout_ms),
        unless(
            facts.statement_timeout_ms == 0 || facts.statement_timeout_ms > STATEMENT_MS_MAX,
            Status::Warning,
            "a frozen worker's statement may outlive its lease: set it below 8 s for the jobs' role",
        ),
    );
    let share = facts.connections as f64 / facts.connections_max.max(1) as f64;
    report.judge(
        "postgres.connections",
        format!("{} of {} in use", facts.connections, facts.connections_max),
        unless(
            share > CONNECTIONS_SHARE_MAX,
            Status::Warning,
            "lower the resource's capacity, or raise max_connections; a pooler in between helps",
        ),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_hurt_are_named() {
        let good = Facts {
            version: 150_000,
            client_check_ms: 1_000,
            statement_timeout_ms: 5_000,
            connections: 10,
            connections_max: 100,
            is_replica: false,
        };
        let status = |facts: &Facts, id: &str| {
            let mut report = Report::default();
            judge(&mut report, facts);
            report.status_of(id)
        };
        for id in ["primary", "client_check", "statement_timeout", "connections"] {
            assert_eq!(status(&good, &format!("postgres.{id}")), Some(Status::Ok), "{id}");
        }
        let bad = Facts {
            is_replica: true,
            client_check_ms: 0,
            statement_timeout_ms: 0,
            connections: 90,
            ..good
        };
        assert_eq!(status(&bad, "postgres.primary"), Some(Status::Failed));
        for id in ["client_check", "statement_timeout", "connections"] {
            assert_eq!(
                status(&bad, &format!("postgres.{id}")),
                Some(Status::Warning),
                "{id}"
            );
        }
    }
}
