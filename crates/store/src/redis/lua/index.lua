-- The indexes over jobs. Every change of a job goes through change(), which moves the job between the indexes by what it
-- was before and after, so that counters and sets cannot drift from the jobs.

local function unindex(job)
  local state, id = job[STATE], job.id
  bump(STATE_NAME[state], -1)
  if state >= SUCCEEDED then return end
  if job[BLAMED] ~= NOBODY then put(blamed_set(job[BLAMED]), id, false) end
  if state == RUNNING then
    put(session_set(job[SESSION]), slot(id, job[FENCE]), false)
    return
  end
  if job[DEADLINE] ~= 0 then put(DEADLINES, id, false) end
  if state == SCHEDULED then
    put(SCHEDULED_SET, id, false)
  elseif job[LANE] == 1 then
    -- Its entry in the ready list is stale from now on; whoever meets it drops it.
    bump('ready_retries', -1)
  end
end

-- A running job's `until_ms`, a text, says until when; without it the lease's end stays as it is.
local function index(job)
  local state, id = job[STATE], job.id
  bump(STATE_NAME[state], 1)
  if state >= SUCCEEDED then return end
  if job[BLAMED] ~= NOBODY then put(blamed_set(job[BLAMED]), id, '0') end
  if state == RUNNING then
    local entry = slot(id, job[FENCE])
    if job.until_ms then put(LEASES[job[LANE]], entry, job.until_ms) end
    put(session_set(job[SESSION]), entry, '0')
    return
  end
  if job[DEADLINE] ~= 0 then put(DEADLINES, id, job[DEADLINE]) end
  if state == SCHEDULED then
    put(SCHEDULED_SET, id, job[DUE])
  else
    bump('seq', 1)
    job[SEQ] = count('seq')
    local list = pushed[job[LANE]]
    list[#list + 1] = slot(job.id, job[SEQ])
    if job[LANE] == 1 then bump('ready_retries', 1) end
    wake()
  end
end

-- The lease is nobody's from now on, but counts against the cap until it would have ended.
local function leave_ghost(lane, entry)
  local until_ms = (pending[LEASES[lane]] or {})[entry] or call('ZSCORE', LEASES[lane], entry)
  put(LEASES[lane], entry, false)
  put(GHOSTS[lane], entry, until_ms)
end

-- Takes a job out altogether; its slot, if it runs, stays as a ghost.
local function remove(job)
  unindex(job)
  if job[STATE] == RUNNING then leave_ghost(job[LANE], slot(job.id, job[FENCE])) end
  jobs[job.id], dirty[job.id] = false, nil
  gone[job.id] = true
end

-- Per terminal state: how many are kept, and the oldest of them in order (read ahead, `at` is the next).
local kept

local function kept_of(state)
  local set = kept[state]
  if not set then
    set = {n = call('ZCARD', HISTORY[state]), oldest = {}, at = 1, direct = false}
    kept[state] = set
  end
  return set
end

-- How many of the oldest are read ahead: an operation sets it to about what its batch can push out.
local ahead

reset_index = function()
  kept, ahead = {}, 1
end

-- The oldest of the kept ones, taken out. Those that this call has added end last, unless the clock stood still
-- since the oldest ended: then only the set itself knows the order.
local function pop_oldest(state)
  local key, set = HISTORY[state], kept_of(state)
  set.n = set.n - 1
  if not set.direct then
    if set.at > #set.oldest then
      flush_set(key)
      set.oldest, set.at = call('ZRANGE', key, 0, ahead - 1, 'WITHSCORES'), 1
    end
    local id, ended = set.oldest[set.at], tonumber(set.oldest[set.at + 1])
    if ended < NOW then
      set.at = set.at + 2
      put(key, id, false)
      return id
    end
    set.direct = true
  end
  flush_set(key)
  return call('ZPOPMIN', key)[1]
end

-- Drops the oldest beyond what is kept, at most `limit`; answers how many. They need not be read for that.
local function trim(state, limit)
  local set, trimmed = kept_of(state), 0
  while set.n > policy.keep_finished and trimmed < limit do
    local id = pop_oldest(state)
    bump(STATE_NAME[state], -1)
    jobs[id], dirty[id], gone[id] = false, nil, true
    trimmed = trimmed + 1
  end
  return trimmed
end

-- A job has just become terminal: its key gets a window, its kind a place in the history, and waiters are told.
local function finished(job)
  local state, id = job[STATE], job.id
  if state == SUCCEEDED or state == DEAD then bump(STATE_NAME[state] .. '_total', 1) end
  close_key(job, state)
  local wanted = job[FLAGS] % 2 == WANT_RESULT
  if wanted then done[#done + 1] = id end
  if state == DEAD then
    put(HISTORY[state], id, NOW_TEXT)
  elseif wanted then
    put(AWAITED[state], id, NOW_TEXT)
  else
    local set = kept_of(state)
    put(HISTORY[state], id, NOW_TEXT)
    set.n = set.n + 1
    trim(state, 1)
  end
end

-- Frees the slot of a ghost. True if there was one.
local function free_ghost(id, fence)
  local entry = slot(id, fence)
  local first = take(GHOSTS[0], entry)
  return take(GHOSTS[1], entry) or first
end

-- Applies `apply(job, ...)`. What happens to the slot of a lease that ends is the caller's to say: `keep_slot` leaves
-- it as a ghost.
local function change(job, keep_slot, apply, ...)
  local was_running, fence, lane = job[STATE] == RUNNING, job[FENCE], job[LANE]
  unindex(job)
  apply(job, ...)
  if was_running and (job[STATE] ~= RUNNING or job[FENCE] ~= fence) then
    if keep_slot then
      leave_ghost(lane, slot(job.id, fence))
    else
      put(LEASES[lane], slot(job.id, fence), false)
      wake()
    end
  end
  index(job)
  dirty[job.id], job.written = job, nil
  if job[STATE] >= SUCCEEDED then finished(job) end
end

local function holds(job, fence)
  return job and job[STATE] == RUNNING and job[FENCE] == fence
end
