//! Wake-ups and finished jobs from whatever router caused them, over pub/sub.

use std::time::Duration;

use deadpool_redis::redis::{Client, Msg, RedisResult};
use futures_util::StreamExt;
use tidegate_protocol::domain::{JobId, QueueName};
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::keys;
use crate::{StoreEvent, wake::Events};

const RECONNECT_WAIT: Duration = Duration::from_millis(500);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A connection that died without a word is noticed after this long; meanwhile the routers' fallback poll serves.
const PING_EVERY: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(2);
const ID_BYTES: usize = 16;

#[allow(
    clippy::disallowed_methods,
    reason = "the store's one task; close() joins it, and without it the fallback poll serves"
)]
pub(super) fn listen(
    client: Client,
    mut eras: watch::Receiver<u64>,
    events: Events,
    stop: CancellationToken,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let listening = async {
            loop {
                eras.mark_unchanged();
                let heard = tokio::select! {
                    heard = hear(&client, &events) => heard,
                    // The name may lead to another server by now. Nobody who would change it: nothing does.
                    Ok(()) = eras.changed() => Ok(()),
                };
                if let Err(error) = heard {
                    tracing::warn!(%error, "the subscription to wake-ups broke; subscribing again");
                }
                tokio::time::sleep(RECONNECT_WAIT).await;
            }
        };
        stop.run_until_cancelled(listening).await;
    })
}

/// Subscribes and passes on what comes, until the connection ends.
async fn hear(client: &Client, events: &Events) -> RedisResult<()> {
    let connecting = async {
        let mut pubsub = client.get_async_pubsub().await?;
        pubsub.subscribe(&[keys::WAKE, keys::DONE][..]).await?;
        Ok::<_, super::link::ClientError>(pubsub)
    };
    let (mut sink, mut messages) = timeout(CONNECT_TIMEOUT, connecting)
        .await
        .map_err(|_| super::faults::connect_timeout())??
        .split();
    // Whatever was said before this moment was not heard.
    events.send(StoreEvent::Resync);
    let mut ping = tokio::time::interval(PING_EVERY);
    loop {
        tokio::select! {
            message = messages.next() => match message {
                Some(message) => pass_on(&message, events),
                None => return Ok(()),
            },
            _ = ping.tick() => {
                let answer = timeout(PING_TIMEOUT, sink.ping::<deadpool_redis::redis::Value>()).await;
                answer.map_err(|_| super::faults::connect_timeout())??;
            }
        }
    }
}

/// Others may publish on these channels: what cannot be read is no reason to stop listening.
fn pass_on(message: &Msg, events: &Events) {
    let bytes = message.get_payload_bytes();
    if message.get_channel_name() == keys::WAKE {
        if let Some(queue) = name(bytes) {
            events.send(StoreEvent::Wake(queue));
        }
    } else {
        finished(bytes)
            .unwrap_or_default()
            .into_iter()
            .for_each(|id| events.send(StoreEvent::Finished(id)));
    }
}

fn name(bytes: &[u8]) -> Option<QueueName> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

/// `<queue>:<shard>:`, then ids.
fn finished(bytes: &[u8]) -> Option<Vec<JobId>> {
    let mut parts = bytes.splitn(3, |byte| *byte == b':');
    let queue = name(parts.next()?)?;
    let shard = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
    let ids = parts.next()?.chunks_exact(ID_BYTES);
    let ids = ids.filter_map(|id| Uuid::from_slice(id).ok());
    Some(
        ids.map(|local| JobId {
            queue: queue.clone(),
            shard,
            local,
        })
        .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finished_jobs_are_read_whatever_their_ids_contain() {
        let (a, b) = (Uuid::from_bytes([b':'; 16]), Uuid::from_u128(7));
        let message = [b"email:0:".as_slice(), a.as_bytes(), b.as_bytes()].concat();
        let ids = finished(&message).unwrap();
        assert_eq!(ids.iter().map(|id| id.local).collect::<Vec<_>>(), [a, b]);
        assert_eq!(ids[0].queue.as_str(), "email");
        for other in ["", "email", "email:0", "EMAIL:0:x", "email:x:0123456789abcdef"] {
            assert!(finished(other.as_bytes()).is_none(), "{other}");
        }
    }
}
