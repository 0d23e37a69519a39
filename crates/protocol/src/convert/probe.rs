//! Probes as operators declare them. Nothing that is secret may be in one: it is stored, shown and logged.

use crate::{
    domain::{PgbouncerProbe, PostgresProbe, Probe, PrometheusProbe},
    v1::{self, resource::Probe as Wire},
};

/// Only variables that are called so can be named: else a probe could send any of the controller's secrets anywhere.
pub const PROBE_ENV_PREFIX: &str = "TIDEGATE_PROBE_";
const NAME_CHARS_MAX: usize = 100;
const URL_CHARS_MAX: usize = 2_000;
const QUERY_CHARS_MAX: usize = 4_000;
const POSTGRES: &[&str] = &["postgres", "postgresql"];
const HTTP: &[&str] = &["http", "https"];

/// Calls `wrong` with the field below `probe` and what is wrong with it, for each mistake.
pub(super) fn violations(probe: &Probe, wrong: &mut dyn FnMut(&str, &str)) {
    let mut found = |field: &str, verdict: Result<(), String>| {
        if let Err(message) = verdict {
            wrong(field, &message);
        }
    };
    match probe {
        Probe::Static | Probe::Workers => {}
        Probe::Postgres(probe) => {
            found("postgres.url", url(&probe.url, POSTGRES));
            found("postgres.role", text(&probe.role, NAME_CHARS_MAX));
            found(
                "postgres.application_name",
                text(&probe.application_name, NAME_CHARS_MAX),
            );
            found("postgres.password_env", env(&probe.password_env));
        }
        Probe::Pgbouncer(probe) => {
            found("pgbouncer.url", url(&probe.url, POSTGRES));
            found("pgbouncer.database", text(&probe.database, NAME_CHARS_MAX));
            found("pgbouncer.password_env", env(&probe.password_env));
        }
        Probe::Prometheus(probe) => {
            found("prometheus.url", url(&probe.url, HTTP));
            found("prometheus.query", query(&probe.query));
            found("prometheus.token_env", env(&probe.token_env));
        }
    }
}

fn url(text: &str, schemes: &[&str]) -> Result<(), String> {
    let expected = || format!("must be {}://HOST:PORT", schemes[0]);
    let (scheme, rest) = text.split_once("://").ok_or_else(expected)?;
    if !schemes.contains(&scheme)
        || text.chars().count() > URL_CHARS_MAX
        || text.contains(char::is_whitespace)
    {
        return Err(expected());
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if host.is_empty() || host.starts_with(':') {
        return Err("names no host".to_owned());
    }
    if user.contains(':') || rest.to_lowercase().contains("password") {
        return Err(
            "must hold no password, because it is stored and shown: name the variable that holds it"
                .to_owned(),
        );
    }
    Ok(())
}

fn text(text: &str, chars: usize) -> Result<(), String> {
    if text.chars().count() > chars || text.contains(char::is_control) {
        return Err(format!("must have at most {chars} printable characters"));
    }
    Ok(())
}

fn query(query: &str) -> Result<(), String> {
    if query.trim().is_empty() {
        return Err("must be an instant query that gives the units in use".to_owned());
    }
    if query.chars().count() > QUERY_CHARS_MAX {
        return Err(format!("must have at most {QUERY_CHARS_MAX} characters"));
    }
    Ok(())
}

fn env(name: &str) -> Result<(), String> {
    let is_word = |name: &str| {
        let fits = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        !name.is_empty() && name.len() <= NAME_CHARS_MAX && name.chars().all(fits) && !name.contains("__")
    };
    if name.is_empty() || name.strip_prefix(PROBE_ENV_PREFIX).is_some_and(is_word) {
        return Ok(());
    }
    Err(format!(
        "must be the name of a variable of the controller: {PROBE_ENV_PREFIX} and capitals, digits and single underscores"
    ))
}

/// Values are not checked.
pub(super) fn from_wire(wire: Option<Wire>) -> Probe {
    match wire {
        None | Some(Wire::Static(_)) => Probe::Static,
        Some(Wire::Workers(_)) => Probe::Workers,
        Some(Wire::Postgres(wire)) => Probe::Postgres(PostgresProbe {
            url: wire.url,
            role: wire.role,
            application_name: wire.application_name,
            password_env: wire.password_env,
        }),
        Some(Wire::Pgbouncer(wire)) => Probe::Pgbouncer(PgbouncerProbe {
            url: wire.url,
            database: wire.database,
            password_env: wire.password_env,
        }),
        Some(Wire::Prometheus(wire)) => Probe::Prometheus(PrometheusProbe {
            url: wire.url,
            query: wire.query,
            token_env: wire.token_env,
        }),
    }
}

pub(super) fn to_wire(probe: Probe) -> Wire {
    match probe {
        Probe::Static => Wire::Static(v1::StaticProbe {}),
        Probe::Workers => Wire::Workers(v1::WorkersProbe {}),
        Probe::Postgres(probe) => Wire::Postgres(v1::PostgresProbe {
            url: probe.url,
            role: probe.role,
            application_name: probe.application_name,
            password_env: probe.password_env,
        }),
        Probe::Pgbouncer(probe) => Wire::Pgbouncer(v1::PgbouncerProbe {
            url: probe.url,
            database: probe.database,
            password_env: probe.password_env,
        }),
        Probe::Prometheus(probe) => Wire::Prometheus(v1::PrometheusProbe {
            url: probe.url,
            query: probe.query,
            token_env: probe.token_env,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(probe: Probe) -> Vec<String> {
        let mut found = Vec::new();
        violations(&probe, &mut |field, message| {
            found.push(format!("{field}: {message}"))
        });
        found
    }

    #[test]
    fn a_secret_in_a_probe_is_refused_and_the_field_named() {
        let postgres = |url: &str, password_env: &str| {
            Probe::Postgres(PostgresProbe {
                url: url.to_owned(),
                password_env: password_env.to_owned(),
                ..PostgresProbe::default()
            })
        };
        assert_eq!(
            wrong(postgres(
                "postgres://monitor@db:5432/app",
                "TIDEGATE_PROBE_PG_MAIN"
            )),
            [""; 0]
        );
        for (url, env, expected) in [
            (
                "postgres://monitor:hunter2@db/app",
                "",
                "postgres.url: must hold no password",
            ),
            (
                "postgres://db/app?user=a&password=hunter2",
                "",
                "postgres.url: must hold no password",
            ),
            ("mysql://db/app", "", "postgres.url: must be postgres://"),
            ("postgres:///app", "", "postgres.url: names no host"),
            ("", "", "postgres.url: must be postgres://"),
            (
                "postgres://db",
                "DATABASE_URL",
                "postgres.password_env: must be the name",
            ),
            (
                "postgres://db",
                "TIDEGATE_PROBE_",
                "postgres.password_env: must be the name",
            ),
            (
                "postgres://db",
                "TIDEGATE_PROBE_A__B",
                "postgres.password_env: must be the name",
            ),
        ] {
            let found = wrong(postgres(url, env));
            assert!(
                found.len() == 1 && found[0].starts_with(expected),
                "{url} {env}: {found:?}"
            );
            assert!(!found[0].contains("hunter2"), "{found:?}");
        }
    }

    #[test]
    fn a_query_must_be_there() {
        let probe = Probe::Prometheus(PrometheusProbe {
            url: "http://prometheus:9090".to_owned(),
            ..PrometheusProbe::default()
        });
        assert!(wrong(probe)[0].starts_with("prometheus.query: must be an instant query"));
    }
}
