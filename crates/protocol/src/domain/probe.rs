//! How the use of a resource is measured.

use serde::{Deserialize, Serialize};

/// Where the numbers come from.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Probe {
    /// Not at all: what jobs hold is all there is.
    #[default]
    Static,
    /// By the pools that workers report.
    Workers,
    Postgres(PostgresProbe),
    Pgbouncer(PgbouncerProbe),
    Prometheus(PrometheusProbe),
}

/// Sessions of a Postgres server, by `pg_stat_activity`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PostgresProbe {
    /// `postgres://USER@HOST:PORT/DATABASE`, without a password.
    pub url: String,
    /// Whose sessions count; empty: everybody's.
    pub role: String,
    /// Sessions whose `application_name` begins so are the jobs'. Empty: as many as there are running jobs.
    pub application_name: String,
    /// The controller's variable that holds the password; with `_FILE` at its end, the file that does.
    pub password_env: String,
}

/// Server connections of a PgBouncer, by `SHOW POOLS`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PgbouncerProbe {
    /// `postgres://USER@HOST:PORT`, without a password; the user is one of `stats_users` or `admin_users`.
    pub url: String,
    /// Whose pools count; empty: all.
    pub database: String,
    /// As for [`PostgresProbe`].
    pub password_env: String,
}

/// The value of an instant query.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PrometheusProbe {
    /// `http://HOST:PORT` of the server; `/api/v1/query` is added.
    pub url: String,
    /// Gives one number: units in use by everybody.
    pub query: String,
    /// The controller's variable that holds a bearer token; with `_FILE` at its end, the file that does.
    pub token_env: String,
}

impl Probe {
    pub fn as_str(&self) -> &'static str {
        match self {
            Probe::Static => "static",
            Probe::Workers => "workers",
            Probe::Postgres(_) => "postgres",
            Probe::Pgbouncer(_) => "pgbouncer",
            Probe::Prometheus(_) => "prometheus",
        }
    }

    /// Whether the controller has to ask somebody.
    pub fn is_asked(&self) -> bool {
        !matches!(self, Probe::Static | Probe::Workers)
    }
}
