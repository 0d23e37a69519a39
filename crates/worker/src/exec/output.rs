//! What is kept of a command's output. All of it is read, so that a command never waits for us; it can write without end
//! all the same, until its time is up.

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt};

const CHUNK: usize = 16 * 1024;

/// The first `max` bytes, and whether there were more.
pub(super) async fn head(mut from: impl AsyncRead + Unpin, max: usize) -> (Bytes, bool) {
    let (mut kept, mut cut) = (Vec::new(), false);
    let mut chunk = vec![0; CHUNK];
    while let Ok(read @ 1..) = from.read(&mut chunk).await {
        let taken = read.min(max - kept.len());
        kept.extend_from_slice(&chunk[..taken]);
        cut |= taken < read;
    }
    (kept.into(), cut)
}

/// The last `max` bytes as text. `line` gets the last line that has come so far.
pub(super) async fn tail(mut from: impl AsyncRead + Unpin, max: usize, line: impl Fn(&str)) -> String {
    let mut kept: Vec<u8> = Vec::new();
    let mut chunk = vec![0; CHUNK];
    while let Ok(read @ 1..) = from.read(&mut chunk).await {
        kept.extend_from_slice(&chunk[..read]);
        kept.drain(..kept.len().saturating_sub(max));
        line(String::from_utf8_lossy(&kept).lines().last().unwrap_or_default());
    }
    String::from_utf8_lossy(&kept).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_head_and_the_tail_are_bounded() {
        let long: Vec<u8> = (0..100_000_u32).map(|n| b'a' + (n % 26) as u8).collect();
        let (kept, cut) = head(&long[..], 65_536).await;
        assert_eq!((&kept[..], cut), (&long[..65_536], true));
        let (kept, cut) = head(&long[..10], 10).await;
        assert_eq!((&kept[..], cut), (&long[..10], false));
        let end = tail(&long[..], 1_000, |_| {}).await;
        assert_eq!(end.as_bytes(), &long[99_000..]);
        assert_eq!(
            tail(&b"one\ntwo\n"[..], 1_000, |line| assert_eq!(line, "two")).await,
            "one\ntwo"
        );
    }
}
