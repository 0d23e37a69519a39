//! Answers of operations: anything but the expected form is [`StoreError::Corrupt`].

use deadpool_redis::redis::Value;
use uuid::Uuid;

use crate::{StoreError, StoreResult};

/// One value of an answer.
#[derive(Debug)]
pub(crate) struct Reply(pub Value);

fn unexpected(value: &Value, wanted: &str) -> StoreError {
    let kind = match value {
        Value::Nil => "nothing",
        Value::Int(_) => "a number",
        Value::BulkString(_) | Value::SimpleString(_) => "a text",
        Value::Array(_) => "a list",
        _ => "something else",
    };
    StoreError::Corrupt(format!("an operation answered {kind} instead of {wanted}"))
}

impl Reply {
    pub fn is_nil(&self) -> bool {
        matches!(self.0, Value::Nil)
    }

    pub fn is_text(&self) -> bool {
        matches!(self.0, Value::BulkString(_))
    }

    pub fn int(&self) -> StoreResult<i64> {
        match &self.0 {
            Value::Int(n) => Ok(*n),
            other => Err(unexpected(other, "a number")),
        }
    }

    /// A number, also one that came as text.
    pub fn number(&self) -> StoreResult<u64> {
        let number = match &self.0 {
            Value::Int(n) => u64::try_from(*n).ok(),
            Value::BulkString(bytes) => std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok()),
            _ => None,
        };
        number.ok_or_else(|| unexpected(&self.0, "a count"))
    }

    pub fn bytes(self) -> StoreResult<Vec<u8>> {
        match self.0 {
            Value::BulkString(bytes) => Ok(bytes),
            Value::SimpleString(text) => Ok(text.into_bytes()),
            other => Err(unexpected(&other, "a text")),
        }
    }

    pub fn uuid(self) -> StoreResult<Uuid> {
        let bytes = self.bytes()?;
        Uuid::from_slice(&bytes).map_err(|_| StoreError::Corrupt(format!("an id of {} bytes", bytes.len())))
    }

    pub fn list(self) -> StoreResult<Vec<Reply>> {
        match self.0 {
            Value::Array(values) => Ok(values.into_iter().map(Reply).collect()),
            other => Err(unexpected(&other, "a list")),
        }
    }

    /// Whatever texts there are in it.
    pub fn texts(self) -> Vec<String> {
        match self.0 {
            Value::BulkString(bytes) => vec![String::from_utf8_lossy(&bytes).into_owned()],
            Value::SimpleString(text) => vec![text],
            Value::Array(values) => values
                .into_iter()
                .flat_map(|value| Reply(value).texts())
                .collect(),
            Value::Map(pairs) => pairs
                .into_iter()
                .flat_map(|(_, value)| Reply(value).texts())
                .collect(),
            _ => Vec::new(),
        }
    }

    /// A list of exactly `N`.
    pub fn fixed<const N: usize>(self) -> StoreResult<[Reply; N]> {
        let list = self.list()?;
        let n = list.len();
        list.try_into()
            .map_err(|_| StoreError::Corrupt(format!("an operation answered {n} values instead of {N}")))
    }
}
