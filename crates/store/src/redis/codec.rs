//! One item into arguments of an operation, and one answer out of its reply.

use tidegate_protocol::domain::{
    Job, JobId, JobState, LeaseRef, NewJob, Outcome, QueueName, SettleResult, SubmitOutcome, Submitted,
};

use super::{
    blob,
    calls::{Args, id},
    keys, policy,
    reply::Reply,
};
use crate::{
    ActionAnswer, Grant, Grants, JobPage, LeaseRequest, RenewAnswer, SettleItem, StoreError, StoreResult,
    SweepReport, lifecycle,
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

/// Its blob in two parts: the times between them are filled in by the store.
pub(super) fn put_job(args: &mut Args, new: &NewJob) {
    let bare = NewJob {
        delay_ms: 0,
        deadline_after_ms: 0,
        ..new.clone()
    };
    let blob = blob::encode(&lifecycle::submitted(bare, 0));
    let special = new.run_at_ms > 0 || new.delay_ms > 0 || new.deadline_ms > 0 || new.deadline_after_ms > 0;
    let (keyed, name) = match (&new.idempotency_key, &new.request_id) {
        (Some(key), _) => (true, key.as_str()),
        (None, request_id) => (false, request_id.as_deref().unwrap_or_default()),
    };
    let extra = [
        &[u8::from(special)][..],
        &blob::number(new.run_at_ms).to_be_bytes(),
        &blob::number(new.delay_ms).to_be_bytes(),
        &blob::number(new.deadline_after_ms).to_be_bytes(),
        &new.payload_hash,
        &[u8::from(keyed)],
        &keys::part(name).to_be_bytes(),
        name.as_bytes(),
    ];
    let (head, tail) = (&blob[..blob::TIMES.start], &blob[blob::TIMES.end..]);
    args.id(&new.id).bytes(head).bytes(tail).bytes(extra.concat());
}

pub(super) fn submitted(
    queue: &QueueName,
    job: &NewJob,
    reply: Reply,
) -> StoreResult<StoreResult<Submitted>> {
    let mut values = reply.list()?.into_iter();
    let mut next = || values.next().ok_or_else(|| corrupt("too few values"));
    let created = |state| Submitted {
        id: job.id.clone(),
        outcome: SubmitOutcome::Created,
        state: Some(state),
        result: None,
        result_expired: false,
    };
    Ok(match next()?.number()? {
        1 => Ok(created(state(next()?.number()?)?)),
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

pub(super) fn put_settlement(args: &mut Args, item: &SettleItem) {
    let (outcome, LeaseRef { id, fence }) = (&item.settlement.outcome, &item.settlement.lease);
    let after_ms = match outcome {
        Outcome::Retry { after_ms, .. } | Outcome::Throttled { after_ms, .. } => *after_ms,
        _ => 0,
    };
    let text = match outcome {
        Outcome::Succeeded { result } => result.to_vec(),
        other => other.error().as_bytes().to_vec(),
    };
    let numbers = [
        id.local.as_bytes().as_slice(),
        &blob::number(*fence).to_be_bytes(),
        &[outcome.kind().code()],
        &blob::number(after_ms).to_be_bytes(),
        &item.random.to_be_bytes(),
    ];
    args.bytes(numbers.concat()).bytes(text);
}

pub(super) fn settled(code: u64) -> StoreResult<SettleResult> {
    Ok(match code {
        0 => SettleResult::NotFound,
        1..10 => SettleResult::Recorded(state(code)?),
        _ => SettleResult::Stale(state(code - 10)?),
    })
}

pub(super) fn grants(request: &LeaseRequest, reply: Reply) -> StoreResult<Grants> {
    let mut values = reply.list()?.into_iter();
    let mut next = || values.next().ok_or_else(|| corrupt("too few values"));
    let (unmet, clock_ms, json) = (next()?.number()? == 1, next()?.number()?, next()?);
    let policy = if json.is_nil() {
        policy::parse(b"")?
    } else {
        policy::parse(&json.bytes()?)?
    };
    let mut grants = Vec::new();
    while let Some(index) = values.next() {
        let (Some(local), Some(bytes)) = (values.next(), values.next()) else {
            return Err(corrupt("too few values"));
        };
        let want = request
            .wants
            .get(index.number()? as usize)
            .ok_or_else(|| corrupt("a want that nobody asked for"))?;
        let job = blob::decode(
            id(&request.queue, local.uuid()?),
            bytes.bytes()?,
            clock_ms + policy.lease_ttl_ms,
        )?;
        grants.push(Grant {
            job,
            session: want.session,
        });
    }
    Ok(Grants {
        grants,
        policy,
        unmet,
        clock_ms,
    })
}

/// Answers that are numbers, one an item.
pub(super) fn each_number<R>(
    reply: Reply,
    read: impl Fn(u64) -> StoreResult<R>,
) -> StoreResult<Vec<StoreResult<R>>> {
    reply
        .list()?
        .into_iter()
        .map(|answer| Ok(read(answer.number()?)))
        .collect()
}

pub(super) fn renewed(reply: Reply) -> StoreResult<Vec<StoreResult<RenewAnswer>>> {
    let mut answers = reply.list()?.into_iter();
    let until_ms = answers.next().ok_or_else(|| corrupt("nothing"))?.number()?;
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
        let (Some(bytes), Some(until)) = (values.next(), values.next()) else {
            return Err(corrupt("too few values"));
        };
        // An id of another shard is another job's.
        let kept = !bytes.is_nil() && id.shard == keys::SHARD;
        jobs.push(if kept {
            blob::decode((*id).clone(), bytes.bytes()?, until.number()?).map(Some)
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

pub(super) fn page(queue: &QueueName, reply: Reply) -> StoreResult<JobPage> {
    let mut values = reply.list()?.into_iter();
    let mut next = || values.next().ok_or_else(|| corrupt("too few values"));
    let (more, first, second) = (next()?.number()? == 1, next()?.number()?, next()?.number()?);
    let mut jobs = Vec::new();
    while let (Some(local), Some(bytes), Some(until)) = (values.next(), values.next(), values.next()) {
        jobs.push(blob::decode_summary(
            id(queue, local.uuid()?),
            bytes.bytes()?,
            until.number()?,
        )?);
    }
    Ok(JobPage {
        jobs,
        next: more.then(|| format!("{first}:{second}")),
    })
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
