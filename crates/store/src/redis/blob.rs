//! A job as it is kept: a body that never changes, and a head that says what has become of it. A job that was submitted
//! and waits for nothing has no head yet. `lua/jobs.lua` has the same layout.
//!
//! Numbers are big-endian and below 2^53, because Lua's are doubles; times beyond that (285,000 years) are cut to it.

use bytes::{BufMut, Bytes};
use tidegate_protocol::{
    domain::{
        Incarnation, Job, JobId, JobState, Lane, Lease, NewJob, OutcomeKind, PayloadHash, Session, Settled,
    },
    reason,
};
use uuid::Uuid;

use crate::{StoreError, StoreResult, tail};

const FORMAT_VERSION: u8 = 2;
const NUMBER_MAX: u64 = (1 << 53) - 1;

const WANT_RESULT: u8 = 1;
const HAS_KEY: u8 = 2;

const TRACEPARENT: u8 = 1;
const TRACESTATE: u8 = 2;

/// By the code in the head; `life.lua` and `aside.lua` have the same numbers.
const REASONS: [&str; 7] = [
    "",
    reason::ATTEMPTS_EXHAUSTED,
    reason::FAILED,
    reason::INVALID,
    reason::LEASE_LOST,
    reason::PARKED_TOO_LONG,
    reason::UNREADABLE,
];

/// A number that survives being a double.
pub(crate) fn number(n: u64) -> u64 {
    n.min(NUMBER_MAX)
}

/// The body of a new job from its flags on; what stands before them is the store's to say.
pub(crate) fn put_body(out: &mut Vec<u8>, job: &NewJob) {
    let meta = encode_meta(job);
    let key = job.idempotency_key.as_deref().unwrap_or_default();
    let wanted = if job.want_result { WANT_RESULT } else { 0 };
    let keyed = if job.idempotency_key.is_some() { HAS_KEY } else { 0 };
    out.put_u8(FORMAT_VERSION << 4 | wanted | keyed);
    out.put_slice(&job.payload_hash);
    // Keys have 255 bytes at most.
    out.put_u8(key.len() as u8);
    out.put_u32(meta.len() as u32);
    out.put_slice(key.as_bytes());
    out.put_slice(&meta);
    out.put_slice(&job.payload);
}

/// Empty for a job without headers and trace context.
fn encode_meta(job: &NewJob) -> Vec<u8> {
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

/// The job that head and body describe; empty head = none. `until_ms`: when its lease ends, which neither says.
pub(crate) fn decode(id: JobId, head: &[u8], body: Bytes, until_ms: u64) -> StoreResult<Job> {
    let corrupt = |what: &str| StoreError::Corrupt(format!("job {id}: {what}"));
    let body = Body::read(body).map_err(|what| corrupt(&what))?;
    let mut reader = Reader(head);
    let head = match head.is_empty() {
        true => Head::first(),
        false => Head::read(&mut reader).ok_or_else(|| corrupt("cut off"))?,
    };
    if head.version != FORMAT_VERSION {
        return Err(corrupt(&unknown_format(head.version)));
    }
    let error = reader.text(head.error_len).ok_or_else(|| corrupt("error"))?;
    let state = JobState::from_code(head.state).ok_or_else(|| corrupt("state"))?;
    let (result, lost) = tail::read(state, reader.0).ok_or_else(|| corrupt("losses"))?;
    let [
        fence,
        _seq,
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
    let since = |ms| if ms == 0 { body.created_ms } else { ms };
    Ok(Job {
        state,
        lane: if head.lane == 0 { Lane::First } else { Lane::Retry },
        payload: body.payload,
        payload_hash: body.hash,
        headers: body.meta.headers,
        idempotency_key: body.key,
        want_result: body.want_result,
        traceparent: body.meta.traceparent,
        tracestate: body.meta.tracestate,
        attempts: head.attempts,
        losses: head.losses,
        loss_incarnation: (!blamed.is_nil()).then_some(Incarnation(blamed)),
        lost,
        releases: head.releases,
        fence,
        created_ms: body.created_ms,
        due_ms: since(due_ms),
        ran_ms: since(ran_ms),
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

fn unknown_format(version: u8) -> String {
    format!("unknown format {version}")
}

struct Body {
    created_ms: u64,
    want_result: bool,
    hash: PayloadHash,
    key: Option<String>,
    meta: Meta,
    payload: Bytes,
}

impl Body {
    fn read(whole: Bytes) -> Result<Self, String> {
        let mut from = Reader(&whole);
        let cut = || "cut off".to_owned();
        let created: [u8; 6] = from.array().ok_or_else(cut)?;
        let created_ms = created.iter().fold(0, |ms, byte| ms << 8 | u64::from(*byte));
        let _key_end: [u8; 4] = from.array().ok_or_else(cut)?;
        let [flags] = from.array().ok_or_else(cut)?;
        if flags >> 4 != FORMAT_VERSION {
            return Err(unknown_format(flags >> 4));
        }
        let hash = from.array().ok_or_else(cut)?;
        let [key_len] = from.array().ok_or_else(cut)?;
        let meta_len = from.u32().ok_or_else(cut)? as usize;
        let key = from.text(usize::from(key_len)).ok_or("key")?;
        let meta = from.take(meta_len).and_then(Meta::read).ok_or("headers")?;
        let payload = whole.slice_ref(from.0);
        Ok(Self {
            created_ms,
            want_result: flags & WANT_RESULT != 0,
            hash,
            key: (flags & HAS_KEY != 0).then_some(key),
            meta,
            payload,
        })
    }
}

struct Head {
    version: u8,
    state: u8,
    lane: u8,
    reason: u8,
    outcome: u8,
    attempts: u32,
    losses: u32,
    releases: u32,
    numbers: [u64; 7],
    ids: [Uuid; 3],
    error_len: usize,
}

impl Head {
    /// Of a job that has none.
    fn first() -> Self {
        Self {
            version: FORMAT_VERSION,
            state: JobState::Ready.code(),
            lane: Lane::First as u8,
            reason: 0,
            outcome: 0,
            attempts: 0,
            losses: 0,
            releases: 0,
            numbers: [0; 7],
            ids: [Uuid::nil(); 3],
            error_len: 0,
        }
    }

    fn read(from: &mut Reader<'_>) -> Option<Self> {
        let [version, state, lane, _flags, reason, outcome] = from.array()?;
        let (attempts, losses, releases) = (from.u32()?, from.u32()?, from.u32()?);
        let mut numbers = [0; 7];
        for n in &mut numbers {
            *n = u64::from_be_bytes(from.array()?);
        }
        let _key_end = from.u32()?;
        let ids = [from.array()?, from.array()?, from.array()?].map(Uuid::from_bytes);
        let error_len = from.u32()? as usize;
        Some(Self {
            version,
            state,
            lane,
            reason,
            outcome,
            attempts,
            losses,
            releases,
            numbers,
            ids,
            error_len,
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
