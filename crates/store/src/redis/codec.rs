//! One item into arguments of an operation, and one answer out of its reply.

use tidegate_protocol::domain::{
    Job, JobId, JobState, NewJob, Outcome, Policy, QueueName, SettleResult, Settlement, SubmitOutcome,
    Submitted,
};
use uuid::Uuid;

use super::{
    blob,
    calls::{Call, id, lease_member},
    keys,
    reply::Reply,
};
use crate::{
    ActionAnswer, Grant, Grants, JobPage, LeaseRequest, RenewAnswer, SettleItem, StoreError, StoreResult,
    SweepReport,
};

pub(super) fn corrupt(what: &str) -> StoreError {
    StoreError::Corrupt(format!("an operation answered {what}"))
}

pub(super) fn state(code: u64) -> StoreResult<JobState> {
    u8::try_from(code)
        .ok()
        .and_then(JobState::from_code)
        .ok_or_else(|| corrupt(&format!("the unknown state {code}")))
}

/// What [`put_job`] makes of one.
pub(super) const ARGUMENTS_PER_JOB: usize = 3;

pub(super) fn put_job(call: &mut Call, new: &NewJob) {
    let mut entry = Vec::with_capacity(64);
    entry.extend_from_slice(new.id.local.as_bytes());
    entry.extend_from_slice(&new.payload_hash);
    let times = [
        new.run_at_ms,
        new.delay_ms,
        new.deadline_ms,
        new.deadline_after_ms,
    ];
    if times != [0; 4] {
        times
            .iter()
            .for_each(|ms| entry.extend_from_slice(&blob::number(*ms).to_be_bytes()));
    }
    let mut body = Vec::with_capacity(64 + new.payload.len());
    blob::put_body(&mut body, new);
    call.bytes(&entry).bytes(&body);
    match (&new.idempotency_key, &new.request_id) {
        (Some(key), _) => call.bytes(key.as_bytes()),
        (None, Some(id)) => call.bytes(&request_name(id)),
        (None, None) => call.bytes(b""),
    };
}

/// A request id as it is kept. Nearly all are UUIDs, of which one is kept for each submit for minutes: as 16 bytes. No other
/// text has that length then.
fn request_name(id: &str) -> Vec<u8> {
    const UUID_BYTES: usize = 16;
    let canonical = |uuid: &Uuid| uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer()) == id;
    match Uuid::try_parse(id).ok().filter(canonical) {
        Some(uuid) => uuid.as_bytes().to_vec(),
        None if id.len() + 1 == UUID_BYTES => [b"u", id.as_bytes(), b"."].concat(),
        None => [b"t", id.as_bytes()].concat(),
    }
}

/// The answers to one piece of a submit.
pub(super) fn all_submitted(
    queue: &QueueName,
    jobs: &[&NewJob],
    reply: Reply,
) -> StoreResult<Vec<StoreResult<Submitted>>> {
    if !reply.is_text() {
        let answers = reply.list()?.into_iter().zip(jobs);
        return answers
            .map(|(answer, job)| submitted(queue, job, answer))
            .collect();
    }
    let states = reply.bytes()?;
    let created = states
        .iter()
        .zip(jobs)
        .map(|(code, job)| created(job, u64::from(*code)));
    created.map(|answer| answer.map(Ok)).collect()
}

fn created(job: &NewJob, code: u64) -> StoreResult<Submitted> {
    Ok(Submitted {
        id: job.id.clone(),
        outcome: SubmitOutcome::Created,
        state: Some(state(code)?),
        result: None,
        result_expired: false,
    })
}

fn submitted(queue: &QueueName, job: &NewJob, reply: Reply) -> StoreResult<StoreResult<Submitted>> {
    if let Ok(code) = reply.number() {
        return created(job, code).map(Ok);
    }
    let mut values = reply.list()?.into_iter();
    let mut next = || values.next().ok_or_else(|| corrupt("too few values"));
    Ok(match next()?.number()? {
        2 => {
            let (local, code, kept) = (next()?.uuid()?, next()?.number()?, next()?.number()? == 1);
            let state = if code == 0 { None } else { Some(state(code)?) };
            let result = values
                .next()
                .filter(|result| !result.is_nil())
                .map(Reply::bytes)
                .transpose()?;
            let (id, result) = (id(queue, local), result.map(Into::into));
            Ok(Submitted {
                id,
                outcome: SubmitOutcome::Duplicate,
                state,
                result,
                result_expired: !kept,
            })
        }
        3 => Err(StoreError::QueueFull {
            depth: next()?.number()?,
            max: next()?.number()?,
        }),
        4 => Err(StoreError::KeysFull {
            max: next()?.number()?,
        }),
        _ => Err(StoreError::KeyReused {
            id: id(queue, next()?.uuid()?),
        }),
    })
}

pub(super) fn put_settlement(call: &mut Call, item: &SettleItem) {
    let Settlement { outcome, lease, .. } = &item.settlement;
    let member = lease_member(lease);
    let text = match outcome {
        // What most of them say needs no words.
        Outcome::Succeeded { result } if result.is_empty() => {
            call.bytes(&member);
            return;
        }
        Outcome::Succeeded { result } => result,
        other => other.error().as_bytes(),
    };
    let after_ms = match outcome {
        Outcome::Retry { after_ms, .. } | Outcome::Throttled { after_ms, .. } => *after_ms,
        _ => 0,
    };
    let numbers = [
        member.as_slice(),
        &[outcome.kind().code()],
        &blob::number(after_ms).to_be_bytes(),
        &item.random.to_be_bytes(),
        text,
    ];
    call.bytes(&numbers.concat());
}

pub(super) fn settled(code: u64) -> StoreResult<SettleResult> {
    Ok(match code {
        0 => SettleResult::NotFound,
        1..10 => SettleResult::Recorded(state(code)?),
        _ => SettleResult::Stale(state(code - 10)?),
    })
}

/// `unreadable` gets those that were granted and cannot be read.
pub(super) fn grants(
    request: &LeaseRequest,
    reply: Reply,
    policy: impl FnOnce(Reply) -> StoreResult<Policy>,
    unreadable: &mut Vec<JobId>,
) -> StoreResult<Grants> {
    let mut values = reply.list()?.into_iter();
    let mut next = || values.next().ok_or_else(|| corrupt("too few values"));
    let (unmet, clock_ms, json) = (next()?.number()? == 1, next()?.number()?, next()?);
    let policy = policy(json)?;
    let (order, ids, heads) = (next()?.bytes()?, next()?.bytes()?, next()?.number()?);
    let heads = (0..heads)
        .map(|_| next()?.bytes())
        .collect::<StoreResult<Vec<_>>>()?;
    let (places, ids) = (order.chunks_exact(4), ids.chunks_exact(size_of::<Uuid>()));
    let mut grants = Vec::with_capacity(places.len());
    for (place, local) in places.zip(ids) {
        let number = |at: usize| usize::from(u16::from_be_bytes([place[at], place[at + 1]]));
        let local = Uuid::from_slice(local).map_err(|_| corrupt("an id of another size"))?;
        let want = request
            .wants
            .get(number(0))
            .ok_or_else(|| corrupt("a want that nobody asked for"))?;
        let head = heads.get(number(2)).ok_or_else(|| corrupt("too few heads"))?;
        let (id, body) = (id(&request.queue, local), next()?.bytes()?);
        let until_ms = clock_ms + policy.lease_ttl_ms;
        match blob::decode(id.clone(), head, body.into(), until_ms) {
            Ok(job) => grants.push(Grant {
                job,
                session: want.session,
            }),
            Err(_) => unreadable.push(id),
        }
    }
    Ok(Grants {
        grants,
        policy,
        unmet,
        clock_ms,
    })
}

/// Answers that are small numbers, a byte an item.
pub(super) fn each_byte<R>(
    reply: Reply,
    read: impl Fn(u64) -> StoreResult<R>,
) -> StoreResult<Vec<StoreResult<R>>> {
    Ok(reply
        .bytes()?
        .into_iter()
        .map(|code| read(u64::from(code)))
        .collect())
}

/// Of `n` leases.
pub(super) fn renewed(n: usize, reply: Reply) -> StoreResult<Vec<StoreResult<RenewAnswer>>> {
    let mut answers = reply.list()?.into_iter();
    let until_ms = answers.next().ok_or_else(|| corrupt("nothing"))?.number()?;
    if answers.len() == 0 {
        return Ok((0..n).map(|_| Ok(RenewAnswer::Held { until_ms })).collect());
    }
    let answer = |code: Reply| {
        Ok(Ok(match code.number()? {
            1 => RenewAnswer::Held { until_ms },
            2 => RenewAnswer::Lost,
            _ => RenewAnswer::Cancelled,
        }))
    };
    answers.map(answer).collect()
}

pub(super) fn acted(queue: &QueueName, reply: Reply) -> StoreResult<ActionAnswer> {
    let mut values = reply.list()?.into_iter();
    let mut next = || values.next().ok_or_else(|| corrupt("too few values"));
    Ok(match next()?.number()? {
        0 => ActionAnswer::NotFound,
        1 => match next()?.number()? {
            0 => ActionAnswer::Done(None),
            code => ActionAnswer::Done(Some(state(code)?)),
        },
        2 => ActionAnswer::WrongState(state(next()?.number()?)?),
        _ => ActionAnswer::KeyTaken(id(queue, next()?.uuid()?)),
    })
}

pub(super) fn got(ids: &[&JobId], reply: Reply) -> StoreResult<Vec<StoreResult<Option<Job>>>> {
    let mut values = reply.list()?.into_iter();
    let mut jobs = Vec::new();
    for id in ids {
        let (Some(head), Some(body), Some(until)) = (values.next(), values.next(), values.next()) else {
            return Err(corrupt("too few values"));
        };
        // An id of another shard is another job's.
        let kept = !(head.is_nil() && body.is_nil()) && id.shard == keys::SHARD;
        jobs.push(if kept {
            let [head, body] = [head, body].map(|part| match part.is_nil() {
                true => Ok(Vec::new()),
                false => part.bytes(),
            });
            blob::decode((*id).clone(), &head?, body?.into(), until.number()?).map(Some)
        } else {
            Ok(None)
        });
    }
    Ok(jobs)
}

/// `A:B`, as made by [`page`].
pub(super) fn place(cursor: Option<&str>) -> StoreResult<(u64, u64)> {
    let Some(cursor) = cursor else { return Ok((0, 0)) };
    let parse = || {
        cursor
            .split_once(':')
            .and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)))
    };
    let number = |n: &u64| *n == blob::number(*n);
    parse()
        .filter(|(a, b)| number(a) && number(b))
        .ok_or_else(|| StoreError::Invalid("unknown page token".to_owned()))
}

/// A page, and those of it that cannot be read.
pub(super) fn page(queue: &QueueName, reply: Reply) -> StoreResult<(JobPage, Vec<JobId>)> {
    let mut values = reply.list()?.into_iter();
    let mut next = || values.next().ok_or_else(|| corrupt("too few values"));
    let (more, first, second) = (next()?.number()? == 1, next()?.number()?, next()?.number()?);
    let (mut jobs, mut unreadable) = (Vec::new(), Vec::new());
    while let (Some(local), Some(head), Some(body), Some(until)) =
        (values.next(), values.next(), values.next(), values.next())
    {
        let id = id(queue, local.uuid()?);
        match blob::decode(id.clone(), &head.bytes()?, body.bytes()?.into(), until.number()?) {
            Ok(job) => jobs.push(job),
            Err(_) => unreadable.push(id),
        }
    }
    let next = more.then(|| format!("{first}:{second}"));
    Ok((JobPage { jobs, next }, unreadable))
}

pub(super) fn swept(reply: Reply) -> StoreResult<SweepReport> {
    let numbers: [Reply; 7] = reply.fixed()?;
    let numbers = numbers
        .iter()
        .map(Reply::number)
        .collect::<StoreResult<Vec<_>>>()?;
    let n = |i: usize| u32::try_from(numbers[i]).unwrap_or(u32::MAX);
    Ok(SweepReport {
        promoted: n(0),
        reclaimed: n(1),
        ghosts: n(2),
        expired: n(3),
        trimmed: n(4),
        keys_forgotten: n(5),
        more: n(6) == 1,
    })
}
