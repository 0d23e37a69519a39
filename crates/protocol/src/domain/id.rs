//! Names and ids. A job's id names its queue and shard, so any router finds any job in one step and a cluster of stores
//! can spread queues without a directory.

use std::{
    fmt,
    hash::{Hash, Hasher},
    str::FromStr,
    sync::Arc,
};

use uuid::Uuid;

use crate::limits::NAME_BYTES_MAX;

/// A valid queue (or resource) name: `[a-z0-9._-]{1,100}`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueName(Arc<str>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid name {0:?}: use 1 to 100 of a-z, 0-9, '.', '_' and '-'")]
pub struct InvalidQueueName(pub String);

impl QueueName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, for who keeps it too.
    pub fn shared(&self) -> Arc<str> {
        self.0.clone()
    }
}

impl FromStr for QueueName {
    type Err = InvalidQueueName;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let valid = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
        if s.is_empty() || s.len() > NAME_BYTES_MAX || !s.bytes().all(valid) {
            // The text goes into logs and answers: keep it short whatever was sent.
            return Err(InvalidQueueName(s.chars().take(NAME_BYTES_MAX).collect()));
        }
        Ok(Self(s.into()))
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl serde::Serialize for QueueName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> serde::Deserialize<'de> for QueueName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The part of a job's id that is unique within its queue and shard: a UUID (version 7 by routers, so ids sort by age).
pub type LocalId = Uuid;

/// A job's id. Text form: `<queue>:<shard>:<32 hex digits>`, e.g. `email:0:0190163d8694739b8e1cdbf4a7ee1b8e`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct JobId {
    pub queue: QueueName,
    pub shard: u16,
    pub local: LocalId,
}

/// Two jobs whose UUIDs are equal are rare enough: the queue's name need not be hashed with each look into a map.
impl Hash for JobId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.local.hash(state);
    }
}

impl JobId {
    /// The text form. The same as `to_string()`, made without the formatting machinery: several are made of each job.
    pub fn text(&self) -> String {
        let mut hex = [0; uuid::fmt::Simple::LENGTH];
        let hex = self.local.simple().encode_lower(&mut hex);
        let queue = self.queue.as_str();
        // With room for any shard.
        let mut text = String::with_capacity(queue.len() + hex.len() + 7);
        text.push_str(queue);
        text.push(':');
        match self.shard {
            0 => text.push('0'),
            shard => text.push_str(&shard.to_string()),
        }
        text.push(':');
        text.push_str(hex);
        text
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid job id {0:?}: expected <queue>:<shard>:<32 hex digits> as answered by submit")]
pub struct InvalidJobId(pub String);

impl FromStr for JobId {
    type Err = InvalidJobId;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidJobId(s.chars().take(160).collect());
        let mut parts = s.split(':');
        let (Some(queue), Some(shard), Some(local), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(invalid());
        };
        // One spelling per id: answers, keys and logs must compare as text.
        let hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        if local.len() != 32 || !local.bytes().all(hex) {
            return Err(invalid());
        }
        let id = Self {
            queue: queue.parse().map_err(|_| invalid())?,
            shard: shard.parse().map_err(|_| invalid())?,
            local: Uuid::try_parse(local).map_err(|_| invalid())?,
        };
        let is_plain = shard == "0" || shard.starts_with(|first| matches!(first, '1'..='9'));
        is_plain.then_some(id).ok_or_else(invalid)
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.queue, self.shard, self.local.simple())
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// One worker incarnation on one stream: who holds a lease now.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Session(pub Uuid);

/// One start of a worker process: it may open many sessions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Incarnation(pub Uuid);

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.simple())
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.simple())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn job_id_text_round_trips() {
        let text = "email.v2:0:0190163d8694739b8e1cdbf4a7ee1b8e";
        let id: JobId = text.parse().unwrap();
        assert_eq!((id.to_string().as_str(), id.text().as_str()), (text, text));
        assert_eq!(id.queue.as_str(), "email.v2");
    }

    #[test]
    fn other_spellings_of_an_id_are_refused() {
        for text in [
            "",
            "email",
            "email:0",
            "email:0:xyz",
            "email:00:0190163d8694739b8e1cdbf4a7ee1b8e",
            "email:+1:0190163d8694739b8e1cdbf4a7ee1b8e",
            "email:0:0190163D8694739B8E1CDBF4A7EE1B8E",
            "email:0:0190163d-8694-739b-8e1c-dbf4a7ee1b8e",
            "a:0:0190163d8694739b8e1cdbf4a7ee1b8e:x",
            "email:70000:0190163d8694739b8e1cdbf4a7ee1b8e",
            "E:0:0190163d8694739b8e1cdbf4a7ee1b8e",
        ] {
            assert!(text.parse::<JobId>().is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn names_that_could_collide_with_keys_are_refused() {
        for name in [
            "",
            "A",
            "a b",
            "a:b",
            "a{b}",
            "a*",
            "a\r\n",
            "ä",
            &"x".repeat(101),
        ] {
            assert!(name.parse::<QueueName>().is_err(), "{name:?} was taken");
        }
        assert!("a-b_c.9".parse::<QueueName>().is_ok());
    }
}
