//! A job as it is kept: a head of fixed size that the operations read and rewrite, then key, meta (headers and trace
//! context), payload, error and result. `lua/lib.lua` has the same layout in `HEAD`.
//!
//! Numbers are big-endian and below 2^53, because Lua's are doubles; times beyond that (285,000 years) are cut to it.

use bytes::{BufMut, Bytes};
use tidegate_protocol::{
    domain::{Incarnation, Job, JobId, JobState, Lane, Lease, OutcomeKind, Session, Settled},
    reason,
};
use uuid::Uuid;

use super::keys;
use crate::{StoreError, StoreResult};

const FORMAT_VERSION: u8 = 1;
pub(crate) const HEAD_BYTES: usize = 162;
/// Place in the ready list, created, due and ran, which the store writes when a job enters.
pub(crate) const TIMES: std::ops::Range<usize> = 26..58;
const NUMBER_MAX: u64 = (1 << 53) - 1;

const WANT_RESULT: u8 = 1;
const HAS_KEY: u8 = 2;

const TRACEPARENT: u8 = 1;
const TRACESTATE: u8 = 2;

/// By the code in the head; `life.lua` has the same numbers.
const REASONS: [&str; 6] = [
    "",
    reason::ATTEMPTS_EXHAUSTED,
    reason::FAILED,
    reason::INVALID,
    reason::LEASE_LOST,
    reason::PARKED_TOO_LONG,
];

/// A number that survives being a double.
pub(crate) fn number(n: u64) -> u64 {
    n.min(NUMBER_MAX)
}

/// A job's blob; its place in a ready list is not part of a [`Job`] and written as 0.
pub(crate) fn encode(job: &Job) -> Vec<u8> {
    let meta = encode_meta(job);
    let key = job.idempotency_key.as_deref().unwrap_or_default();
    let lease = job.lease.as_ref();
    let mut out =
        Vec::with_capacity(HEAD_BYTES + key.len() + meta.len() + job.payload.len() + job.result.len());
    out.put_u8(FORMAT_VERSION);
    out.put_u8(job.state.code());
    out.put_u8(job.lane as u8);
    out.put_u8(
        if job.want_result { WANT_RESULT } else { 0 }
            | if job.idempotency_key.is_some() { HAS_KEY } else { 0 },
    );
    out.put_u8(
        REASONS
            .iter()
            .position(|reason| *reason == job.reason)
            .unwrap_or_default() as u8,
    );
    out.put_u8(job.settled.map_or(0, |settled| settled.outcome.code()));
    out.put_u32(job.attempts);
    out.put_u32(job.losses);
    out.put_u32(job.releases);
    let seq = 0;
    let settled = job.settled.map_or(0, |settled| settled.fence);
    for n in [
        job.fence,
        seq,
        job.created_ms,
        job.due_ms,
        job.ran_ms,
        job.deadline_ms,
        job.finished_ms,
        settled,
    ] {
        out.put_u64(number(n));
    }
    out.put_slice(lease.map_or(Uuid::nil(), |lease| lease.session.0).as_bytes());
    out.put_slice(lease.map_or(Uuid::nil(), |lease| lease.incarnation.0).as_bytes());
    out.put_slice(
        job.loss_incarnation
            .map_or(Uuid::nil(), |incarnation| incarnation.0)
            .as_bytes(),
    );
    out.put_slice(&job.payload_hash);
    out.put_u16(keys::part(key));
    out.put_u16(key.len() as u16);
    for length in [meta.len(), job.error.len(), job.result.len()] {
        out.put_u32(length as u32);
    }
    for part in [
        key.as_bytes(),
        &meta,
        &job.payload,
        job.error.as_bytes(),
        &job.result,
    ] {
        out.put_slice(part);
    }
    out
}

/// Empty for a job without headers and trace context.
fn encode_meta(job: &Job) -> Vec<u8> {
    let mut out = Vec::new();
    let (parent, state) = (&job.traceparent, &job.tracestate);
    if job.headers.is_empty() && parent.is_none() && state.is_none() {
        return out;
    }
    let put = |out: &mut Vec<u8>, text: &str| {
        out.put_u32(text.len() as u32);
        out.put_slice(text.as_bytes());
    };
    out.put_u8(if parent.is_some() { TRACEPARENT } else { 0 } | if state.is_some() { TRACESTATE } else { 0 });
    for text in [parent, state].into_iter().flatten() {
        put(&mut out, text);
    }
    for (name, value) in &job.headers {
        put(&mut out, name);
        put(&mut out, value);
    }
    out
}

/// Of a job as listed: payload and result were left out.
pub(crate) fn decode_summary(id: JobId, blob: Vec<u8>, until_ms: u64) -> StoreResult<Job> {
    decode_parts(id, Bytes::from(blob), until_ms, false)
}

/// `until_ms`: when its lease ends, which the blob does not say.
pub(crate) fn decode(id: JobId, blob: Vec<u8>, until_ms: u64) -> StoreResult<Job> {
    decode_parts(id, Bytes::from(blob), until_ms, true)
}

fn decode_parts(id: JobId, blob: Bytes, until_ms: u64, whole: bool) -> StoreResult<Job> {
    let corrupt = |what: &str| StoreError::Corrupt(format!("job {id}: {what}"));
    let mut reader = Reader(&blob);
    let head = Head::read(&mut reader).ok_or_else(|| corrupt("cut off"))?;
    if head.version != FORMAT_VERSION {
        return Err(corrupt(&format!("unknown format {}", head.version)));
    }
    let key = reader.text(head.key_len).ok_or_else(|| corrupt("key"))?;
    let meta = reader
        .take(head.meta_len)
        .and_then(Meta::read)
        .ok_or_else(|| corrupt("headers"))?;
    let result_len = if whole { head.result_len } else { 0 };
    let payload_len = reader
        .0
        .len()
        .checked_sub(head.error_len + result_len)
        .ok_or_else(|| corrupt("length"))?;
    let payload = blob.slice_ref(reader.take(payload_len).ok_or_else(|| corrupt("payload"))?);
    let error = reader.text(head.error_len).ok_or_else(|| corrupt("error"))?;
    let result = blob.slice_ref(reader.take(result_len).ok_or_else(|| corrupt("result"))?);
    let state = JobState::from_code(head.state).ok_or_else(|| corrupt("state"))?;
    let [
        fence,
        _seq,
        created_ms,
        due_ms,
        ran_ms,
        deadline_ms,
        finished_ms,
        settled_fence,
    ] = head.numbers;
    let [session, incarnation, blamed] = head.ids;
    let lease = Lease {
        session: Session(session),
        incarnation: Incarnation(incarnation),
        until_ms,
    };
    Ok(Job {
        state,
        lane: if head.lane == 0 { Lane::First } else { Lane::Retry },
        payload,
        payload_hash: head.hash,
        headers: meta.headers,
        idempotency_key: (head.flags & HAS_KEY != 0).then_some(key),
        want_result: head.flags & WANT_RESULT != 0,
        traceparent: meta.traceparent,
        tracestate: meta.tracestate,
        attempts: head.attempts,
        losses: head.losses,
        loss_incarnation: (!blamed.is_nil()).then_some(Incarnation(blamed)),
        releases: head.releases,
        fence,
        created_ms,
        due_ms,
        ran_ms,
        deadline_ms,
        finished_ms,
        lease: (state == JobState::Running).then_some(lease),
        settled: OutcomeKind::from_code(head.outcome).map(|outcome| Settled {
            fence: settled_fence,
            outcome,
        }),
        error,
        reason: REASONS
            .get(usize::from(head.reason))
            .ok_or_else(|| corrupt("reason"))?
            .to_string(),
        result,
        id,
    })
}

struct Head {
    version: u8,
    state: u8,
    lane: u8,
    flags: u8,
    reason: u8,
    outcome: u8,
    attempts: u32,
    losses: u32,
    releases: u32,
    numbers: [u64; 8],
    ids: [Uuid; 3],
    hash: [u8; 16],
    key_len: usize,
    meta_len: usize,
    error_len: usize,
    result_len: usize,
}

impl Head {
    fn read(from: &mut Reader<'_>) -> Option<Self> {
        let [version, state, lane, flags, reason, outcome] = from.array()?;
        let (attempts, losses, releases) = (from.u32()?, from.u32()?, from.u32()?);
        let mut numbers = [0; 8];
        for n in &mut numbers {
            *n = u64::from_be_bytes(from.array()?);
        }
        let ids = [from.array()?, from.array()?, from.array()?].map(Uuid::from_bytes);
        let hash = from.array()?;
        let _part: [u8; 2] = from.array()?;
        let key_len = usize::from(u16::from_be_bytes(from.array()?));
        let [meta_len, error_len, result_len] = [from.u32()?, from.u32()?, from.u32()?].map(|n| n as usize);
        Some(Self {
            version,
            state,
            lane,
            flags,
            reason,
            outcome,
            attempts,
            losses,
            releases,
            numbers,
            ids,
            hash,
            key_len,
            meta_len,
            error_len,
            result_len,
        })
    }
}

#[derive(Default)]
struct Meta {
    traceparent: Option<String>,
    tracestate: Option<String>,
    headers: Vec<(String, String)>,
}

impl Meta {
    fn read(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() {
            return Some(Self::default());
        }
        let mut from = Reader(bytes);
        let [bits] = from.array()?;
        let mut text = || {
            let length = from.u32()? as usize;
            from.text(length)
        };
        let traceparent = if bits & TRACEPARENT != 0 {
            Some(text()?)
        } else {
            None
        };
        let tracestate = if bits & TRACESTATE != 0 {
            Some(text()?)
        } else {
            None
        };
        let mut headers = Vec::new();
        while !from.0.is_empty() {
            let mut text = || {
                let length = from.u32()? as usize;
                from.text(length)
            };
            headers.push((text()?, text()?));
        }
        Some(Self {
            traceparent,
            tracestate,
            headers,
        })
    }
}

/// Bytes that are still to be read; `None` where there are not enough.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn text(&mut self, n: usize) -> Option<String> {
        String::from_utf8(self.take(n)?.to_vec()).ok()
    }
}
