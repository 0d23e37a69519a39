//! What an error of the database says of it. By code where there is one, because texts are translated; by text where
//! several things share a code.
//!
//! | error | class |
//! |---|---|
//! | no connection of the pool in time | overload |
//! | 53300 too many connections, 53200 out of memory, 53400 | overload |
//! | 57014 statement timeout (not: cancelled by a user) | overload |
//! | PgBouncer: `query_wait_timeout`, `max_client_conn` | overload |
//! | refused, reset, no such host, no TLS, no answer | down |
//! | 08xxx, 57P01 to 57P03 (shutting down, crashed, starting) | down |
//! | 28xxx, 3D000: the login or the database is refused | down |
//! | 22xxx, 23xxx, 42xxx: data, constraints, SQL; a row that is not there or does not decode | job |
//! | everything else (deadlock, serialisation, lock timeout) | error |

use sqlx::Error;
use tidegate_protocol::domain::FailureClass;

/// Who is to blame for an error of the database.
///
/// `sqlx::PgPool` tries a refused connection again until its time is up and then says that the pool timed out, which looks
/// like overload; [`super::TargetPool`] tells the two apart.
pub fn class_of(error: &Error) -> FailureClass {
    match error {
        Error::PoolTimedOut => FailureClass::Overload,
        Error::Io(_) | Error::Tls(_) => FailureClass::Down,
        Error::Database(error) => of_code(error.code().as_deref().unwrap_or_default(), error.message()),
        Error::RowNotFound
        | Error::TypeNotFound { .. }
        | Error::ColumnIndexOutOfBounds { .. }
        | Error::ColumnNotFound(_)
        | Error::ColumnDecode { .. }
        | Error::Encode(_)
        | Error::Decode(_) => FailureClass::Job,
        _ => FailureClass::Error,
    }
}

fn of_code(code: &str, message: &str) -> FailureClass {
    // PgBouncer has one code for everything that it says itself.
    const POOLER_IS_FULL: [&str; 3] = [
        "query_wait_timeout",
        "max_client_conn",
        "max_db_client_connections",
    ];
    match code {
        "53200" | "53300" | "53400" => FailureClass::Overload,
        "57014" if message.contains("user request") => FailureClass::Error,
        "57014" => FailureClass::Overload,
        "08P01" if POOLER_IS_FULL.iter().any(|text| message.contains(text)) => FailureClass::Overload,
        "3D000" | "57P01" | "57P02" | "57P03" => FailureClass::Down,
        _ => match code.get(..2) {
            Some("08" | "28") => FailureClass::Down,
            Some("22" | "23" | "42") => FailureClass::Job,
            _ => FailureClass::Error,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn codes_and_texts_have_classes() {
        use FailureClass::{Down, Error, Job, Overload};
        for (code, message, class) in [
            ("53300", "sorry, too many clients already", Overload),
            ("53300", "too many connections for role \"app\"", Overload),
            (
                "53300",
                "remaining connection slots are reserved for non-replication superuser connections",
                Overload,
            ),
            ("53200", "out of memory", Overload),
            ("57014", "canceling statement due to statement timeout", Overload),
            ("57014", "canceling statement due to user request", Error),
            (
                "57014",
                "annulation de la requête à cause du délai écoulé pour l'exécution",
                Overload,
            ),
            ("08P01", "query_wait_timeout", Overload),
            ("08P01", "no more connections allowed (max_client_conn)", Overload),
            ("08P01", "pgbouncer cannot connect to server", Down),
            ("08006", "connection failure", Down),
            (
                "57P01",
                "terminating connection due to administrator command",
                Down,
            ),
            (
                "57P02",
                "terminating connection because of crash of another server process",
                Down,
            ),
            ("57P03", "the database system is starting up", Down),
            ("28P01", "password authentication failed for user \"app\"", Down),
            ("28000", "role \"app\" does not exist", Down),
            ("3D000", "database \"app\" does not exist", Down),
            ("40P01", "deadlock detected", Error),
            (
                "40001",
                "could not serialize access due to concurrent update",
                Error,
            ),
            ("55P03", "canceling statement due to lock timeout", Error),
            ("53100", "could not extend file: No space left on device", Error),
            (
                "57P05",
                "terminating connection due to idle-session timeout",
                Error,
            ),
            (
                "23505",
                "duplicate key value violates unique constraint \"a\"",
                Job,
            ),
            ("22001", "value too long for type character varying(3)", Job),
            ("42P01", "relation \"a\" does not exist", Job),
            ("", "", Error),
        ] {
            assert_eq!(of_code(code, message), class, "{code} {message}");
        }
    }

    #[test]
    fn errors_without_a_code_have_classes() {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert_eq!(class_of(&sqlx::Error::PoolTimedOut), FailureClass::Overload);
        assert_eq!(class_of(&sqlx::Error::Io(refused)), FailureClass::Down);
        assert_eq!(class_of(&sqlx::Error::RowNotFound), FailureClass::Job);
        assert_eq!(class_of(&sqlx::Error::WorkerCrashed), FailureClass::Error);
    }
}
