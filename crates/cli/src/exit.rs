//! Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 rejected, 5 unavailable, 6 timeout, 7 denied.

use std::process::ExitCode;

use tidegate_chassis::config::ConfigError;
use tidegate_client::ClientError;
use tidegate_router::RunError;

/// A mistake in what was typed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// The job did not succeed; everything there is to say has been printed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Failed(pub String);

/// Prints what went wrong and turns it into the code.
pub fn report(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(code(&error))
        }
    }
}

fn code(error: &anyhow::Error) -> u8 {
    if let Some(error) = error.downcast_ref::<ClientError>() {
        return client_code(error);
    }
    if let Some(error) = error.downcast_ref::<RunError>() {
        return error.exit_code();
    }
    if let Some(error) = error.downcast_ref::<tidegate_worker::RunError>() {
        return error.exit_code();
    }
    if let Some(error) = error.downcast_ref::<tidegate_controller::RunError>() {
        return error.exit_code();
    }
    if error.is::<Usage>() || error.is::<ConfigError>() {
        2
    } else {
        1
    }
}

pub fn client_code(error: &ClientError) -> u8 {
    match error {
        ClientError::InvalidArgument { .. } | ClientError::InvalidEndpoint { .. } => 2,
        ClientError::NotFound { .. } => 3,
        ClientError::Backpressure { .. } => 4,
        ClientError::Unavailable { .. } => 5,
        ClientError::Timeout { .. } => 6,
        ClientError::Denied { .. } => 7,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_by_error() {
        let text = String::new;
        let cases = [
            (
                ClientError::InvalidArgument {
                    reason: text(),
                    message: text(),
                },
                2,
            ),
            (
                ClientError::NotFound {
                    reason: text(),
                    message: text(),
                },
                3,
            ),
            (
                ClientError::Unavailable {
                    reason: text(),
                    message: text(),
                    retry_after: None,
                },
                5,
            ),
            (ClientError::Timeout { message: text() }, 6),
            (
                ClientError::Denied {
                    reason: text(),
                    message: text(),
                },
                7,
            ),
            (ClientError::KeyReused { message: text() }, 1),
        ];
        for (error, expected) in cases {
            assert_eq!(code(&anyhow::Error::from(error.clone())), expected, "{error:?}");
        }
        assert_eq!(code(&Usage("no".into()).into()), 2);
        assert_eq!(code(&anyhow::anyhow!("no")), 1);
    }
}
