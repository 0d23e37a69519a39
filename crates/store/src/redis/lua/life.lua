-- What one operation does to one job: the same as lifecycle.rs, function by function.

-- Lua takes 200 locals a function, and the parts of this library are one: what only this part uses is in a block.
local O_SUCCEEDED = 1
local jitter, past_deadline, make_ready, leased, settled, lost
local returned, loss_taken_back, cancelled, expired, redriven
do

local ATTEMPTS_EXHAUSTED, FAILED, INVALID, LEASE_LOST, PARKED_TOO_LONG = 1, 2, 3, 4, 5
local O_RETRY, O_FAILED, O_INVALID, O_RELEASED, O_THROTTLED = 2, 3, 4, 5, 6
local RELEASES_FREE, RELEASE_WAIT_MS = 2, 1000
local THROTTLE_WAIT_MS_MIN = 500
local LOSSES_MAX, LOSS_BYTES = 3, 24

function jitter(seed, fence, id)
  local m = 2147483647
  local a, b, c = byte(id, 14, 16)
  return math.fmod(seed + math.fmod(fence, m) * 16807 + (a * 65536 + b * 256 + c) * 48271, m) / m
end

-- The wait before try n + 1: random * min(max, base * 2^(n-1)), floored.
local function backoff(n, random)
  local base = policy.backoff_base_ms
  if base == 0 then return 0 end
  local ceiling = min(policy.backoff_max_ms, base * 2 ^ max(n - 1, 0))
  return min(floor(ceiling * min(max(random, 0), 1)), ceiling)
end

local function raise_fence(job)
  job[FENCE] = max(job[FENCE] + 1, NOW)
end

function past_deadline(job)
  return job[DEADLINE] ~= 0 and NOW >= job[DEADLINE]
end

local function finish(job, state, why)
  job[STATE], job[REASON], job[FINISHED] = state, why, NOW
end

function make_ready(job)
  job[STATE], job[DUE] = READY, NOW
  job[LANE] = (job[ATTEMPTS] + job[LOSSES] > 0) and 1 or 0
end

local function wait(job, delay)
  if past_deadline(job) then return finish(job, EXPIRED, 0) end
  if delay > 0 then
    job[STATE], job[DUE] = SCHEDULED, NOW + delay
  else
    make_ready(job)
  end
end

local function park(job, delay)
  raise_fence(job)
  local ran = job[RAN] == 0 and created(job) or job[RAN]
  if NOW - ran > policy.max_park_ms then return finish(job, DEAD, PARKED_TOO_LONG) end
  wait(job, delay)
end

function leased(job, session, incarnation, until_ms)
  raise_fence(job)
  job[STATE], job[SESSION], job[INCARNATION], job.until_ms = RUNNING, session, incarnation, until_ms
end

local function tried(job, after, random)
  job[RAN] = NOW
  if job[ATTEMPTS] >= policy.max_attempts then return finish(job, DEAD, ATTEMPTS_EXHAUSTED) end
  wait(job, after > 0 and after or backoff(job[ATTEMPTS], random))
end

-- The holder's outcome; `text` is the result of a success, else the error.
function settled(job, outcome, after, random, text)
  job[SETTLED], job[OUTCOME] = job[FENCE], outcome
  if outcome ~= O_RELEASED then
    job.error = outcome == O_SUCCEEDED and '' or text
    job[RELEASES] = 0
  end
  if outcome < O_RELEASED then job[ATTEMPTS] = job[ATTEMPTS] + 1 end
  if outcome == O_SUCCEEDED then
    job.result = text
    finish(job, SUCCEEDED, 0)
  elseif outcome == O_RETRY then
    tried(job, after, random)
  elseif outcome == O_FAILED then
    finish(job, DEAD, FAILED)
  elseif outcome == O_INVALID then
    finish(job, DEAD, INVALID)
  elseif outcome == O_RELEASED then
    job[RELEASES] = job[RELEASES] + 1
    park(job, job[RELEASES] > RELEASES_FREE and RELEASE_WAIT_MS or 0)
  else
    park(job, max(after, THROTTLE_WAIT_MS_MIN) + floor(random * policy.backoff_base_ms))
  end
end

function lost(job, random)
  job[BLAMED], job[LOSSES], job[RAN] = job[INCARNATION], job[LOSSES] + 1, NOW
  -- Who and when: where a success has its result.
  job.result = result_of(job) .. spack('>I8c16', NOW, job[INCARNATION])
  raise_fence(job)
  local losses = job[LOSSES]
  if losses >= LOSSES_MAX then
    job.error = 'the lease was lost ' .. losses .. ' times: the worker process died while it ran this job'
    return finish(job, DEAD, LEASE_LOST)
  end
  wait(job, losses == 1 and 0 or backoff(losses - 1, random))
end

function returned(job)
  raise_fence(job)
  wait(job, 0)
end

function loss_taken_back(job)
  job[LOSSES], job[BLAMED] = job[LOSSES] - 1, NOBODY
  job.result = sub(result_of(job), 1, -LOSS_BYTES - 1)
end

function cancelled(job)
  raise_fence(job)
  finish(job, CANCELLED, 0)
end

function expired(job)
  finish(job, EXPIRED, 0)
end

function redriven(job)
  raise_fence(job)
  job[ATTEMPTS], job[LOSSES], job[BLAMED], job[RELEASES] = 0, 0, NOBODY, 0
  job[FINISHED], job[RAN], job[REASON], job.result = 0, NOW, 0, ''
  if past_deadline(job) then job[DEADLINE] = 0 end
  make_ready(job)
end

end
