//! Payloads checked against the JSON Schema that their queue declares. Without the crate's feature `schema` a queue that
//! declares one is refused at start: a check that silently does not happen is worse than none.

use std::sync::Arc;

use crate::{Delivery, WorkerError};

#[cfg(feature = "schema")]
mod checked {
    use std::sync::Arc;

    use async_trait::async_trait;
    use jsonschema::Validator;
    use serde_json::Value;

    use crate::{Delivery, Job, JobError, Verdict};

    /// Errors of one payload that are told; more help nobody.
    const ERRORS_MAX: usize = 3;

    pub(super) struct Checked {
        pub(super) schema: Validator,
        pub(super) inner: Arc<dyn Delivery>,
    }

    #[async_trait]
    impl Delivery for Checked {
        async fn deliver(&self, job: Job) -> Verdict {
            match self.check(&job.payload) {
                Ok(()) => self.inner.deliver(job).await,
                Err(error) => JobError::invalid(error).into(),
            }
        }
    }

    impl Checked {
        fn check(&self, payload: &[u8]) -> Result<(), String> {
            let payload: Value = serde_json::from_slice(payload)
                .map_err(|error| format!("the payload is no JSON: {error}"))?;
            if self.schema.is_valid(&payload) {
                return Ok(());
            }
            let errors = self.schema.iter_errors(&payload).take(ERRORS_MAX);
            let errors: Vec<String> = errors
                .map(|error| match error.instance_path().as_str() {
                    "" => error.to_string(),
                    path => format!("at {path}: {error}"),
                })
                .collect();
            Err(format!(
                "the payload does not match the queue's schema: {}",
                errors.join("; ")
            ))
        }
    }
}

/// `inner`, called only with payloads that match.
#[cfg(feature = "schema")]
pub(crate) fn checked(
    queue: &str,
    schema: &str,
    inner: Arc<dyn Delivery>,
) -> Result<Arc<dyn Delivery>, WorkerError> {
    let invalid = |message: String| WorkerError::InvalidSchema {
        queue: queue.to_owned(),
        message,
    };
    let schema = serde_json::from_str(schema).map_err(|error| invalid(error.to_string()))?;
    let schema = jsonschema::validator_for(&schema).map_err(|error| invalid(error.to_string()))?;
    Ok(Arc::new(checked::Checked { schema, inner }))
}

#[cfg(not(feature = "schema"))]
pub(crate) fn checked(
    queue: &str,
    _schema: &str,
    _inner: Arc<dyn Delivery>,
) -> Result<Arc<dyn Delivery>, WorkerError> {
    Err(WorkerError::InvalidSchema {
        queue: queue.to_owned(),
        message: "this worker was built without the feature `schema` of tidegate-worker".to_owned(),
    })
}
