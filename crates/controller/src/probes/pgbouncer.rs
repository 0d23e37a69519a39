//! Server connections of a PgBouncer, by `SHOW POOLS` of its console.
//!
//! What a client waits for is a server connection, so those at work are in use; idle ones are anybody's. The console takes
//! the simple protocol only, and refuses start parameters that it does not know.

use sqlx::{
    Connection, PgConnection, Row,
    postgres::{PgConnectOptions, PgRow},
};
use tidegate_protocol::domain::PgbouncerProbe;

use super::{ProbeError, Secret, postgres::connect_options};
use crate::core::Reading;

/// The console is a database of this name.
const CONSOLE: &str = "pgbouncer";
/// Server connections that nobody else can have now: at work, being tested, or logging in. Their names since 1.18.
const IN_USE: [&str; 3] = ["sv_active", "sv_tested", "sv_login"];
/// Clients that wait for one.
const WAITING: &str = "cl_waiting";

/// Keeps its connection from look to look.
pub struct Pgbouncer {
    options: PgConnectOptions,
    database: String,
    connection: Option<PgConnection>,
}

impl Pgbouncer {
    pub fn new(probe: &PgbouncerProbe, password: Option<&Secret>) -> Result<Self, ProbeError> {
        let options = connect_options(&probe.url, password)?
            .database(CONSOLE)
            .extra_float_digits(None)
            .ssl_mode(sqlx::postgres::PgSslMode::Prefer);
        Ok(Self {
            options,
            database: probe.database.clone(),
            connection: None,
        })
    }

    pub async fn look(&mut self) -> Result<Reading, ProbeError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => PgConnection::connect_with(&self.options)
                .await
                .map_err(ProbeError::sql)?,
        };
        let rows = sqlx::raw_sql("SHOW POOLS")
            .fetch_all(&mut connection)
            .await
            .map_err(ProbeError::sql)?;
        let (mut in_use, mut waiters, mut pools) = (0.0, 0.0, 0);
        for row in &rows {
            let database: String = row.try_get("database").map_err(ProbeError::sql)?;
            let is_ours = match self.database.as_str() {
                "" => database != CONSOLE,
                ours => database == ours,
            };
            if !is_ours {
                continue;
            }
            pools += 1;
            waiters += number(row, WAITING)?;
            for column in IN_USE {
                in_use += number(row, column)?;
            }
        }
        // A pool is made when it is first used, so none is no mistake; another database's name may be.
        if pools == 0 && !self.database.is_empty() && !self.knows_database(&mut connection).await? {
            return Err(ProbeError::Answer(format!(
                "there is no database {:?}",
                self.database
            )));
        }
        self.connection = Some(connection);
        Ok(Reading {
            in_use,
            waiters: Some(waiters),
            ..Reading::default()
        })
    }

    async fn knows_database(&self, connection: &mut PgConnection) -> Result<bool, ProbeError> {
        let rows = sqlx::raw_sql("SHOW DATABASES")
            .fetch_all(connection)
            .await
            .map_err(ProbeError::sql)?;
        let names = rows
            .iter()
            .filter_map(|row| row.try_get::<String, _>("name").ok());
        Ok(names.into_iter().any(|name| name == self.database || name == "*"))
    }
}

/// Whole numbers are 4 or 8 bytes wide, as the version likes.
fn number(row: &PgRow, column: &str) -> Result<f64, ProbeError> {
    let wide = row.try_get::<i64, _>(column).map(|number| number as f64);
    wide.or_else(|_| row.try_get::<i32, _>(column).map(f64::from))
        .map_err(ProbeError::sql)
}
