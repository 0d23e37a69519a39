//! The queues' payload schemas, compiled once for each text.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use tidegate_protocol::{
    domain::{Policy, QueueName},
    schema::PayloadSchema,
};

/// See the [module](self). A shared handle.
#[derive(Default)]
pub(super) struct Schemas(RwLock<HashMap<QueueName, Arc<Compiled>>>);

#[derive(Debug)]
struct Compiled {
    text: String,
    /// `None`: it does not compile. Policies are checked where they are applied, so another version of Tidegate has
    /// stored it; work goes on without.
    schema: Option<PayloadSchema>,
}

impl Compiled {
    fn new(queue: &QueueName, text: &str) -> Self {
        let schema = match PayloadSchema::compile(text) {
            Ok(schema) => Some(schema),
            Err(error) => {
                tracing::error!(%queue, %error, "a stored payload schema was not taken: payloads are not checked");
                None
            }
        };
        let text = text.to_owned();
        Self { text, schema }
    }
}

/// A queue's schema, to be asked.
pub struct SchemaOf(Arc<Compiled>);

impl SchemaOf {
    pub fn get(&self) -> Option<&PayloadSchema> {
        self.0.schema.as_ref()
    }
}

impl Schemas {
    pub(super) fn replace<'a>(&self, all: impl Iterator<Item = (&'a QueueName, &'a Policy)>) {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        let with_schema = all.filter(|(_, policy)| !policy.payload_schema.is_empty());
        let fresh: HashMap<QueueName, Arc<Compiled>> = with_schema
            .map(|(queue, policy)| {
                let text = &policy.payload_schema;
                let same = known.get(queue).filter(|compiled| compiled.text == *text);
                let compiled = same
                    .cloned()
                    .unwrap_or_else(|| Arc::new(Compiled::new(queue, text)));
                (queue.clone(), compiled)
            })
            .collect();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = fresh;
    }

    pub(super) fn of(&self, queue: &QueueName) -> Option<SchemaOf> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.get(queue).cloned().map(SchemaOf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_compiled_once_and_a_new_one_anew() {
        let (schemas, queue) = (Schemas::default(), "email".parse().unwrap());
        let set = |text: &str| {
            let policy = Policy {
                payload_schema: text.into(),
                ..Policy::default()
            };
            schemas.replace([(&queue, &policy)].into_iter());
            schemas.of(&queue)
        };
        let (first, again) = (
            set(r#"{"type": "object"}"#).unwrap(),
            set(r#"{"type": "object"}"#).unwrap(),
        );
        assert!(Arc::ptr_eq(&first.0, &again.0));
        let next = set(r#"{"type": "array"}"#).unwrap();
        assert!(next.get().unwrap().violations(b"[]").is_empty());
        assert!(set("{").unwrap().get().is_none(), "told in the log");
        assert!(set("").is_none());
    }
}
