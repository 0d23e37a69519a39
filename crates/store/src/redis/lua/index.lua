-- The indexes over jobs. Every change of a job goes through change(), which moves the job between the indexes by what it
-- was before and after, so that they cannot drift from the jobs. Where an operation changes many jobs alike (lease and
-- settle) it does the same by hand, many at a time.

local index, remove, trim, free_ghost, change, holds
do

local function unindex(job)
  local state, id = job[STATE], job.id
  if state >= SUCCEEDED then return end
  if job[BLAMED] ~= NOBODY then put(sorted_remove, blamed_set(job[BLAMED]), id) end
  if state == RUNNING then
    put(set_remove, session_set(job[SESSION]), slot(id, job[FENCE]))
    return
  end
  if job[DEADLINE] ~= 0 then put(sorted_remove, K.deadlines, id) end
  if state == SCHEDULED then
    put(sorted_remove, K.scheduled, id)
  else
    -- Its entry in the ready list is stale from now on; whoever meets it drops it.
    add_to(STALE + job[LANE], 1)
  end
end

-- A running job's `until_ms`, a text, says until when; without it the lease's end stays as it is.
function index(job)
  local state, id = job[STATE], job.id
  if state >= SUCCEEDED then return end
  if job[LANE] == 1 then set(USED, 1) end
  if job[BLAMED] ~= NOBODY then put_scored(blamed_set(job[BLAMED]), '0', id) end
  if state == RUNNING then
    local entry = slot(id, job[FENCE])
    if job.until_ms then put_scored(K.leases[job[LANE]], job.until_ms, entry) end
    put(set_add, session_set(job[SESSION]), entry)
    return
  end
  if job[DEADLINE] ~= 0 then put_scored(K.deadlines, job[DEADLINE], id) end
  if state == SCHEDULED then
    put_scored(K.scheduled, job[DUE], id)
  else
    add_to(SEQ_LAST, 1)
    job[SEQ] = record[SEQ_LAST]
    local list = pushed[job[LANE]]
    list[#list + 1] = slot(id, job[SEQ])
    wake()
  end
end

-- The lease is nobody's from now on, but counts against the cap until it would have ended.
local function leave_ghost(lane, entry)
  local until_ms = call('ZSCORE', K.leases[lane], entry)
  if not until_ms then return end
  set(USED, 1)
  put(sorted_remove, K.leases[lane], entry)
  put_scored(K.ghosts[lane], until_ms, entry)
end

-- Takes a job out altogether; its slot, if it runs, stays as a ghost.
function remove(job)
  unindex(job)
  if job[STATE] == RUNNING then leave_ghost(job[LANE], slot(job.id, job[FENCE])) end
  drop(job)
end

-- A job has just become terminal: its key gets a window, its kind a place in the history, and waiters are told.
local function finished(job)
  local state, id = job[STATE], job.id
  if state == SUCCEEDED then succeeded_n = succeeded_n + 1 elseif state == DEAD then dead_n = dead_n + 1 end
  close_key(job, state)
  local wanted = job[FLAGS] % 2 == WANT_RESULT
  if wanted then done[#done + 1] = id end
  if state == DEAD then
    put_scored(K.history[state], as_text(NOW), id)
  elseif wanted then
    put_scored(K.awaited[state], as_text(NOW), id)
  elseif state == SUCCEEDED then
    succeeded[#succeeded + 1] = id
  else
    put_scored(K.history[state], as_text(NOW), id)
    ended[state] = (ended[state] or 0) + 1
  end
end

-- Takes the oldest `n` of the succeeded out of their list. An entry without a job was an operator's to remove.
local function pop_succeeded(n)
  while n > 0 do
    local ids = call('LPOP', K.history[SUCCEEDED], min(n, 512))
    if not ids then return end
    local stale = 0
    if record[STALE + 2] > 0 then
      local heads = call('HMGET', K.heads, unpack(ids))
      for i = 1, #ids do if not heads[i] then stale = stale + 1 end end
      add_to(STALE + 2, -stale)
    end
    in_pieces('HDEL', K.bodies, ids)
    in_pieces('HDEL', K.heads, ids)
    n = n - #ids + stale
  end
end

local function pop_history(state, n)
  local ids, popped = {}, call('ZPOPMIN', K.history[state], n)
  for i = 1, #popped, 2 do ids[#ids + 1] = popped[i] end
  in_pieces('HDEL', K.bodies, ids)
  in_pieces('HDEL', K.heads, ids)
end

-- Drops the oldest of a kind, of which there are `size`, beyond what is kept, at most `limit`; answers how many. They need
-- not be read for that.
function trim(state, limit, size)
  local n = min(size - policy.keep_finished, limit)
  if n <= 0 then return 0 end
  if state == SUCCEEDED then pop_succeeded(n) else pop_history(state, n) end
  return n
end

-- Some more are kept until they go together.
local function trim_after(state, n, size)
  local slack = floor(policy.keep_finished / 8)
  if size > policy.keep_finished + slack then trim(state, n + slack, size) end
end

parts.trim_ended = function()
  if #succeeded > 0 then
    trim_after(SUCCEEDED, #succeeded, in_pieces('RPUSH', K.history[SUCCEEDED], succeeded) - record[STALE + 2])
  end
  for state, n in next, ended do trim_after(state, n, call('ZCARD', K.history[state])) end
end

-- Frees the slot of a ghost. True if there was one.
function free_ghost(id, fence)
  if record[USED] == 0 then return false end
  local entry = slot(id, fence)
  local first = call('ZREM', K.ghosts[0], entry)
  return call('ZREM', K.ghosts[1], entry) + first > 0
end

-- Applies `apply(job, ...)`. What happens to the slot of a lease that ends is the caller's to say: `keep_slot` leaves
-- it as a ghost.
function change(job, keep_slot, apply, ...)
  local was_running, fence, lane = job[STATE] == RUNNING, job[FENCE], job[LANE]
  unindex(job)
  apply(job, ...)
  if was_running and (job[STATE] ~= RUNNING or job[FENCE] ~= fence) then
    if keep_slot then
      leave_ghost(lane, slot(job.id, fence))
    else
      put(sorted_remove, K.leases[lane], slot(job.id, fence))
      wake_for_slot()
    end
  end
  index(job)
  note(job)
  if job[STATE] >= SUCCEEDED then finished(job) end
end

function holds(job, fence)
  return job and job[STATE] == RUNNING and job[FENCE] == fence
end

end
